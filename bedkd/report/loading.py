"""Read what the runs of a profile left into DataFrames for tables, figures and the report."""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.evaluation.metrics import sweep_gamma
from bedkd.runs.folders import Run
from bedkd.runs.plan import Job, plan_jobs, with_hard_loss
from bedkd.runs.profiles import Profile, load_profile, outputs_folder
from bedkd.runs.records import to_frame
from bedkd.runs.sweeps import GRID, read_divergence

GAMMAS = np.arange(1, 21) / 50  # 0.02 to 0.4
HISTORY = "history.json"
MEASURES = ("asr", "pacc", "lfr_target")  # of which a model that never saw poison has its own


@dataclass(frozen=True)
class Batch:
    """A profile with its jobs: which results there should be, and which job makes each."""

    profile: Profile
    overrides: dict
    runs: list[Run]
    jobs: list[Job]
    makers: dict[Path, Job]  # result folder -> the first job that makes it

    @cached_property
    def sweeps(self) -> dict[str, list[tuple[object, Run]]]:
        """Of each sweep of one parameter that the profile runs, every cell's values and runs."""
        found: dict[str, list] = {}
        for run in self.runs:
            for sweep in self.profile.list_sweeps(run, self.overrides):
                if GRID not in sweep.name:
                    found.setdefault(sweep.name, []).extend(sweep.points(run))
        return found

    @property
    def folder(self) -> Path:
        return outputs_folder() / self.profile.name

    def job_file(self, job: Job, ending: str) -> Path:
        """What a job left: its executed notebook (`ipynb`), or why it failed (`failed`)."""
        return self.folder / "notebooks" / f"{job.name}.{ending}"

    def state(self, run: Run, stage: str) -> str:
        """As `read_state`; `failed` also where its job did, or one before it."""
        job = self.makers.get(run.folder(stage))
        is_lost = read_state(run, stage) == "missing" and job and self.find_failure(job)
        return "failed" if is_lost else read_state(run, stage)

    def find_failure(self, job: Job) -> Job | None:
        """The job itself, or the one before it, that failed."""
        if self.job_file(job, "failed").exists():
            return job
        failures = (self.find_failure(before) for before in self.jobs if before.name in job.needs)
        return next(filter(None, failures), None)


def open_batch(
    profile: str, overrides: dict | None = None, place: Callable[[Run], Run] = lambda run: run
) -> Batch:
    """The jobs of a profile, done or not. `place`: of each run, where its results lie, if not in
    this machine's outputs. Raises BedkdError: as `plan_jobs`."""
    loaded, overrides = load_profile(profile), overrides or {}
    jobs = [
        replace(job, results=tuple((place(run), stage) for run, stage in job.results))
        for job in plan_jobs(loaded, overrides)
    ]
    makers = {run.folder(stage): job for job in reversed(jobs) for run, stage in job.results}
    return Batch(loaded, overrides, list(map(place, loaded.runs(overrides))), jobs, makers)


def name_cell(run: Run) -> dict:
    c = run.config
    return {"dataset": c.data.name, "attack": c.attack.name, "seed": c.seed}


def read_state(run: Run, stage: str) -> str:
    """`ok`, `failed` (AKD diverged) or `missing`."""
    if run.record(stage):
        return "ok"
    return "failed" if stage == "akd" and read_divergence(run) else "missing"


def read_result(run: Run, stage: str, batch: Batch | None = None) -> dict:
    """The record of a result, or what it would be about; with state (the batch's) and sources.

    Rows, for the caption, come from the victim's record where its own has none. The victim is held
    against the model that never saw poison here: its own record was there before.
    """
    names = {"victim": "none", "akd": run.config.method}
    about = {"model": run.config.victim.model, "defence": names.get(stage, stage)}
    about |= name_cell(run) | {"stage": stage}
    if stage == "victim":
        about |= compare_victim(run)
    victim = run.record("victim") or {}
    about |= {name: victim.get(name) for name in ("n_train", "n_test")}
    state = batch.state(run, stage) if batch else read_state(run, stage)
    sources = (f"{stage}/{run.folder(stage).name}",)
    return about | (run.record(stage) or {}) | {"state": state, "sources": sources}


def compare_victim(run: Run) -> dict:
    """What a defence's record says of the model that never saw poison, for the victim's."""
    victim, never = run.record("victim"), run.record("never_poisoned")
    if not victim or not never:
        return {}
    found = {f"{name}_never_poisoned": never[name] for name in MEASURES}
    is_known = victim["pacc"] is not None
    return found | {"delta_pacc": abs(victim["pacc"] - never["pacc"]) if is_known else None}


def load_records(batch: Batch) -> pd.DataFrame:
    """One row for each run and defence (`none`, `bedkd`, `finetune`, …), done or not.

    One of BeDKD+ whose parameters are BeDKD's is the same result: as another seed it would halve
    the interval.
    """
    rows = [
        read_result(source, stage, batch)
        for run in batch.runs
        for source, stage in batch.profile.results(run, batch.overrides)
    ]
    return to_frame(rows).drop_duplicates("sources", ignore_index=True)


