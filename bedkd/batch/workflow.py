"""From a profile to a plan of notebook jobs, Snakemake over it, and the summaries after it."""

import contextlib
import fcntl
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bedkd.batch.cluster import (
    Place,
    find_snakefile,
    name_folders,
    plan_gpus,
    settle_compute,
    snakemake_options,
)
from bedkd.batch.inputs import check_files
from bedkd.batch.notebooks import notebook_digest
from bedkd.batch.progress import Progress, read_stamp
from bedkd.batch.run_job import job_file
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json, write_text
from bedkd.runs.keys import PACKAGE, digest_code
from bedkd.runs.plan import Job, plan_jobs, plan_summaries, rank_jobs
from bedkd.runs.profiles import PROJECT, Profile, outputs_folder
from bedkd.runs.sweeps import is_settled

# what tables, figures and report are made by, with all that it imports, and from
SUMMARY_MODULES = (
    *("bedkd.report.figures", "bedkd.report.page", "bedkd.report.sensitivity_figures"),
)
SUMMARY_FILES = (PACKAGE / "report/page.html.j2", PROJECT / "params/paper_tables.yaml")
LOST = "it was killed or cancelled, or memory or time ran out (snakemake.log may say which)"


def make_plan(profile: Profile, overrides: dict, jobs: list[Job], folder: Path) -> dict:
    """What the Snakefile and the jobs read: job name to notebook parameters, the jobs before it,
    and `is_todo`: whether it is to be run at all.

    `members`: what runs in one kernel, told of the last of them, which is Snakemake's job for all.
    """
    ranks, todo, groups = rank_jobs(jobs), find_todo(jobs, folder), group_jobs(jobs)
    last = {name: members[-1] for members in groups for name in members}
    todo |= {last[name] for name in todo}
    described = describe_jobs(jobs)
    for name, job in described.items():
        job |= {"priority": ranks[name], "is_todo": name in todo}
    for members in groups:
        needs = {last[need] for name in members for need in described[name]["needs"]}
        own = {"members": members, "before": sorted(needs - {members[-1]})}
        described[members[-1]] |= own | {"priority": max(ranks[name] for name in members)}
    summaries = describe_jobs(plan_summaries(profile, overrides))
    return {"profile": profile.name, "jobs": described, "summaries": summaries}


def group_jobs(jobs: list[Job]) -> list[list[str]]:
    """The jobs that share a kernel, in their order; most often one alone."""
    groups: dict[str, list[str]] = {}
    for job in jobs:
        groups.setdefault(job.kernel or job.name, []).append(job.name)
    return list(groups.values())


def describe_jobs(jobs: Iterable[Job]) -> dict:
    return {
        job.name: {
            "parameters": job.parameters,
            "needs": list(job.needs),
            "source": notebook_digest(job.notebook),
            "title": job.title,
        }
        for job in jobs
    }


def find_todo(jobs: list[Job], folder: Path) -> set[str]:
    """The jobs without a stamp of the notebook as it is now, or whose result is not whole.

    Nothing else needs a look: a changed parameter, file or line of code is a job of another name.
    """
    todo, said = set(), set()
    for job in jobs:
        stamp = read_stamp(folder, job.name)
        broken = {run.folder(stage) for run, stage in job.results if not is_settled(run, stage)}
        if not stamp or stamp.get("source") != notebook_digest(job.notebook) or broken:
            todo.add(job.name)
        for path in sorted(broken - said) if stamp else ():
            print(f"again   {path} is gone or not whole")
        said |= broken
    return todo


def reproduce(profile: Profile, overrides: dict, place: Place, is_dry_run: bool = False) -> int:
    """Run what is not done of a profile, then tables, figures and the report.

    Returns the exit code; a failed cell stops no other.
    """
    check_files(profile, overrides)
    overrides = settle_compute(profile, overrides, place)
    jobs = plan_jobs(profile, overrides)
    gpus = plan_gpus(place, max(run.config.devices for job in jobs for run, _ in job.results))
    folder = outputs_folder() / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder) as lock, name_folders():
        plan = make_plan(profile, overrides, jobs, folder) | gpus
        write_json(folder / "plan.json", plan)
        todo = [name for name, job in plan["jobs"].items() if job["is_todo"]]
        if is_dry_run:
            return show_todo(plan, todo, snakemake_command(place, folder), folder)
        for name in todo:
            for ending in ("done", "failed"):
                job_file(folder, name, ending).unlink(missing_ok=True)
        with open(folder / "snakemake.log", "a", encoding="utf-8") as log:
            code = run_jobs(plan, todo, place, folder, lock, log) if todo else 0
            is_summarised = summarise(profile, overrides, jobs, plan, log)
    return report(plan, folder, code, is_summarised)


def show_todo(plan: dict, todo: list[str], command: list[str], folder: Path) -> int:
    """Print what would run. Returns Snakemake's exit code for a dry run of it."""
    result = subprocess.run([*command, "-n", "-q"], cwd=folder, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout + result.stderr, file=sys.stderr)
    for name in todo:
        print(f"would run  {name.split('/')[0]:14} {plan['jobs'][name]['title']}")
    print(f"\n{len(todo)} of {len(plan['jobs'])} jobs, then tables, figures and the report")
    return result.returncode


