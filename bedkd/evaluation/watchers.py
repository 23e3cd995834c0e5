"""Watchers for the training loop: they read the truth, add numbers to a history, steer nothing."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.method.mepd import mepd
from bedkd.nn.classifier import Classifier

N_WATCHED = 128  # rows of each kind whose MEPD is followed while the DMM trains


class Watched:
    """A watcher whose own time is kept, since a defender would not spend it."""

    def __init__(self, watch):
        self.watch, self.seconds = watch, 0.0

    def __call__(self, row: dict, model) -> dict:
        started = time.perf_counter()
        numbers = self.watch(row, model)
        self.seconds += time.perf_counter() - started
        return numbers


def watch_mepd(view: DefenderView, truth: Truth, seed: int):
    """Mean MEPD of some clean and some poisoned rows of D*, epoch by epoch."""
    is_poisoned = truth.train.is_poisoned.to_numpy()
    rng = np.random.default_rng([seed, 40])
    rows = {
        kind: rng.permutation(np.flatnonzero(is_poisoned == value))[:N_WATCHED]
        for kind, value in (("clean", False), ("poisoned", True))
    }
    texts = {kind: view.victim.encode(view.train.text.iloc[index]) for kind, index in rows.items()}

    def watch(row: dict, model) -> dict:
        student = replace(view.victim, model=model)
        now = {kind: student.predict_encoded(encoded) for kind, encoded in texts.items()}
        return {
            f"mepd_{kind}": float(mepd(view.victim_probabilities[rows[kind]], now[kind]).mean())
            for kind in rows
            if len(rows[kind])
        }

    return watch


def watch_metrics(victim: Classifier, truth: Truth, every: int, last: int):
    """ASR and CACC each `every` cycles and after the last."""

    tests = truth.encode(victim)

    def watch(row: dict, model) -> dict:
        if row["epoch"] % every and row["epoch"] != last:
            return {}
        return truth.evaluate(replace(victim, model=model), tests)

    return watch