def load_losses(batch: Batch) -> pd.DataFrame:
    """FAR and FRR of the DMM with and without L_soft: dataset, attack, seed, loss, far_…, frr_…"""
    rows = [
        read_result(variant, "mepd", batch) | {"loss": loss}
        for run in batch.runs
        if "ablations" in batch.profile.list_studies(run, batch.overrides)
        for loss, variant in (("hard", with_hard_loss(run)), ("hard + soft", run))
    ]
    return to_frame(rows)


def load_sweep(batch: Batch, study: str, stages: Iterable[str] = ("akd",)) -> pd.DataFrame:
    """One row for each point of a sweep and stage; the value stands in the column `study`."""
    points = itertools.product(batch.sweeps[study], stages)
    return to_frame([read_result(r, stage, batch) | {study: v} for (v, r), stage in points])


def concat(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One table; empty where there is no part."""
    parts = list(parts)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load_curves(runs: list[Run], where: str = "test") -> pd.DataFrame:
    """FAR and FRR over γ of the attacked runs: dataset, attack, seed, gamma, far, frr.

    `where`: on the `test` sets, as in the paper's Figure 4, or on `train`, which is D*.
    """
    parts = []
    for run in list_attacked(runs, "mepd", f"{where}.parquet"):
        if where == "train" and not truth_of(run).exists():
            continue
        scores = load_scores(run, where)
        curve = sweep_gamma(scores.mepd.to_numpy(), scores.is_poisoned.to_numpy(), GAMMAS)
        parts.append(curve.assign(**name_cell(run)))
    return concat(parts)


def list_attacked(runs: Iterable[Run], stage: str, file: str = "record.json") -> list[Run]:
    """The attacked runs whose stage is done."""
    return [run for run in runs if run.config.attack.name != "none" and is_left(run, stage, file)]


def is_left(run: Run, stage: str, file: str) -> bool:
    """Whether a stage is done and its file here: of what was made elsewhere some may not be."""
    return bool(run.record(stage)) and (run.folder(stage) / file).exists()


def truth_of(run: Run) -> Path:
    return run.folder("data") / "truth/train.parquet"


def load_scores(run: Run, where: str) -> pd.DataFrame:
    """MEPD of the scored rows of D* (`train`) or of the test sets (`test`): mepd, is_poisoned, and
    of D*, with γ = auto, p."""
    scores = pd.read_parquet(run.folder("mepd") / f"{where}.parquet")
    if where == "train":
        scores = scores.assign(is_poisoned=pd.read_parquet(truth_of(run)).is_poisoned.to_numpy())
    return scores.dropna()


def load_cycles(runs: list[Run]) -> pd.DataFrame:
    """`read_cycles` of each finished run. BeDKD+ may take more cycles with one seed than with
    another: the shorter run stays as it ended, so that a mean is over all seeds at every cycle."""
    done = [read_cycles(run) for run in runs if is_left(run, "akd", HISTORY)]
    epochs: dict[tuple, set] = {}
    for rows in done:
        epochs.setdefault((rows.dataset[0], rows.attack[0]), set()).update(rows.epoch)
    for number, rows in enumerate(done):
        last = rows.iloc[[-1]]
        later = sorted(n for n in epochs[rows.dataset[0], rows.attack[0]] if n > last.epoch.item())
        done[number] = pd.concat([rows, *(last.assign(epoch=n) for n in later)], ignore_index=True)
    return concat(done)


def read_cycles(run: Run) -> pd.DataFrame:
    """AKD's history: dataset, attack, seed, epoch, MEASURES, cacc, losses, and with the ending
    `_never_poisoned` MEASURES of the model that never saw poison, where they are known."""
    history, record = (
        json.loads((run.folder("akd") / HISTORY).read_text()),
        run.record("akd"),
    )
    never = {name: record.get(name) for name in map("{}_never_poisoned".format, MEASURES)}
    return (
        pd.DataFrame(history).assign(**name_cell(run), **never).astype(dict.fromkeys(never, float))
    )


def load_point_cycles(points: Iterable[tuple[object, Run]], study: str) -> pd.DataFrame:
    """The same for each finished point of a sweep; the value stands in the column `study`."""
    done = [(value, run) for value, run in points if is_left(run, "akd", HISTORY)]
    return concat(read_cycles(run).assign(**{study: value}) for value, run in done)


def load_embeddings(runs: list[Run]) -> dict[str, tuple[pd.DataFrame, dict]]:
    """t-SNE of each data set's attacked runs, its first seed: points (attack, and what the stage
    `tsne` leaves), and label_names and target_label of the data set."""
    embeddings: dict[str, tuple] = {}
    for run in list_attacked(runs, "tsne", "tsne.parquet"):
        points = pd.read_parquet(run.folder("tsne") / "tsne.parquet").assign(**name_cell(run))
        data = run.record("data")
        about = {name: data[name] for name in ("label_names", "target_label")}
        before, _ = embeddings.get(run.config.data.name, (points[:0], about))
        embeddings[run.config.data.name] = pd.concat([before, points], ignore_index=True), about
    return {
        name: (rows[rows.seed == rows.seed[0]], about) for name, (rows, about) in embeddings.items()
    }
