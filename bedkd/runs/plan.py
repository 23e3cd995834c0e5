"""From a profile to notebook jobs: what runs, after what, and which results it leaves."""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bedkd.core.config import RunConfig
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
    cell = Cell(profile, run, overrides)
    cell.plan_chain()
    cell.plan_rivals()
    cell.plan_studies()
    return cell.jobs


@dataclass
class Cell:
    """One cell while it is planned. `makers`: the job of each stage of the CHAIN; `measured`: that
    of the model which never saw poison, if others must wait for it."""

    profile: Profile
    run: Run
    overrides: dict
    jobs: list[Job] = field(default_factory=list)
    makers: dict[str, Job] = field(default_factory=dict)
    measured: list[Job] = field(default_factory=list)
    plus: Run = field(init=False)
    studies: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.plus = self.profile.plus_run(self.run)
        self.studies = self.profile.list_studies(self.run, self.overrides)

    def add(
        self, notebook: str, results: Results, *needs: Job, name: str = "", is_long=False, **more
    ) -> Job:
        """`name` leads the label and ends the title; `more`: parameters of this notebook alone."""
        c = self.run.config
        title = title_cell(c)
        label = "-".join(filter(None, (name, label_results(self.run, results))))
        parameters = list_parameters(self.profile, c, self.overrides) | more
        names = tuple(job.name for job in needs)
        kernel = title if self.profile.few_jobs else ""
        about = (parameters, names, f"{title} {name}".strip(), results, is_long, kernel)
        self.jobs.append(Job(notebook, label, *about))
        return self.jobs[-1]

    def plan_chain(self) -> None:
        """BeDKD's stages, each with BeDKD+'s; in one job where there would be too many."""
        plus, few = self.plus, self.profile.few_jobs
        is_attacked = self.run.config.attack.name != "none"
        beyond = {"mepd": ((plus, "dmm"), (plus, "mepd")), "akd": ((plus, "akd"),)}
        if is_attacked:
            beyond["akd"] += ((self.run, "never_poisoned"),)
        if few and self.run.config.data.name not in self.profile.list_focus(self.overrides):
            results = tuple((self.run, stage) for stage in CHAIN) + sum(beyond.values(), ())
            self.makers = dict.fromkeys(CHAIN, self.add("04_akd", results, with_bounded=False))
            return
        if is_attacked and not few:  # else its kernel makes it, or waits
            self.measured = [plan_never_poisoned(self.profile, self.run, self.overrides)]
            self.jobs += self.measured
        for stage, before in zip(CHAIN, (None, *CHAIN), strict=False):
            needs = [self.makers[before]] if before else []
            more = {}
            if stage == "mepd":
                needs += self.plan_shards()
            if stage == "akd":
                needs += self.measured
                more = {"with_bounded": "ablations" in self.studies}  # which has it too
            results = ((self.run, stage), *beyond.get(stage, ()))
            self.makers[stage] = self.add(STAGES[stage].notebook, results, *needs, **more)

    def plan_shards(self) -> list[Job]:
        """The scan of a large D*, a job a shard; none where it is scanned in one pass."""
        jobs, own = [], self.profile.cell_overrides(self.overrides)
        for k in range(len(self.run.config.shards())):
            both = (self.run, self.plus)
            results = tuple((replace(r, config=r.config.shards()[k]), "scan") for r in both)
            more = {"name": f"shard-{k}", "overrides": own | {"scan.shard": k}}
            jobs.append(self.add("13_scan", results, self.makers["dmm"], **more))
        return jobs

    def plan_rivals(self) -> None:
        for group in group_work(self.profile, self.profile.list_defences(self.overrides)):
            # a curve over rates and epochs is for a reader of the notebook, at four times the cost
            more = {"defence": alone(group), "with_curve": False, "is_long": "textguard" in group}
            more |= {"name": title_group(group, "rivals")}
            results = tuple((self.run, stage) for stage in group)
            self.add("05_defences", results, self.makers["victim"], *self.measured, **more)

    def plan_studies(self) -> None:
        if "ablations" in self.studies:
            parts = tuple((part, "akd") for part in self.profile.plus_parts(self.run))
            results = ablation_results(self.run) + parts
            needs = (self.makers["mepd"], *self.measured)
            self.add("06_ablations", results, *needs, is_long=True)
        for group in group_work(self.profile, self.profile.list_sweeps(self.run, self.overrides)):
            names, bases = [sweep.name for sweep in group], self.profile.sweep_runs(self.run)
            pairs = itertools.product(group, bases)
            results = sum((sweep_results(base, sweep) for sweep, base in pairs), ())
            more = {"name": title_group(names, "sweeps"), "sweep": alone(names), "is_long": True}
            self.add("07_sensitivity", results, self.makers["akd"], *self.measured, **more)
        if "tsne" in self.studies:
            self.add("08_tsne", ((self.run, "tsne"),), self.makers["akd"])


def plan_never_poisoned(profile: Profile, run: Run, overrides: dict) -> Job:
    """The victim of the same cell without an attack, whose own job it is if the grid has it."""
    clean = replace(run, config=run.config.without_attack())
    parameters = list_parameters(profile, clean.config, overrides)
    results = ((clean, "victim"),)
    about = (parameters, (), title_cell(clean.config), results)
    return Job("01_poisoning", label_results(clean, results), *about)


def title_cell(c: RunConfig) -> str:
    return f"{c.data.name} {c.attack.name} seed {c.seed}"


def list_parameters(profile: Profile, c: RunConfig, overrides: dict) -> dict:
    """What every notebook of a cell is given."""
    cell = {"dataset": c.data.name, "attack": c.attack.name, "seed": c.seed}
    return {"profile": profile.path} | cell | {"overrides": profile.cell_overrides(overrides)}


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
