"""From a profile to a plan of notebook jobs, Snakemake over it, and the summaries after it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bedkd.batch.cluster import Place, find_snakefile, name_folders, plan_gpus, snakemake_options
from bedkd.batch.forks import fork_server
from bedkd.batch.lost import note_lost_jobs
from bedkd.batch.notebooks import notebook_digest
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.runs.folders import source_digest
from bedkd.runs.plan import Job, plan_jobs, plan_summaries, rank_jobs
from bedkd.runs.profiles import Profile, outputs_folder

SUMMARY_MODULES = (
    "report.batch_tables",
    "report.figures",
    "report.page",
)  # with all that they import


def make_plan(profile: Profile, overrides: dict, jobs: list[Job]) -> dict:
    """What the Snakefile reads: job name to notebook parameters and the jobs before it."""
    ranks = rank_jobs(jobs)
    return {
        "profile": profile.name,
        "jobs": {
            name: job | {"priority": ranks[name]} for name, job in describe_jobs(jobs).items()
        },
        "summaries": describe_jobs(plan_summaries(profile, overrides)),
    }


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


def reproduce(profile: Profile, overrides: dict, place: Place, is_dry_run: bool = False) -> int:
    """Run what is not done of a profile, then tables, figures and the report.

    Returns the exit code; a failed cell stops no other.
    """
    jobs = plan_jobs(profile, overrides)
    plan = make_plan(profile, overrides, jobs) | plan_gpus(place)
    folder = outputs_folder() / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder) as lock, name_folders():
        write_json(folder / "plan.json", plan)
        forget_broken(jobs, folder)
        command = [sys.executable, "-m", "snakemake", "-s", str(find_snakefile(place, folder))]
        with open(folder / "snakemake.log", "a", encoding="utf-8") as log:
            unlock(command, folder, log)
            options = [*snakemake_options(place, folder), "--keep-going", "--rerun-incomplete"]
            options += ["--scheduler", "greedy", "--nocolor"]
            if is_dry_run:
                return list_to_do([*command, *options], plan, folder)
            with contextlib.nullcontext() if place.cluster else fork_server(log):
                before = os.fstat(log.fileno()).st_size
                # the lock is Snakemake's too, in case that it outlives this process
                keep = {"pass_fds": [lock.fileno()]}
                result = subprocess.run([*command, *options], cwd=folder, stderr=log, **keep)
                note_lost_jobs(folder, before)
                is_summarised = summarise(profile, overrides, jobs, plan, log)
    return report(plan, folder, result.returncode, is_summarised)


def list_to_do(command: list[str], plan: dict, folder: Path) -> int:
    """Print what Snakemake would run. Returns its exit code."""
    result = subprocess.run([*command, "-n"], cwd=folder, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout + result.stderr, file=sys.stderr)
    found = set(re.findall(r"^ +log: (?:\S*/)?notebooks/(\S+)\.ipynb", result.stdout, re.MULTILINE))
    for name in (name for name in plan["jobs"] if name in found):
        print(f"would run  {name.split('/')[0]:14} {plan['jobs'][name]['title']}")
    print(f"\n{len(found)} of {len(plan['jobs'])} jobs, then tables, figures and the report")
    return result.returncode


def unlock(command: list[str], folder: Path, log) -> None:
    """A killed run leaves Snakemake's own lock behind; ours died with its process."""
    if any((folder / ".snakemake/locks").glob("*")):
        subprocess.run([*command, "--unlock"], cwd=folder, stdout=log, stderr=log, check=False)


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


def forget_broken(jobs: list[Job], folder: Path) -> None:
    """Take away the stamp of every job whose result is gone or not whole, so that it runs again."""
    said = set()
    for job in jobs:
        stamp = folder / "notebooks" / f"{job.name}.done"
        broken = {run.folder(s) for run, s in job.results if run.record(s) is None}
        if stamp.exists() and broken:
            stamp.unlink()
            for path in sorted(broken - said):
                print(f"again   {path} is gone or not whole")
            said |= broken


def summarise(profile: Profile, overrides: dict, jobs: list[Job], plan: dict, log) -> bool:
    """Make tables, figures and report.html, unless they are of these very results already.

    Not part of the DAG: a job of Snakemake runs only if all before it went well, and a report that
    a failed cell keeps from being made cannot show it. Returns True if all went well.
    """
    folder = outputs_folder() / profile.name
    stamp = folder / "summaries.json"
    now = {"results": digest_results(jobs, plan, folder)}
    outputs = [folder / name for name in ("tables/table1.csv", "report.html")]
    if all(path.exists() for path in outputs) and read_json(stamp) == now:
        return True
    stamp.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bedkd.batch.run_job", "plan.json"]
    made = [subprocess.Popen([*command, job], cwd=folder, stderr=log) for job in plan["summaries"]]
    codes = [process.wait() for process in made]
    from bedkd.report.page import write_report  # with pandas and scipy: not before it is needed

    write_report(profile.path, overrides)
    if not any(codes):
        write_json(stamp, now)
    return not any(codes)


def digest_results(jobs: list[Job], plan: dict, folder: Path) -> str:
    """What the summaries show: which results are there, what failed, and the code that shows it."""
    parts = [source_digest(module) for module in SUMMARY_MODULES]
    parts += [job["source"] for job in plan["summaries"].values()]
    for job in jobs:
        parts.append(str((folder / "notebooks" / f"{job.name}.failed").exists()))
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
    jobs = plan["jobs"] | plan["summaries"]
    failures = {job: folder / "notebooks" / f"{job}.failed" for job in jobs}
    failures = {job: path for job, path in failures.items() if path.exists()}
    for job, path in failures.items():
        print(f"\n{job} failed: {path.read_text(encoding='utf-8').strip()}", file=sys.stderr)
        print(f"  traceback: {path.with_suffix('.ipynb')}", file=sys.stderr)
    if code and not failures:
        print(
            f"\nSnakemake stopped with code {code}; see {folder / 'snakemake.log'}", file=sys.stderr
        )
    is_done = not code and is_summarised
    look = f"Look at {folder / 'report.html'}, {folder / 'tables'} and {folder / 'figures'}"
    print(f"\n{'All done. ' if is_done else 'Not all done. '}{look}")
    return 0 if is_done else 1
