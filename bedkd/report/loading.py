"""Read what the runs of a profile left into DataFrames for tables, figures and the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.evaluation.metrics import sweep_gamma
from bedkd.runs.folders import Run
from bedkd.runs.plan import Job, plan_jobs, with_hard_loss
from bedkd.runs.profiles import Profile, load_profile, outputs_folder
from bedkd.runs.records import to_frame
from bedkd.runs.sweeps import SWEEPS

GAMMAS = np.round(np.arange(0.02, 0.42, 0.02), 2)
DEFENCES = {"victim": "none", "akd": "bedkd"}  # of the stages whose name is another


@dataclass(frozen=True)
class Batch:
    """A profile with its jobs: which results there should be, and which job makes each."""

    profile: Profile
    overrides: dict
    jobs: list[Job]
    makers: dict[Path, Job]  # result folder -> the first job that makes it

    @cached_property
    def runs(self) -> list[Run]:
        return self.profile.runs(self.overrides)

    @cached_property
    def by_name(self) -> dict[str, Job]:
        return {job.name: job for job in self.jobs}

    @property
    def folder(self) -> Path:
        return outputs_folder() / self.profile.name

    def state(self, run: Run, stage: str) -> str:
        """`ok`, `failed` (its job, or one before it) or `missing`."""
        if run.record(stage):
            return "ok"
        job = self.makers.get(run.folder(stage))
        return "failed" if job and self.find_failure(job) else "missing"

    def find_failure(self, job: Job) -> Job | None:
        """The job itself, or the one before it, that failed."""
        if (self.folder / "notebooks" / f"{job.name}.failed").exists():
            return job
        failures = (self.find_failure(self.by_name[name]) for name in job.needs)
        return next((failure for failure in failures if failure), None)


def open_batch(profile: str, overrides: dict | None = None) -> Batch:
    """The jobs of a profile, done or not.

    Raises:
        BedkdError: as `plan_jobs`.
    """
    loaded, overrides = load_profile(profile), overrides or {}
    jobs = plan_jobs(loaded, overrides)
    makers: dict[Path, Job] = {}
    for job in jobs:
        for run, stage in job.results:
            makers.setdefault(run.folder(stage), job)
    return Batch(loaded, overrides, jobs, makers)


def check_finished(batch: Batch) -> None:
    """Raises BedkdError if a result is not there: what is kept must be whole."""
    for job in batch.jobs:
        for run, stage in job.results:
            if run.record(stage) is None:
                raise BedkdError(
                    f"{stage} of {run.folder(stage).name} is not done; run "
                    f"`bedkd reproduce {batch.profile.name}` first"
                )


def result_row(batch: Batch, run: Run, stage: str) -> dict:
    """The record of a result, or what it would be about; with state and sources."""
    c, record = run.config, run.record(stage) or {}
    about = {"model": c.victim.model, "defence": DEFENCES.get(stage, stage)} | describe_cell(run)
    state = {"state": batch.state(run, stage), "sources": (f"{stage}/{run.folder(stage).name}",)}
    return about | {"stage": stage} | record | state


def load_records(batch: Batch) -> pd.DataFrame:
    """One row for each run and defence (`none`, `bedkd`, `finetune`, …), done or not."""
    return to_frame(
        [
            result_row(batch, run, stage)
            for run in batch.runs
            for stage in batch.profile.result_stages(run, batch.overrides)
        ]
    )


def load_losses(batch: Batch) -> pd.DataFrame:
    """FAR and FRR of the DMM with and without L_soft: dataset, attack, seed, loss, far_…, frr_…"""
    rows = []
    for run in batch.runs:
        if "ablations" in batch.profile.list_studies(run, batch.overrides):
            for loss, variant in (("hard", with_hard_loss(run)), ("hard + soft", run)):
                rows.append(result_row(batch, variant, "mepd") | sizes(run) | {"loss": loss})
    return to_frame(rows)


def load_sweep(batch: Batch, study: str, stages: Iterable[str] = ("akd",)) -> pd.DataFrame:
    """One row for each point of a sweep and stage; the value stands in the column `study`."""
    rows = []
    for run in batch.runs:
        for sweep in batch.profile.list_sweeps(run, batch.overrides):
            if sweep.name == study:
                for value, point in sweep.points(run):
                    for stage in stages:
                        rows.append(result_row(batch, point, stage) | sizes(point) | {study: value})
    return to_frame(rows)


def sizes(run: Run) -> dict:
    """Rows, for the caption, from the record that has them."""
    record = run.record("victim") or {}
    return {name: record.get(name) for name in ("n_train", "n_test")}


def list_sweeps(batch: Batch) -> list[str]:
    """The sweeps that the profile runs, in the order of `sweeps.SWEEPS`."""
    lists = [batch.profile.list_sweeps(run, batch.overrides) for run in batch.runs]
    found = {sweep.name for sweeps in lists for sweep in sweeps}
    return [name for name in SWEEPS if name in found]


def describe_cell(run: Run) -> dict:
    c = run.config
    return {"dataset": c.data.name, "attack": c.attack.name, "seed": c.seed}


def finished(runs: Iterable[Run], stage: str, *, is_attacked: bool = False) -> list[Run]:
    """Those whose stage is done; with `is_attacked`, only those under attack."""
    runs = [run for run in runs if not (is_attacked and run.config.attack.name == "none")]
    return [run for run in runs if run.record(stage)]


def load_curves(runs: list[Run], where: str = "test") -> pd.DataFrame:
    """FAR and FRR over γ of the attacked runs: dataset, attack, seed, gamma, far, frr.

    `where`: on the `test` sets, as in the paper's Figure 4, or on `train`, which is D*.
    """
    parts = []
    for run in finished(runs, "mepd", is_attacked=True):
        scores = load_scores(run, where)
        curve = sweep_gamma(scores.mepd.to_numpy(), scores.is_poisoned.to_numpy(), GAMMAS)
        parts.append(curve.assign(**describe_cell(run)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load_cycles(runs: list[Run]) -> pd.DataFrame:
    """The AKD history of each finished run: dataset, attack, seed, epoch, asr, cacc, losses."""
    return pd.concat(
        [read_cycles(run).assign(**describe_cell(run)) for run in finished(runs, "akd")]
        or [pd.DataFrame()],
        ignore_index=True,
    )


def load_sweep_cycles(batch: Batch, study: str) -> pd.DataFrame:
    """The same for each finished point of a sweep; the value stands in the column `study`."""
    parts = [
        load_point_cycles(sweep.points(run), study)
        for run in batch.runs
        for sweep in batch.profile.list_sweeps(run, batch.overrides)
        if sweep.name == study
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load_point_cycles(points: list[tuple[object, Run]], study: str) -> pd.DataFrame:
    """The same for the points of one cell: see `load_cycles`."""
    parts = [
        read_cycles(run).assign(**describe_cell(run), **{study: value})
        for value, run in points
        if run.record("akd")
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_cycles(run: Run) -> pd.DataFrame:
    return pd.DataFrame(json.loads((run.folder("akd") / "history.json").read_text()))


def load_embeddings(runs: list[Run]) -> dict[str, tuple[pd.DataFrame, dict]]:
    """t-SNE of each data set's attacked runs, its first seed: points (attack, and what the stage
    `tsne` leaves), and label_names and target_label of the data set."""
    found: dict[str, list[Run]] = {}
    for run in finished(runs, "tsne", is_attacked=True):
        found.setdefault(run.config.data.name, []).append(run)
    embeddings = {}
    for dataset, done in found.items():
        first = [run for run in done if run.config.seed == done[0].config.seed]
        points = [
            pd.read_parquet(run.folder("tsne") / "tsne.parquet").assign(**describe_cell(run))
            for run in first
        ]
        data = first[0].record("data")
        about = {name: data[name] for name in ("label_names", "target_label")}
        embeddings[dataset] = pd.concat(points, ignore_index=True), about
    return embeddings


def load_scores(run: Run, where: str) -> pd.DataFrame:
    """MEPD of every row of D* (`train`) or of the test sets (`test`): mepd, is_poisoned."""
    scores = pd.read_parquet(run.folder("mepd") / f"{where}.parquet")
    if where == "train":
        truth = pd.read_parquet(run.folder("data") / "truth/train.parquet")
        scores = scores.assign(is_poisoned=truth.is_poisoned.to_numpy())
    return scores
