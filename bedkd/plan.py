"""From a profile to notebook jobs: what runs, after what, and which results it leaves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from bedkd.profiles import Profile
from bedkd.store import ABLATIONS, CHAIN, STAGES, Run

SUMMARIES = ("10_tables", "11_figures")


@dataclass(frozen=True)
class Job:
    """One execution of a notebook. `results`: the stages that it makes, or finds made."""

    notebook: str
    label: str
    parameters: dict
    needs: tuple[str, ...]
    title: str
    results: tuple[tuple[Run, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.notebook}/{self.label}"


def plan_jobs(profile: Profile, overrides: dict) -> list[Job]:
    """All jobs of a profile, each after those that it needs.

    Raises:
        BedkdError: an unknown parameter, or data or weights that are nowhere to be found.
    """
    jobs = [job for run in profile.runs(overrides) for job in plan_cell(profile, run, overrides)]
    parameters = {"profile": profile.path, "overrides": overrides}
    finished = tuple(job.name for job in jobs)
    return jobs + [Job(n, "all", parameters, finished, profile.name) for n in SUMMARIES]


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
    is_ablated = profile.is_ablated(run, overrides)
    for stage in profile.list_defences(overrides):
        label = f"{stage}-{run.folder(stage).name}"
        more = parameters | {"defence": stage, "with_curve": is_ablated}
        needs, results = (names[STAGES[stage].upstream],), ((run, stage),)
        jobs.append(Job("05_defences", label, more, needs, f"{title} {stage}", results))
    if is_ablated:
        results = ablation_results(run)
        label = f"{run.folder('kd').name.rsplit('-', 1)[0]}-{joint_key(results)}"
        jobs.append(Job("06_ablations", label, parameters, (names["mepd"],), title, results))
    return jobs


def ablation_results(run: Run) -> tuple[tuple[Run, str], ...]:
    """Table 2's rows other than BeDKD, and Table 3's DMM with the hard loss alone."""
    return (*((run, stage) for stage in ("finetune", *ABLATIONS)), (with_hard_loss(run), "mepd"))


def with_hard_loss(run: Run) -> Run:
    """The same cell with L_hard alone in the DMM: Eq. 3 with α = 1."""
    return replace(run, config=replace(run.config, dmm=replace(run.config.dmm, alpha=1.0)))


def joint_key(results: tuple[tuple[Run, str], ...]) -> str:
    keys = "".join(run.key(stage) for run, stage in results)
    return hashlib.sha256(keys.encode()).hexdigest()[:12]
