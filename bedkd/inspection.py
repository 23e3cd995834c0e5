"""What the notebooks show of one run. Reads the truth; nothing here goes back to a defence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.mepd import select_poison_few
from bedkd.metrics import percent
from bedkd.results import read_model
from bedkd.stages import ensure, load_truth, load_view
from bedkd.store import Run

SELECTIONS = ("file_order", "random", "lowest_mepd", "teacher_agreement")


def load_poisoned(run: Run) -> pd.DataFrame:
    """The poisoned rows of D*: text, label, clean_text, clean_label, method."""
    truth = load_truth(run).train
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    return train.join(truth)[truth.is_poisoned]


def load_poison_few(run: Run) -> pd.DataFrame:
    """D_p^few* with its truth: row, text, label, is_poisoned, clean_text, clean_label, method."""
    few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    return few.join(load_truth(run).train, on="row")


def compare_selections(run: Run) -> pd.DataFrame:
    """The rules of `mepd.selection` on the same scores: rows, purity and relabelled (percent)."""
    view, truth, c = load_view(run), load_truth(run).train, run.config
    ensure(run, "mepd")
    scores = pd.read_parquet(run.folder("mepd") / "train.parquet").mepd.to_numpy()
    rows = {}
    for selection in SELECTIONS:
        config = replace(c.mepd, selection=selection)
        few = select_poison_few(view.train, scores, view.victim_probabilities, config, seed=c.seed)
        chosen = truth.iloc[few.row]
        is_relabelled = chosen.is_poisoned.to_numpy() & (chosen.clean_label != few.label.to_numpy())
        rows[selection] = {
            "rows": len(few),
            "purity (%)": percent(chosen.is_poisoned.to_numpy()),
            "relabelled (%)": percent(np.asarray(is_relabelled)),
        }
    return pd.DataFrame(rows).T


def compare_predictions(run: Run, n: int) -> pd.DataFrame:
    """Some triggered test rows: true label, the victim's and the clean model's prediction."""
    ensure(run, "akd")
    truth = load_truth(run)
    some = truth.test_triggered.sample(
        min(n, len(truth.test_triggered)), random_state=run.config.seed
    )
    table = {"text": some.text.to_numpy(), "true": [truth.label_names[y] for y in some.label]}
    for column, stage in (("victim", "victim"), ("BeDKD", "akd")):
        predicted = read_model(run, stage).predict(list(some.text)).argmax(axis=1)
        table[column] = [truth.label_names[y] for y in predicted]
    return pd.DataFrame(table)
