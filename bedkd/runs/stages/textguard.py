"""TextGuard, with new victims to train; its certificate, where it gives one."""

from functools import partial
from pathlib import Path

import numpy as np

from bedkd.defences.textguard import certified_accuracy, defend
from bedkd.nn.classifier import new_classifier
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_truth
from bedkd.runs.stages.defended import equip, measure
from bedkd.runs.stages.predictions import load_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    c = run.config

    def fresh(view):
        names, texts = view.victim.label_names, list(view.train.text)
        return partial(new_classifier, c.victim, texts, names, view.victim.compute)

    record = measure(run, stage, folder, defend, equip(run, stage, fresh=fresh))
    return record | (certify(run, folder) if c.textguard.mode == "certified" else {})


def certify(run: Run, folder: Path) -> dict:
    """Certified accuracy with k groups corrupted, from TextGuard's shares of votes."""
    shares, truth = load_tests(folder)["clean"], read_truth(run)
    votes = np.rint(shares * run.config.textguard.n_groups).astype(int)
    found = certified_accuracy(votes, truth.test_clean.label)
    return {f"certified_accuracy_{k}": value for k, value in found.items()}
