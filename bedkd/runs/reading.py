"""Read what the stages left. Files under `truth/` say which rows are poisoned."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.core.devices import Compute, pick_compute
from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.nn.classifier import Classifier, load_classifier
from bedkd.runs.folders import Run

SHARED_SEED = 900  # of what all cells share: no cell's seed, so none of its rows


def compute_of(run: Run) -> Compute:
    return replace(pick_compute(run.config.device, run.config.precision), group=run.group)


def read_view(run: Run) -> DefenderView:
    """The defender's side of a run. Opens nothing under truth/."""
    data, victim = run.folder("data"), run.folder("victim")
    return DefenderView(
        pd.read_parquet(data / "train.parquet"),
        pd.read_parquet(data / "clean_pool.parquet"),
        pd.read_parquet(data / "clean_share.parquet"),
        load_classifier(victim / "model", compute_of(run)),
        np.load(victim / "train_probabilities.npy"),
    )


def read_truth(run: Run) -> Truth:
    """The evaluator's side of a run."""
    record = run.record("data")
    folder = run.folder("data") / "truth"
    names = ("train", "clean", "triggered", "triggered_target")
    tables = (pd.read_parquet(folder / f"{name}.parquet") for name in names)
    return Truth(*tables, record["target_label"], tuple(record["label_names"]))


def read_history(run: Run, stage: str) -> pd.DataFrame:
    """One row an epoch or cycle."""
    return pd.DataFrame(json.loads((run.folder(stage) / "history.json").read_text()))


def read_model(run: Run, stage: str) -> Classifier:
    return load_classifier(run.folder(stage) / "model", compute_of(run))


def data_fields(run: Run) -> dict:
    """What a record repeats of the data's: counts of rows, and the target label."""
    record = run.record("data")
    counts = {name: value for name, value in record.items() if name.startswith("n_")}
    return counts | {"target_label": record["target_label"]}
