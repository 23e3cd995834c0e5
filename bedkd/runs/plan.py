"""From a profile to notebook jobs: what runs, after what, and which results it leaves."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bedkd.runs.folders import Run
from bedkd.runs.profiles import Profile
from bedkd.runs.stages import ABLATIONS, CHAIN, STAGES, needed_stages
from bedkd.runs.sweeps import Sweep, vary

SUMMARIES = ("10_tables", "11_figures")
Results = tuple[tuple[Run, str], ...]


@dataclass(frozen=True)
class Job:
    """One execution of a notebook. `results`: the stages that it makes, or finds made; `is_long`:
    it trains several models; `kernel`: jobs with the same share one, in their order.
    """

    notebook: str
    label: str
    parameters: dict
    needs: tuple[str, ...]
    title: str
    results: Results = ()
    is_long: bool = False
    kernel: str = ""

    @property
    def name(self) -> str:
        return f"{self.notebook}/{self.label}"


def plan_jobs(profile: Profile, overrides: dict) -> list[Job]:
    """All jobs of a profile but the summaries, each after those that it needs.

    Raises BedkdError: an unknown parameter, or data or weights that are nowhere to be found.
    """
    jobs = [job for run in profile.runs(overrides) for job in plan_cell(profile, run, overrides)]
    return list({job.name: job for job in jobs}.values())  # cells share the one without an attack


def rank_jobs(jobs: list[Job]) -> dict[str, int]:
    """Of every job, how many stand on the longest way from it to the end of a long one; else 0.

    Those of the highest rank go first: a long job that is begun last keeps the whole batch waiting.
    """
    ranks = {job.name: int(job.is_long) for job in jobs}
    for job in reversed(jobs):
        if rank := ranks[job.name]:
            ranks |= {need: max(ranks[need], rank + 1) for need in job.needs}
    return ranks


def list_results(jobs: Iterable[Job]) -> list[tuple[Run, str]]:
    """Each stage result that the jobs need, once: cells share some, and so do studies."""
    found: dict[Path, tuple[Run, str]] = {}
    todo = [result for job in jobs for result in job.results]
    while todo:
        run, stage = todo.pop()
        if (folder := run.folder(stage)) not in found:
            found[folder] = (run, stage)
            needs = needed_stages(run.config, stage)
            todo += [(replace(run, config=config), needed) for config, needed in needs]
    return list(found.values())


def plan_summaries(profile: Profile, overrides: dict) -> list[Job]:
    """Tables and figures: of whatever is finished, so no part of the DAG."""
    parameters = {"profile": profile.path, "overrides": overrides}
    return [Job(name, "all", parameters, (), profile.name) for name in SUMMARIES]


def plan_cell(profile: Profile, run: Run, overrides: dict) -> list[Job]:
    """The jobs of one cell of the grid: BeDKD's stages, the rivals, the studies."""
    c = run.config
    title = f"{c.data.name} {c.attack.name} seed {c.seed}"
    parameters = {
        "profile": profile.path,
        "dataset": c.data.name,
        "attack": c.attack.name,
        "seed": c.seed,
        "overrides": profile.cell_overrides(overrides),
    }
    jobs: list[Job] = []

    def add(
        notebook: str, results: Results, *needs: Job, name: str = "", is_long: bool = False, **more
    ) -> Job:
        """`name` leads the label and ends the title; `more`: parameters of this notebook alone."""
        label = "-".join(filter(None, (name, label_results(run, results))))
        names = tuple(job.name for job in needs)
        about = (parameters | more, names, f"{title} {name}".strip(), results, is_long)
        jobs.append(Job(notebook, label, *about, title if profile.few_jobs else ""))
        return jobs[-1]

    makers, measured, plus = {}, [], profile.plus_run(run)
    studies = profile.list_studies(run, overrides)
    beyond = {"mepd": ((plus, "dmm"), (plus, "mepd")), "akd": ((plus, "akd"),)}
    if c.attack.name != "none":
        beyond["akd"] += ((run, "never_poisoned"),)
    if profile.few_jobs and c.data.name not in profile.list_focus(overrides):
        results = tuple((run, stage) for stage in CHAIN) + sum(beyond.values(), ())
        makers = dict.fromkeys(CHAIN, add("04_akd", results, with_bounded=False))
    elif not profile.few_jobs and c.attack.name != "none":  # else its kernel makes it, or waits
        measured = [plan_never_poisoned(profile, run, overrides)]
        jobs += measured
    for stage, before in zip(CHAIN, (None, *CHAIN), strict=False):
        if stage not in makers:
            needs = [makers[before]] if before else []
            results = ((run, stage), *beyond.get(stage, ()))
            more = {}
            if stage == "akd":
                needs += measured
                more = {"with_bounded": "ablations" in studies}  # which has it too
            if stage == "mepd":
                needs += [
                    add(
                        "13_scan",
                        tuple(
                            (replace(r, config=r.config.shards()[k]), "scan") for r in (run, plus)
                        ),
                        makers["dmm"],
                        name=f"shard-{k}",
                        overrides=parameters["overrides"] | {"scan.shard": k},
                    )
                    for k in range(len(c.shards()))
                ]
            makers[stage] = add(STAGES[stage].notebook, results, *needs, **more)
    for group in group_work(profile, profile.list_defences(overrides)):
        # a curve over rates and epochs is for a reader of the notebook, at four times the cost
        more = {"defence": alone(group), "with_curve": False, "is_long": "textguard" in group}
        results = tuple((run, stage) for stage in group)
        add(
            "05_defences",
            results,
            makers["victim"],
            *measured,
            name=title_group(group, "rivals"),
            **more,
        )
    if "ablations" in studies:
        results = ablation_results(run) + tuple((r, "akd") for r in profile.plus_parts(run))
        add("06_ablations", results, makers["mepd"], *measured, is_long=True)
    for group in group_work(profile, profile.list_sweeps(run, overrides)):
        names = [sweep.name for sweep in group]
        results = tuple(
            result
            for sweep in group
            for base in profile.sweep_runs(run)
            for result in sweep_results(base, sweep)
        )
        more = {"name": title_group(names, "sweeps"), "sweep": alone(names), "is_long": True}
        add("07_sensitivity", results, makers["akd"], *measured, **more)
    if "tsne" in studies:
        add("08_tsne", ((run, "tsne"),), makers["akd"])
    return jobs


