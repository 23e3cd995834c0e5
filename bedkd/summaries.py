"""Read the finished runs of a profile into DataFrames for tables and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bedkd.errors import BedkdError
from bedkd.metrics import sweep_gamma
from bedkd.profiles import load_profile
from bedkd.records import to_frame
from bedkd.store import Run

GAMMAS = np.round(np.arange(0.02, 0.42, 0.02), 2)
RESULTS = ("victim", "akd")  # the stages whose records are a row of a table


def load_runs(profile: str, overrides: dict | None = None) -> list[Run]:
    """The profile's runs, all finished.

    Raises:
        BedkdError: one of them is not; a table with holes would mislead.
    """
    runs = load_profile(profile).runs(overrides)
    for run in runs:
        for stage in RESULTS:
            if run.record(stage) is None:
                raise BedkdError(
                    f"{run.folder(stage).name} is not done; run `bedkd reproduce {profile}` first"
                )
    return runs


def load_records(runs: list[Run]) -> pd.DataFrame:
    """One row for each run and defence (`none`, `bedkd`)."""
    return to_frame([run.record(stage) for run in runs for stage in RESULTS])


def load_curves(runs: list[Run], where: str = "test") -> pd.DataFrame:
    """FAR and FRR over γ for each run under attack: dataset, attack, seed, gamma, far, frr.

    `where`: on the `test` sets, as in the paper's Figure 4, or on `train`, which is D*.
    """
    parts = []
    for run in runs:
        c = run.config
        if c.attack.name == "none":
            continue
        scores = load_scores(run, where)
        curve = sweep_gamma(scores.mepd.to_numpy(), scores.is_poisoned.to_numpy(), GAMMAS)
        parts.append(curve.assign(dataset=c.data.name, attack=c.attack.name, seed=c.seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load_cycles(runs: list[Run]) -> pd.DataFrame:
    """The AKD history of each run: dataset, attack, seed, epoch, asr, cacc and the losses."""
    parts = []
    for run in runs:
        c = run.config
        cell = {"dataset": c.data.name, "attack": c.attack.name, "seed": c.seed}
        parts.append(pd.read_json(run.folder("akd") / "history.json").assign(**cell))
    return pd.concat(parts, ignore_index=True)


def load_scores(run: Run, where: str) -> pd.DataFrame:
    """MEPD of every row of D* (`train`) or of the test sets (`test`): mepd, is_poisoned."""
    scores = pd.read_parquet(run.folder("mepd") / f"{where}.parquet")
    if where == "train":
        truth = pd.read_parquet(run.folder("data") / "truth/train.parquet")
        scores = scores.assign(is_poisoned=truth.is_poisoned.to_numpy())
    return scores
