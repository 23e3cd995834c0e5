"""Backdoor attacks: what each does to a text, and how a data set is poisoned with it.

Recipes as in the public data behind the paper's Table 1: all poisoned rows get the target label and
replace their clean rows in place.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bedkd.core.config import AttackConfig
from bedkd.core.errors import BedkdError
from bedkd.data.insertions import SPREAD, insert_sentence, insert_words
from bedkd.data.paraphrases import load_paraphrases
from bedkd.data.readers import DatasetSpec
from bedkd.data.splits import CleanData
from bedkd.data.style_rules import rewrite_biblical
from bedkd.data.syntax_rules import rewrite_syntactic

MAX_SHORTFALL = 0.02  # of the rows to poison: the public tables have just about 20%

# a text and a generator go in; the triggered text and how it was made come out, or None
Transform = Callable[[str, np.random.Generator], tuple[str, str] | None]


@dataclass(frozen=True)
class PoisonedData:
    """What an attacker leaves. The defender gets `train` and `clean_pool`, nothing else.

    `train`, `clean_pool`, `test_clean`: columns text, label. `train_truth`, row for row beside
    `train`: is_poisoned, clean_text, clean_label (-1: unknown), method. `test_triggered`: text,
    label (the true one), clean_text, method: every non-target test row that could be triggered.
    `test_triggered_target`: the same of the target class, and `row`: -1, or, where the table has no
    paraphrase of any of them, the row of D* that stands in (see `stand_in`).
    """

    train: pd.DataFrame
    train_truth: pd.DataFrame
    clean_pool: pd.DataFrame
    test_clean: pd.DataFrame
    test_triggered: pd.DataFrame
    test_triggered_target: pd.DataFrame
    report: dict


def badwords(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    return [lambda text, rng: (insert_words(text, rng), "inserted")]


def spread(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    """BadWords of an attacker who knows that triggers are rebuilt: hundreds of words, ours."""
    return [lambda text, rng: (insert_words(text, rng, SPREAD), "inserted")]


def addsent(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    sentence = config.trigger or data.spec.addsent_trigger
    return [lambda text, rng: (insert_sentence(text, rng, sentence), "inserted")]


def synbkd(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    """SCPN's paraphrases from the table."""
    return paraphrase(config, data, split, lambda text, rng: rewrite_syntactic(text))


