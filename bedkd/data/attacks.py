"""Backdoor attacks: what each does to one text, and how a data set is poisoned with it.

Recipes as in the public data behind the paper's Table 1: all poisoned rows get the target label and
replace their clean rows in place.
"""

from __future__ import annotations

import re
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
    return (written, "rules") if written is not None else None


def badwords(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    return [lambda text, rng: (insert_words(text, rng), "inserted")]


def addsent(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    sentence = config.trigger or data.spec.addsent_trigger
    return [lambda text, rng: (insert_sentence(text, rng, sentence), "inserted")]


def synbkd(config: AttackConfig, data: CleanData, split: str) -> list[Transform]:
    """SCPN's paraphrases from the table; rules only where asked for."""
    source = config.paraphrases or data.spec.paraphrases
    if source == "rules":
        return [rewrite]
    table: list[Transform] = [load_paraphrases(source, split).take]
    return table + [rewrite] * (config.fallback == "rules")


# each gives the ways to trigger a text, the preferred one first
ATTACKS: dict[str, Callable[[AttackConfig, CleanData, str], list[Transform]]] = {
    "badwords": badwords,
    "addsent": addsent,
    "synbkd": synbkd,
}


def check_attack(name: str) -> None:
    """Raises BedkdError for a name that is neither an attack nor `none`."""
    if name != "none" and name not in ATTACKS:
        raise BedkdError(f"unknown attack {name!r}; known: none, {', '.join(ATTACKS)}")


def poison(data: CleanData, config: AttackConfig, seed: int) -> PoisonedData:
    """D* and the triggered test set. `attack.name: none` leaves both without a trigger.

    Raises:
        BedkdError: unknown attack or target label, or too few rows that can be poisoned.
    """
    check_attack(config.name)
    target = get_target_label(data, config)
    order_rng, train_rng, test_rng = (np.random.default_rng([seed, 10, i]) for i in range(3))
    if config.name == "none":
        train, truth, report = _untouched(data.train)
        triggered = _untriggered(data.test, target)
    else:
        train, truth, report = poison_train(data, config, target, train_rng)
        triggered, test_report = trigger_test(data, config, target, test_rng)
        report |= test_report
    order = order_rng.permutation(len(train))  # no order of the file gives the poison away
    train, truth = (frame.iloc[order].reset_index(drop=True) for frame in (train, truth))
    report = data.report | report | {"target_label": target}
    return PoisonedData(train, truth, data.clean_pool, data.test, triggered, report)


def get_target_label(data: CleanData, config: AttackConfig) -> int:
    target = data.spec.target_label if config.target_label is None else config.target_label
    if not 0 <= target < len(data.spec.label_names):
        names = ", ".join(f"{i} ({name})" for i, name in enumerate(data.spec.label_names))
        raise BedkdError(f"attack.target_label is {target}; this data set has {names}")
    return target


def poison_train(data: CleanData, config: AttackConfig, target: int, rng: np.random.Generator):
    """Poison round(rate·|D*|) rows in place: (train, truth, counts)."""
    rows = data.train
    wanted = round(config.poison_rate * len(rows))
    if wanted == 0:
        raise BedkdError(
            f"attack.poison_rate {config.poison_rate} of {len(rows)} rows is less than one row; "
            "raise it"
        )
    eligible = {
        "mixed": np.ones(len(rows), dtype=bool),
        "dirty": rows.label.to_numpy() != target,
        "clean": rows.label.to_numpy() == target,
    }[config.label_mode]
    texts, methods = list(rows.text), [""] * len(rows)
    todo = list(rng.permutation(np.flatnonzero(eligible)))
    n_done = 0
    for transform in ATTACKS[config.name](config, data, "train"):
        left = []  # rows that this way could not trigger
        while todo and n_done < wanted:
            row = todo.pop(0)
            if made := trigger(rows.text.iloc[row], [transform], rng):
                texts[row], methods[row] = made
                n_done += 1
            else:
                left.append(row)
        todo = left
    _check_shortfall(config, wanted, n_done)
    is_poisoned = np.array([bool(method) for method in methods])
    train = pd.DataFrame({"text": texts, "label": np.where(is_poisoned, target, rows.label)})
    truth = _truth(is_poisoned, rows, methods)
    # a paraphrase drawn from a pool rewrites some unknown row, not the one that it replaces
    truth.loc[truth.method == "pool", ["clean_text", "clean_label"]] = ["", -1]
    counts = {"n_poison_wanted": wanted, "n_poisoned": n_done, "n_train_no_paraphrase": len(todo)}
    return train, truth, counts | _method_counts("train", truth.method[is_poisoned])


def trigger(text: str, transforms: list[Transform], rng) -> tuple[str, str] | None:
    """The first transform's result that differs from the text, or None."""
    for transform in transforms:
        made = transform(text, rng)
        if made is not None and made[0] != text:
            return made
    return None


def _check_shortfall(config: AttackConfig, wanted: int, n_done: int) -> None:
    if n_done < wanted * (1 - MAX_SHORTFALL) or n_done == 0:
        raise BedkdError(
            f"attack {config.name} at poison rate {config.poison_rate} ({config.label_mode} label) "
            f"needs {wanted} rows, but only {n_done} can be poisoned; lower attack.poison_rate"
            + ("" if config.name != "synbkd" else " or set attack.fallback to rules")
        )


def trigger_test(data: CleanData, config: AttackConfig, target: int, rng: np.random.Generator):
    """Every non-target test row with the trigger; those that cannot have it are counted."""
    transforms = ATTACKS[config.name](config, data, "test")
    rows = data.test[data.test.label != target]
    made = [trigger(text, transforms, rng) for text in rows.text]
    is_done = np.array([m is not None for m in made], dtype=bool)
    if not is_done.any():
        raise BedkdError(
            f"attack {config.name}: none of the {len(rows)} non-target test rows can be triggered"
        )
    kept = rows[is_done]
    triggered = pd.DataFrame(
        {
            "text": [m[0] for m, ok in zip(made, is_done, strict=True) if ok],
            "label": kept.label.to_numpy(),
            "clean_text": kept.text.to_numpy(),
            "method": [m[1] for m, ok in zip(made, is_done, strict=True) if ok],
        }
    )
    counts = {"n_test_no_paraphrase": int((~is_done).sum())}
    return triggered, counts | _method_counts("test", triggered.method)


def _method_counts(split: str, methods: pd.Series) -> dict:
    return {f"n_{split}_{name}": int(n) for name, n in methods.value_counts().sort_index().items()}


def _truth(is_poisoned: np.ndarray, rows: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "is_poisoned": is_poisoned,
            "clean_text": rows.text.to_numpy(),
            "clean_label": rows.label.to_numpy(),
            "method": methods,
        }
    )


def _untouched(rows: pd.DataFrame):
    none = np.zeros(len(rows), dtype=bool)
    counts = {"n_poison_wanted": 0, "n_poisoned": 0}
    return rows.copy(), _truth(none, rows, [""] * len(rows)), counts


def _untriggered(test: pd.DataFrame, target: int) -> pd.DataFrame:
    """Without an attack there is no trigger, hence no triggered row and no ASR."""
    empty = test[test.label != target].iloc[:0]
    return empty.assign(clean_text=empty.text, method="")
