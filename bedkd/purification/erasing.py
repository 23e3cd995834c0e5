"""Erase what was found, and see on trusted rows what is left of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.core.errors import DivergenceError
from bedkd.evaluation.metrics import cacc, percent
from bedkd.method.akd import distill_clean_model
from bedkd.method.triggers import Candidate, insert
from bedkd.nn.classifier import Classifier
from bedkd.purification.detection import Detection

# AKD's rate differs from model to model as the DMM's does. The first that forgets the trigger and
# keeps the accuracy, both on trusted rows; else what comes nearest to it.
FORGOTTEN = 10.0  # points more trusted rows with the trigger have its label than without
KEPT = 2.0  # points of accuracy on trusted rows that may be lost


def erase(
    victim: Classifier, train: pd.DataFrame, found: Detection, rates: Sequence[float]
) -> tuple[Classifier, list[dict]]:
    """The clean model, and what each of AKD's rates that was tried came to: learning_rate, left
    (points, see FORGOTTEN; None without triggers), lost (points of accuracy), is_taken.

    Raises DivergenceError: with every rate.
    """
    tries, best = [], None
    rows, triggers = found.evidence.poison_few, found.evidence.triggers
    options = {"seed": found.config.seed, "triggers": triggers, "train_rows": train}
    for rate in rates:
        config = replace(found.config.akd, learning_rate=rate)
        try:
            student, _ = distill_clean_model(victim, found.few, rows, config, **options)
        except DivergenceError:
            if rate == rates[-1] and best is None:
                raise
            continue
        tries.append({"learning_rate": rate} | look_back(victim, student, found))
        if best is None or distance(tries[-1]) < distance(best[0]):
            best = tries[-1], student
        if not distance(best[0]):
            break
    return best[1], [tried | {"is_taken": tried is best[0]} for tried in tries]


def look_back(victim: Classifier, student: Classifier, found: Detection) -> dict:
    few, own = found.few, found.evidence.triggers
    before, after = (cacc(model.predict(list(few.text)), few.label) for model in (victim, student))
    left = None
    if own:
        plain, turned = (
            count_turned(student, few, triggers, found.label, found.config.seed)
            for triggers in ((), own)
        )
        left = (turned or 0.0) - (plain or 0.0)
    return {"left": left, "lost": before - after}


def distance(tried: dict) -> float:
    """0: forgotten and kept."""
    return max(0.0, (tried["left"] or 0.0) - FORGOTTEN) + max(0.0, tried["lost"] - KEPT)


def count_turned(
    model: Classifier, rows: pd.DataFrame, triggers: Sequence[Candidate], label: int, seed: int
) -> float | None:
    """Of rows (columns text, label) of other labels, those that the model gives `label` once one of
    the triggers is in them, in percent; None without such rows."""
    rng = np.random.default_rng([seed, 73])
    texts = list(rows[rows.label != label].text)
    if triggers:
        texts = [insert(text, triggers[rng.integers(len(triggers))], rng) for text in texts]
    return percent(model.predict(texts).argmax(axis=1) == label) if texts else None