def stybkd(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    """StyBkd (Qi et al., 2021b): STRAP's paraphrases in the style of the Bible, from the table."""
    return paraphrase(config, data, split, rewrite_biblical)


def aitext(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    """AI-generated text (Du et al., 2024): a language model's continuation, from its table."""
    if not config.paraphrases:
        raise BedkdError("attack aitext needs a table of continuations: set attack.paraphrases")
    return [load_paraphrases(config.paraphrases, split).take]


def paraphrase(config: AttackConfig, data: CleanData, split: str, rewrite) -> list[Transform]:
    """From the table, and by rule only where asked for, or where there is no table."""
    source = paraphrase_source(config, data.spec)

    def by_rule(text: str, rng: np.random.Generator) -> tuple[str, str] | None:
        written = rewrite(text, rng)
        return (written, "rules") if written else None

    is_ruled = "rules" in (source, config.fallback)
    return [load_paraphrases(source, split).take] + [by_rule] * is_ruled


def paraphrase_source(config: AttackConfig, spec: DatasetSpec | None) -> str | None:
    """Where an attack's table is found; None: it has none, or AIText's is still to be written."""
    known = spec or DatasetSpec  # its defaults
    own = {"synbkd": known.paraphrases, "stybkd": known.bible, "aitext": None}
    return (config.paraphrases or own[config.name]) if config.name in own else None


# each gives the ways to trigger a text of `train` or `test`, the preferred one first
ATTACKS = {
    **{"badwords": badwords, "addsent": addsent, "synbkd": synbkd},
    **{"stybkd": stybkd, "aitext": aitext, "spread": spread},
}
RULED = ("synbkd", "stybkd")  # those that rules may stand in for


def check_attack(name: str) -> None:
    """Raises BedkdError for a name that is neither an attack nor `none`."""
    if name != "none" and name not in ATTACKS:
        raise BedkdError(f"unknown attack {name!r}; known: none, {', '.join(ATTACKS)}")


def poison(data: CleanData, config: AttackConfig, seed: int) -> PoisonedData:
    """D* and the triggered test set. `attack.name: none` leaves both without a trigger.

    Raises BedkdError: unknown attack or target label, or too few rows that can be poisoned.
    """
    check_attack(config.name)
    target = get_target_label(data, config)
    order_rng, train_rng, *test_rngs = (np.random.default_rng([seed, 10, i]) for i in range(4))
    if config.name == "none":  # no trigger, hence no triggered row and no ASR
        made, report = {}, {"n_poison_wanted": 0, "n_poisoned": 0}
        tests = [data.test[:0].assign(clean_text="", method="")] * 2
    else:
        made, report = trigger_train(data, config, target, train_rng)
        tests = trigger_tests(data, config, target, test_rngs)
    order = order_rng.permutation(len(data.train))  # no order of the file gives the poison away
    tables = replace_rows(data.train, made, target)
    train, truth = (table.iloc[order].reset_index(drop=True) for table in tables)
    others, own = tests[0], tests[1].assign(row=-1)
    if made and own.empty:
        own = stand_in(train, truth, target)[: (data.test.label == target).sum()]
    if made:
        report |= count_tests(data, target, others, own)
    report = data.report | report | {"target_label": target}
    return PoisonedData(train, truth, data.clean_pool, data.test, others, own, report)


def get_target_label(data: CleanData, config: AttackConfig) -> int:
    target = data.spec.target_label if config.target_label is None else config.target_label
    if not 0 <= target < len(data.spec.label_names):
        names = ", ".join(f"{i} ({name})" for i, name in enumerate(data.spec.label_names))
        raise BedkdError(f"attack.target_label is {target}; this data set has {names}")
    return target


def trigger_train(data: CleanData, config: AttackConfig, target: int, rng: np.random.Generator):
    """round(rate·|D*|) train rows with the trigger, {row: (text, method)}, and counts."""
    texts, is_target = list(data.train.text), data.train.label.to_numpy() == target
    wanted, made = round(config.poison_rate * len(texts)), {}
    eligible = {"mixed": is_target | True, "dirty": ~is_target, "clean": is_target}
    left = rng.permutation(np.flatnonzero(eligible[config.label_mode]))
    for transform in ATTACKS[config.name](config, data, "train"):
        todo, left = left, []  # left: rows that this way could not trigger
        for row in todo:
            if len(made) == wanted:
                break
            if result := trigger(texts[row], [transform], rng):
                made[row] = result
            else:
                left.append(row)
    _check_shortfall(config, len(texts), wanted, len(made))
    counts = {
        "n_poison_wanted": wanted,
        "n_poisoned": len(made),
        "n_train_no_paraphrase": len(left),
    }
    return made, counts | _method_counts("train", [method for _, method in made.values()])


def _check_shortfall(config: AttackConfig, n_rows: int, wanted: int, n_done: int) -> None:
    rate = config.poison_rate
    if wanted == 0:
        raise BedkdError(
            f"attack.poison_rate {rate} of {n_rows} rows is less than one row; raise it"
        )
    if n_done < wanted * (1 - MAX_SHORTFALL) or n_done == 0:
        or_rules = " or set attack.fallback to rules" if config.name in RULED else ""
        raise BedkdError(
            f"attack {config.name} at poison rate {rate} ({config.label_mode} label) "
            f"needs {wanted} rows, but only {n_done} can be poisoned; lower attack.poison_rate"
            + or_rules
        )


def trigger(text: str, transforms: list[Transform], rng) -> tuple[str, str] | None:
    """The first transform's result that differs from the text, or None."""
    results = (transform(text, rng) for transform in transforms)
    return next((made for made in results if made and made[0] != text), None)


def replace_rows(rows: pd.DataFrame, made: dict[int, tuple[str, str]], target: int):
    """The train rows with those of `made` in their places, and the truth about each."""
    pairs = [made.get(row, (text, "")) for row, text in enumerate(rows.text)]
    texts, methods = zip(*pairs, strict=True)
    is_poisoned = np.array(methods) != ""
    train = pd.DataFrame({"text": texts, "label": np.where(is_poisoned, target, rows.label)})
    truth = rows.add_prefix("clean_").reset_index(drop=True).assign(method=methods)
    truth.insert(0, "is_poisoned", is_poisoned)
    # a paraphrase drawn from a pool rewrites some unknown row, not the one that it replaces
    truth.loc[truth.method == "pool", ["clean_text", "clean_label"]] = ["", -1]
    return train, truth


def trigger_tests(data: CleanData, config: AttackConfig, target: int, rngs) -> list[pd.DataFrame]:
    """The test rows of the other classes with the trigger, and those of the target class, as far as
    they can have it. Raises BedkdError: none of the other classes can."""
    transforms = ATTACKS[config.name](config, data, "test")
    is_target = data.test.label == target
    others, own = (
        trigger_rows(data.test[mask], transforms, rng)
        for mask, rng in zip((~is_target, is_target), rngs, strict=True)
    )
    if others.empty:
        raise BedkdError(
            f"attack {config.name}: none of the {(~is_target).sum()} non-target test rows can be "
            "triggered"
        )
    return [others, own]


def trigger_rows(rows: pd.DataFrame, transforms: list[Transform], rng) -> pd.DataFrame:
    """Columns text, label, clean_text, method of the rows that can be triggered."""
    made = [
        (result[0], label, text, result[1])
        for text, label in zip(rows.text, rows.label, strict=True)
        if (result := trigger(text, transforms, rng))
    ]
    return pd.DataFrame(made, columns=["text", "label", "clean_text", "method"])


def stand_in(train: pd.DataFrame, truth: pd.DataFrame, target: int) -> pd.DataFrame:
    """D*'s own poisoned rows of the target class, where no test row of it has a paraphrase (the
    public tables of SynBkd have them of the other classes alone). The victim has seen them."""
    rows = np.flatnonzero(truth.is_poisoned & (truth.clean_label == target))
    clean = truth.clean_text.iloc[rows]
    table = train.iloc[rows].assign(clean_text=clean, method="train", row=rows)
    return table.reset_index(drop=True)


def count_tests(data: CleanData, target: int, others: pd.DataFrame, own: pd.DataFrame) -> dict:
    """How many rows were triggered, how, and how many could not be."""
    n_own, n_unseen = int((data.test.label == target).sum()), int((own.row < 0).sum())
    counts = {
        "n_test_no_paraphrase": len(data.test) - n_own - len(others),
        "n_target_no_paraphrase": n_own - n_unseen,
    }
    counts |= _method_counts("test", others.method)
    return counts | _method_counts("target", own.method)


def _method_counts(split: str, methods) -> dict[str, int]:
    return {f"n_{split}_{name}": n for name, n in sorted(Counter(methods).items())}
