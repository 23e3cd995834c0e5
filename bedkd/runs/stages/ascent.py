"""RGA, GA and NPO, on the same rows to forget."""

from functools import partial
from pathlib import Path

import numpy as np

from bedkd.defences.gradient_ascent import defend
from bedkd.nn.classifier import new_classifier
from bedkd.runs.folders import Run
from bedkd.runs.stages.defended import equip, measure


def make(run: Run, stage: str, folder: Path) -> dict:
    """The record's `seconds` are those of finding the rows too."""

    def fresh(view):
        names, texts = view.victim.label_names, list(view.train.text)
        return partial(new_classifier, run.config.victim, texts, names, view.victim.compute)

    is_forgotten = np.load(run.folder("forget") / "is_forgotten.npy")
    own = partial(defend, method=stage, is_forgotten=is_forgotten)
    record = measure(run, stage, folder, own, equip(run, stage, fresh=fresh))
    found = run.record("forget")
    rates = {name: found[name] for name in ("far_train", "frr_train")}
    times = {"seconds_finding": found["seconds"]}
    return record | rates | times | {"seconds": record["seconds"] + found["seconds"]}
