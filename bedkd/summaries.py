"""Read the finished runs of a profile into DataFrames for tables and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bedkd.errors import BedkdError
from bedkd.metrics import sweep_gamma
from bedkd.plan import plan_jobs, with_hard_loss
from bedkd.profiles import load_profile
from bedkd.records import to_frame
from bedkd.store import Run

GAMMAS = np.round(np.arange(0.02, 0.42, 0.02), 2)


def load_runs(profile: str, overrides: dict | None = None) -> list[Run]:
    """The profile's runs, all finished.

    Raises:
        BedkdError: one of them is not; a table with holes would mislead.
    """
    overrides = overrides or {}
    loaded = load_profile(profile)
    for job in plan_jobs(loaded, overrides):
        for run, stage in job.results:
            if run.record(stage) is None:
                raise BedkdError(
                    f"{stage} of {run.folder(stage).name} is not done; run "
                    f"`bedkd reproduce {profile}` first"
                )
    return loaded.runs(overrides)


def load_records(profile: str, overrides: dict | None = None) -> pd.DataFrame:
    """One row for each run and defence (`none`, `bedkd`, `finetune`, …)."""
    loaded = load_profile(profile)
    return to_frame(
        [
            run.record(stage)
            for run in load_runs(profile, overrides)
            for stage in loaded.result_stages(run, overrides)
        ]
    )


def load_losses(profile: str, overrides: dict | None = None) -> pd.DataFrame:
    """FAR and FRR of the DMM with and without L_soft: dataset, attack, seed, loss, far_…, frr_…"""
    loaded, rows = load_profile(profile), []
    for run in load_runs(profile, overrides):
        if not loaded.is_ablated(run, overrides):
            continue
        for loss, variant in (("hard", with_hard_loss(run)), ("hard + soft", run)):
            rows.append(variant.record("mepd") | describe_cell(run) | {"loss": loss})
    return to_frame(rows)


def describe_cell(run: Run) -> dict:
    c = run.config
    return {"dataset": c.data.name, "attack": c.attack.name, "seed": c.seed}


def load_curves(runs: list[Run], where: str = "test") -> pd.DataFrame:
    """FAR and FRR over γ for each run under attack: dataset, attack, seed, gamma, far, frr.

    `where`: on the `test` sets, as in the paper's Figure 4, or on `train`, which is D*.
    """
    parts = []
    for run in runs:
        if run.config.attack.name == "none":
            continue
        scores = load_scores(run, where)
        curve = sweep_gamma(scores.mepd.to_numpy(), scores.is_poisoned.to_numpy(), GAMMAS)
        parts.append(curve.assign(**describe_cell(run)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load_cycles(runs: list[Run]) -> pd.DataFrame:
    """The AKD history of each run: dataset, attack, seed, epoch, asr, cacc and the losses."""
    parts = []
    for run in runs:
        history = pd.read_json(run.folder("akd") / "history.json")
        parts.append(history.assign(**describe_cell(run)))
    return pd.concat(parts, ignore_index=True)


def load_scores(run: Run, where: str) -> pd.DataFrame:
    """MEPD of every row of D* (`train`) or of the test sets (`test`): mepd, is_poisoned."""
    scores = pd.read_parquet(run.folder("mepd") / f"{where}.parquet")
    if where == "train":
        truth = pd.read_parquet(run.folder("data") / "truth/train.parquet")
        scores = scores.assign(is_poisoned=truth.is_poisoned.to_numpy())
    return scores
