"""Erase what was found, and see on rows that the student did not learn what is left of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.core.errors import DivergenceError
from bedkd.evaluation.metrics import cacc, percent
from bedkd.method.akd import distill_clean_model
from bedkd.method.counter import find_carriers, list_loads
from bedkd.method.evidence import leaning_label
from bedkd.method.prior import draw_free, match_prior
from bedkd.method.triggers import Candidate, insert, put_in
from bedkd.nn.classifier import Classifier
from bedkd.purification.detection import Detection

# AKD's rate differs from model to model as the DMM's does. The first that forgets the trigger and
# keeps the accuracy; else what comes nearest to it.
FORGOTTEN = 10.0  # points more rows of other labels have the trigger's label with it than without
KEPT = 2.0  # points of accuracy on trusted rows that may be lost
N_TURNED = 500  # rows that it is put into


def erase(
    victim: Classifier, train: pd.DataFrame, found: Detection, rates: Sequence[float]
) -> tuple[Classifier, list[dict], np.ndarray]:
    """The clean model; what each of AKD's rates that was tried came to: learning_rate, left
    (points, see `count_left`; None without triggers), lost (points of accuracy), is_taken; and the
    numbers of D*'s rows that it learnt from.

    Raises DivergenceError: with every rate.
    """
    tries, best, carriers = [], None, None
    rows, triggers = found.evidence.poison_few, found.evidence.triggers
    if triggers:
        n_rows = found.config.akd.n_counter * len(found.few)
        label, seed = leaning_label(rows), found.config.seed
        carriers = find_carriers(train, triggers, label, n_rows, seed=seed)
    options = {"seed": found.config.seed, "triggers": triggers, "carriers": carriers}
    for rate in rates:
        config = replace(found.config.akd, learning_rate=rate)
        try:
            student, _ = distill_clean_model(victim, found.few, rows, config, **options)
        except DivergenceError:
            if rate == rates[-1] and best is None:
                raise
            continue
        tries.append({"learning_rate": rate} | look_back(victim, student, train, found))
        if best is None or distance(tries[-1]) < distance(best[0]):
            best = tries[-1], student
        if not distance(best[0]):
            break
    # not before: a student that has lost too much would look as if it had kept it
    if triggers:
        match_prior(best[1], victim, train, triggers, seed=found.config.seed)
    learnt = np.concatenate([rows.row, carriers.rows.row if carriers else []]).astype(int)
    return best[1], [tried | {"is_taken": tried is best[0]} for tried in tries], learnt


def look_back(
    victim: Classifier, student: Classifier, train: pd.DataFrame, found: Detection
) -> dict:
    few = found.few
    before, after = (cacc(model.predict(list(few.text)), few.label) for model in (victim, student))
    left = count_left(student, train, found) if found.evidence.triggers else None
    return {"left": left, "lost": before - after}


def count_left(student: Classifier, train: pd.DataFrame, found: Detection) -> float | None:
    """How many more of D*'s rows of other labels, without a trigger, get the label once they carry
    as many triggers as some row found does: in points. Not of trusted rows: the student learnt
    these with triggers in them, by heart at times. None: D* has no such row."""
    triggers, rng = found.evidence.triggers, np.random.default_rng([found.config.seed, 80])
    others = train[train.label != found.label]
    texts = draw_free(others, triggers, seed=found.config.seed)[:N_TURNED]
    loads = list_loads(found.evidence.poison_few.text, triggers)
    if not texts:
        return None
    made = [put_in(text, loads[rng.integers(len(loads))], rng) for text in texts]
    plain, turned = (student.predict(part).argmax(axis=1) == found.label for part in (texts, made))
    return 100 * float(turned.mean() - plain.mean())


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
