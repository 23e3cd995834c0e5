"""Watchers for the training loop: they read the truth, add numbers to a history, steer nothing.

What they read costs at most READING_SHARE of the training.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.method.mepd import mepd
from bedkd.nn.classifier import Classifier

N_WATCHED = 128  # rows of each kind, at most, whose MEPD is followed while the DMM trains
READING_SHARE = 0.1  # of a training's time
TRAINING_COST = 3  # of a row, forward and backward, in forward passes: the optimizer comes on top


class Watched:
    """A watcher whose own time is kept, since a defender would not spend it."""

    def __init__(self, watch: Callable[[dict, object], dict]):
        self.watch, self.seconds = watch, 0.0

    def __call__(self, row: dict, model) -> dict:
        started = time.perf_counter()
        numbers = self.watch(row, model)
        self.seconds += time.perf_counter() - started
        return numbers


def watch_mepd(view: DefenderView, truth: Truth, seed: int, n_trained: int):
    """Mean MEPD of some clean and some poisoned rows of D*, epoch by epoch.

    `n_trained`: rows of an epoch, which say how many may be read.
    """
    n = min(N_WATCHED, max(1, int(READING_SHARE * TRAINING_COST * n_trained / 2)))
    is_poisoned = truth.train.is_poisoned.to_numpy()
    rng = np.random.default_rng([seed, 40])
    watched = {}
    for name, value in (("mepd_clean", False), ("mepd_poisoned", True)):
        if len(rows := rng.permutation(np.flatnonzero(is_poisoned == value))[:n]):
            texts = view.train.text.iloc[rows]
            watched[name] = view.victim_probabilities[rows], view.victim.encode(texts)

    def watch(row: dict, model) -> dict:
        student = replace(view.victim, model=model)
        return {
            name: float(mepd(before, student.predict_encoded(encoded)).mean())
            for name, (before, encoded) in watched.items()
        }

    return watch


def reading_interval(truth: Truth, trained: Sequence[pd.DataFrame], at_least: int | None) -> int:
    """Cycles between two readings of the tests: so many that they cost READING_SHARE at most.

    trained: the tables of rows that a cycle passes over; `at_least` so many cycles. Rows are
    counted, not seconds, so that the same run is read at the same cycles on any machine.
    """
    n_read = sum(map(len, truth.tests.values()))
    n_trained = sum(map(len, trained))
    return max(at_least or 1, math.ceil(n_read / (READING_SHARE * TRAINING_COST * n_trained)))


def watch_metrics(victim: Classifier, truth: Truth, every: int, last: int):
    """ASR, CACC, PACC and LFR before the first cycle, each `every` cycles and after the last."""
    tests = truth.encode(victim)

    def watch(row: dict, model) -> dict:
        if row["epoch"] % every and row["epoch"] != last:
            return {}
        student = replace(victim, model=model)
        return truth.score({name: student.predict_encoded(rows) for name, rows in tests.items()})

    return watch