def plan_never_poisoned(profile: Profile, run: Run, overrides: dict) -> Job:
    """The victim of the same cell without an attack, whose own job it is if the grid has it."""
    c = run.config
    clean = replace(run, config=c.without_attack())
    title = f"{c.data.name} none seed {c.seed}"
    parameters = {
        "profile": profile.path,
        "dataset": c.data.name,
        "attack": "none",
        "seed": c.seed,
        "overrides": profile.cell_overrides(overrides),
    }
    results = ((clean, "victim"),)
    return Job("01_poisoning", label_results(clean, results), parameters, (), title, results)


def label_results(run: Run, results: Results) -> str:
    """A result's own folder name, or the cell's with a key of all of them."""
    if len(results) == 1:
        return run.folder(results[0][1]).name
    keys = "".join(run.key(stage) for run, stage in results)
    cell = run.folder("akd").name.rsplit("-", 1)[0]
    return f"{cell}-{hashlib.sha256(keys.encode()).hexdigest()[:12]}"


def group_work(profile: Profile, items: list) -> list[list]:
    """The rivals or sweeps that one notebook runs: one, or, in a profile of few jobs, all."""
    return [items][: len(items)] if profile.few_jobs else [[item] for item in items]


def alone(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def title_group(names: list[str], several: str) -> str:
    return names[0] if len(names) == 1 else several


def ablation_results(run: Run) -> Results:
    """Table 2's rows other than BeDKD, and Table 3's DMM with the hard loss alone."""
    return (*((run, stage) for stage in ("finetune", *ABLATIONS)), (with_hard_loss(run), "mepd"))


def with_hard_loss(run: Run) -> Run:
    """The same cell with L_hard alone in the DMM: Eq. 3 with α = 1."""
    return vary(run, {"dmm.alpha": 1.0})


def sweep_results(run: Run, sweep: Sweep) -> Results:
    """Victim and clean model of each point; often all points have one victim."""
    points = [point for _, point in sweep.points(run)]
    return tuple((point, stage) for point in points for stage in ("victim", "akd"))