def snakemake_command(place: Place, folder: Path) -> list[str]:
    # what is to be run is the plan's to say
    options = ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    options += ["--scheduler", "greedy", "--nocolor", *snakemake_options(place, folder)]
    return [sys.executable, "-m", "snakemake", "-s", str(find_snakefile(place, folder)), *options]


def run_jobs(plan: dict, todo: list[str], place: Place, folder: Path, lock, log) -> int:
    """Snakemake over the jobs that are to be run. Returns its exit code."""
    command, how = snakemake_command(place, folder), {"cwd": folder, "stdout": log, "stderr": log}
    if any((folder / ".snakemake/locks").glob("*")):  # a killed run leaves them; ours died with it
        subprocess.run([*command, "--unlock"], **how, check=False)
    # the lock is Snakemake's too, in case that it outlives this process
    how |= {"pass_fds": [lock.fileno()]}
    with Progress(plan, folder, todo) as progress:
        code = progress.follow(subprocess.Popen(command, **how))
        note_lost_jobs(plan, todo, folder)
        progress.look()
    return code


def note_lost_jobs(plan: dict, todo: list[str], folder: Path) -> None:
    """Write JOB.failed for each job that ended without a word: all before it is done, and it left
    neither a stamp nor a failure."""
    lost = []
    for name in todo:
        needs = plan["jobs"][name]["needs"]
        is_ended = any(job_file(folder, name, end).exists() for end in ("done", "failed"))
        if not is_ended and all(job_file(folder, need, "done").exists() for need in needs):
            lost.append(name)
    for name in lost:
        write_text(job_file(folder, name, "failed"), f"{LOST}\n")


@contextlib.contextmanager
def hold_lock(folder: Path):
    """One batch at a time in a folder. The lock, an open file, ends with the last process that has
    it, however that ends.
    """
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BedkdError(
                f"another run is at work in {folder}, or the Snakemake of one that was killed; "
                "wait for it to end"
            ) from error
        yield lock


def summarise(profile: Profile, overrides: dict, jobs: list[Job], plan: dict, log) -> bool:
    """Make tables, figures and report.html, unless they are of these very results already.

    Not part of the DAG: a job of Snakemake runs only if all before it went well, and a report that
    a failed cell keeps from being made cannot show it. Returns True if all went well.
    """
    folder = outputs_folder() / profile.name
    stamp, outputs = folder / "summaries.json", ("tables/table1.csv", "report.html")
    now = {"results": digest_results(profile, jobs, plan, folder)}
    if all((folder / name).exists() for name in outputs) and read_json(stamp) == now:
        return True
    stamp.unlink(missing_ok=True)
    for job in plan["summaries"]:
        job_file(folder, job, "done").unlink(missing_ok=True)
    command = [sys.executable, "-m", "bedkd.batch.run_job", "plan.json"]
    made = [subprocess.Popen([*command, job], cwd=folder, stderr=log) for job in plan["summaries"]]
    from bedkd.report.page import write_report  # with pandas and scipy: not before it is needed

    with Progress(plan, folder, list(plan["summaries"])) as progress:
        codes = [progress.follow(process) for process in made]
    write_report(profile.path, overrides)
    if not any(codes):
        write_json(stamp, now)
    return not any(codes)


def digest_results(profile: Profile, jobs: list[Job], plan: dict, folder: Path) -> str:
    """What the summaries show: which results are there, what failed and why, the paper's numbers,
    and the code that shows it all."""
    parts = [digest_code(SUMMARY_MODULES), json.dumps(plan["summaries"]), profile.about]
    parts += [path.read_text(encoding="utf-8") for path in SUMMARY_FILES]
    for job in jobs:
        failed = job_file(folder, job.name, "failed")
        parts.append(failed.read_text(encoding="utf-8") if failed.exists() else "")
        for run, stage in job.results:
            record = run.record(stage) or {}
            parts.append(f"{run.folder(stage).name} {record.get('started_at')}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def report(plan: dict, folder: Path, code: int, is_summarised: bool) -> int:
    """Say what failed, and where to look."""
    failures = {job: job_file(folder, job, "failed") for job in plan["jobs"] | plan["summaries"]}
    failures = {job: path for job, path in failures.items() if path.exists()}
    for job, path in failures.items():
        print(f"\n{job} failed: {path.read_text(encoding='utf-8').strip()}", file=sys.stderr)
        print(f"  traceback: {path.with_suffix('.ipynb')}", file=sys.stderr)
    if code and not failures:
        print(
            f"\nSnakemake stopped with code {code}; see {folder / 'snakemake.log'}", file=sys.stderr
        )
    is_done = not code and not failures and is_summarised
    look = f"Look at {folder / 'report.html'}, {folder / 'tables'} and {folder / 'figures'}"
    print(f"\n{'All done. ' if is_done else 'Not all done. '}{look}")
    return 0 if is_done else 1
