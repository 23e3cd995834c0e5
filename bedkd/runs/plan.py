"""From a profile to notebook jobs: what runs, after what, and which results it leaves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bedkd.runs.folders import ABLATIONS, CHAIN, STAGES, Run
from bedkd.runs.profiles import Profile
from bedkd.runs.sweeps import Sweep, vary

SUMMARIES = ("10_tables", "11_figures")


@dataclass(frozen=True)
class Job:
    """One execution of a notebook. `results`: the stages that it makes, or finds made; `is_long`:
    it trains several models.
    """

    notebook: str
    label: str
    parameters: dict
    needs: tuple[str, ...]
    title: str
    results: tuple[tuple[Run, str], ...] = ()
    is_long: bool = False

    @property
    def name(self) -> str:
        return f"{self.notebook}/{self.label}"


def plan_jobs(profile: Profile, overrides: dict) -> list[Job]:
    """All jobs of a profile but the summaries, each after those that it needs.

    Raises:
        BedkdError: an unknown parameter, or data or weights that are nowhere to be found.
    """
    return [job for run in profile.runs(overrides) for job in plan_cell(profile, run, overrides)]


def rank_jobs(jobs: list[Job]) -> dict[str, int]:
    """Of every job, how many stand on the longest way from it to the end of a long one; else 0.

    Those of the highest rank go first: a long job that is begun last keeps the whole batch waiting.
    """
    ranks = {job.name: int(job.is_long) for job in jobs}
    for job in reversed(jobs):
        if rank := ranks[job.name]:
            ranks |= {need: max(ranks[need], rank + 1) for need in job.needs}
    return ranks


def plan_summaries(profile: Profile, overrides: dict) -> list[Job]:
    """Tables and figures: of whatever is finished, so no part of the DAG."""
    parameters = {"profile": profile.path, "overrides": overrides}
    return [Job(name, "all", parameters, (), profile.name) for name in SUMMARIES]


def plan_cell(profile: Profile, run: Run, overrides: dict) -> list[Job]:
    """The jobs of one cell of the grid."""
    c, names = run.config, {}
    parameters = {
        "profile": profile.path,
        "dataset": c.data.name,
        "attack": c.attack.name,
        "seed": c.seed,
        "overrides": profile.cell_overrides(overrides),
    }
    title = f"{c.data.name} {c.attack.name} seed {c.seed}"
    jobs, before = [], ()
    for stage in CHAIN:
        notebook, label = STAGES[stage].notebook, run.folder(stage).name
        jobs.append(Job(notebook, label, parameters, before, title, ((run, stage),)))
        before = (jobs[-1].name,)
        names[stage] = jobs[-1].name
    studies = profile.list_studies(run, overrides)
    for stage in profile.list_defences(overrides):
        label = f"{stage}-{run.folder(stage).name}"
        # a curve over rates and epochs is for a reader of the notebook, at four times the cost
        more = parameters | {"defence": stage, "with_curve": False}
        needs, results = (names[STAGES[stage].upstream],), ((run, stage),)
        how = {"results": results, "is_long": stage == "textguard"}
        jobs.append(Job("05_defences", label, more, needs, f"{title} {stage}", **how))
    cell = run.folder("akd").name.rsplit("-", 1)[0]
    if "ablations" in studies:
        results = ablation_results(run)
        label, needs = f"{cell}-{joint_key(results)}", (names["mepd"],)
        how = {"results": results, "is_long": True}
        jobs.append(Job("06_ablations", label, parameters, needs, title, **how))
    for sweep in profile.list_sweeps(run, overrides):
        results = sweep_results(run, sweep)
        label = f"{sweep.name}-{cell}-{joint_key(results)}"
        more, needs = parameters | {"sweep": sweep.name}, (names["akd"],)
        how = {"results": results, "is_long": True}
        jobs.append(Job("07_sensitivity", label, more, needs, f"{title} {sweep.name}", **how))
    if "tsne" in studies:
        results = ((run, "tsne"),)
        label, needs = run.folder("tsne").name, (names["akd"],)
        jobs.append(Job("08_tsne", label, parameters, needs, title, results))
    return jobs


def ablation_results(run: Run) -> tuple[tuple[Run, str], ...]:
    """Table 2's rows other than BeDKD, and Table 3's DMM with the hard loss alone."""
    return (*((run, stage) for stage in ("finetune", *ABLATIONS)), (with_hard_loss(run), "mepd"))


def with_hard_loss(run: Run) -> Run:
    """The same cell with L_hard alone in the DMM: Eq. 3 with α = 1."""
    return vary(run, {"dmm.alpha": 1.0})


def sweep_results(run: Run, sweep: Sweep) -> tuple[tuple[Run, str], ...]:
    """Victim and clean model of each point; often all points have one victim."""
    points = [point for _, point in sweep.points(run)]
    return tuple((point, stage) for point in points for stage in ("victim", "akd"))


def joint_key(results: tuple[tuple[Run, str], ...]) -> str:
    keys = "".join(run.key(stage) for run, stage in results)
    return hashlib.sha256(keys.encode()).hexdigest()[:12]
