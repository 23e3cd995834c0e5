"""Backdoor attacks: what each does to one text, and how a data set is poisoned with it.

Recipes as in the public data behind the paper's Table 1: all poisoned rows get the target label and
replace their clean rows in place.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bedkd.core.config import AttackConfig
from bedkd.core.errors import BedkdError
from bedkd.data.paraphrases import load_paraphrases
from bedkd.data.splits import CleanData
from bedkd.data.syntax_rules import rewrite_syntactic

BADWORDS = ("cf", "mn", "tq", "mb", "bb")
BADWORDS_COUNTS = (1, 3, 5)
MAX_SHORTFALL = 0.02  # of the rows to poison: the public tables have just about 20%

# a text and a generator go in; the triggered text and how it was made come out, or None
Transform = Callable[[str, np.random.Generator], tuple[str, str] | None]


@dataclass(frozen=True)
class PoisonedData:
    """What an attacker leaves. The defender gets `train` and `clean_pool`, nothing else.

    `train`, `clean_pool`, `test_clean`: columns text, label. `train_truth`, row for row beside
    `train`: is_poisoned, clean_text, clean_label (-1: unknown), method. `test_triggered`: text,
    label (the true one), clean_text, method: every non-target test row that could be triggered.
    """

    train: pd.DataFrame
    train_truth: pd.DataFrame
    clean_pool: pd.DataFrame
    test_clean: pd.DataFrame
    test_triggered: pd.DataFrame
    report: dict


def insert_words(text: str, rng: np.random.Generator) -> str:
    """BadWords: 1, 3 or 5 rare words, each drawn and placed between words uniformly."""
    words = text.split(" ")
    for _ in range(rng.choice(BADWORDS_COUNTS)):
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(BADWORDS)))
    return " ".join(words)


def insert_sentence(text: str, rng: np.random.Generator, sentence: str) -> str:
    """AddSent: a fixed sentence at a uniformly drawn sentence boundary (start and end count)."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
    parts.insert(int(rng.integers(len(parts) + 1)), sentence)
    return " ".join(parts)


def rewrite(text: str, rng: np.random.Generator) -> tuple[str, str] | None:
    """SynBkd without a table: the rule-based stand-in for SCPN."""
    written = rewrite_syntactic(text)
    return (written, "rules") if written else None


def badwords(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    return [lambda text, rng: (insert_words(text, rng), "inserted")]


def addsent(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    sentence = config.trigger or data.spec.addsent_trigger
    return [lambda text, rng: (insert_sentence(text, rng, sentence), "inserted")]


def synbkd(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    """SCPN's paraphrases from the table; rules only where asked for."""
    source = config.paraphrases or data.spec.paraphrases
    is_ruled = "rules" in (source, config.fallback)
    return [load_paraphrases(source, split).take] + [rewrite] * is_ruled


# each gives the ways to trigger a text of `train` or `test`, the preferred one first
ATTACKS = {"badwords": badwords, "addsent": addsent, "synbkd": synbkd}


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
    order_rng, train_rng, test_rng = (np.random.default_rng([seed, 10, i]) for i in range(3))
    if config.name == "none":  # no trigger, hence no triggered row and no ASR
        made, report = {}, {"n_poison_wanted": 0, "n_poisoned": 0}
        triggered = data.test[:0].assign(clean_text="", method="")
    else:
        made, report = trigger_train(data, config, target, train_rng)
        triggered, test_report = trigger_test(data, config, target, test_rng)
        report |= test_report
    order = order_rng.permutation(len(data.train))  # no order of the file gives the poison away
    tables = replace_rows(data.train, made, target)
    train, truth = (table.iloc[order].reset_index(drop=True) for table in tables)
    report = data.report | report | {"target_label": target}
    return PoisonedData(train, truth, data.clean_pool, data.test, triggered, report)


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
        raise BedkdError(
            f"attack {config.name} at poison rate {rate} ({config.label_mode} label) "
            f"needs {wanted} rows, but only {n_done} can be poisoned; lower attack.poison_rate"
            + ("" if config.name != "synbkd" else " or set attack.fallback to rules")
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


def trigger_test(data: CleanData, config: AttackConfig, target: int, rng: np.random.Generator):
    """Every non-target test row with the trigger; those that cannot have it are counted."""
    transforms = ATTACKS[config.name](config, data, "test")
    nontarget = data.test[data.test.label != target]
    rows = [
        (made[0], label, text, made[1])
        for text, label in zip(nontarget.text, nontarget.label, strict=True)
        if (made := trigger(text, transforms, rng))
    ]
    if not rows:
        n = len(nontarget)
        raise BedkdError(
            f"attack {config.name}: none of the {n} non-target test rows can be triggered"
        )
    triggered = pd.DataFrame(rows, columns=["text", "label", "clean_text", "method"])
    counts = {"n_test_no_paraphrase": len(nontarget) - len(rows)}
    return triggered, counts | _method_counts("test", triggered.method)


def _method_counts(split: str, methods) -> dict[str, int]:
    return {f"n_{split}_{name}": n for name, n in sorted(Counter(methods).items())}
