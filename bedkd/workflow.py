"""From a profile to a plan of notebook jobs, and Snakemake over it."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
from pathlib import Path

from bedkd.errors import BedkdError
from bedkd.forkserver import fork_server
from bedkd.notebooks import notebook_digest
from bedkd.plan import SUMMARIES, plan_jobs
from bedkd.profiles import PROJECT, Profile, outputs_folder
from bedkd.records import write_json


def make_plan(profile: Profile, overrides: dict, threads: int = 1) -> dict:
    """What the Snakefile reads: job name to notebook parameters and the jobs before it."""
    jobs = {
        job.name: {
            "parameters": job.parameters,
            "needs": list(job.needs),
            "is_summary": job.notebook in SUMMARIES,
            "source": notebook_digest(job.notebook),
            "title": job.title,
        }
        for job in plan_jobs(profile, overrides)
    }
    return {"profile": profile.name, "threads": threads, "jobs": jobs}


def reproduce(profile: Profile, overrides: dict, cores: int, is_dry_run: bool = False) -> int:
    """Run what is not done of a profile. Returns the exit code; a failed cell stops no other."""
    plan = make_plan(profile, overrides)
    folder = outputs_folder() / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder):
        write_json(folder / "plan.json", plan)
        forget_broken(profile, overrides, folder)
        command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile")]
        with open(folder / "snakemake.log", "a", encoding="utf-8") as log:
            # a killed run leaves Snakemake's own lock behind; ours died with its process
            subprocess.run([*command, "--unlock"], cwd=folder, stdout=log, stderr=log, check=False)
            options = ["--cores", str(cores), "--keep-going", "--rerun-incomplete"]
            options += ["--scheduler", "greedy", "--nocolor"]
            if is_dry_run:
                return subprocess.run(
                    [*command, *options, "-n", "--quiet", "rules"], cwd=folder
                ).returncode
            with fork_server(log):
                result = subprocess.run([*command, *options], cwd=folder, stderr=log)
    return report(plan, folder, result.returncode)


@contextlib.contextmanager
def hold_lock(folder: Path):
    """One batch at a time in a folder; the lock ends with the process, however it ends."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BedkdError(f"another run is at work in {folder}; wait for it to end") from error
        yield


def forget_broken(profile: Profile, overrides: dict, folder: Path) -> None:
    """Take away the stamp of every job whose result is gone or not whole, so that it runs again."""
    for job in plan_jobs(profile, overrides):
        stamp = folder / "notebooks" / f"{job.name}.done"
        broken = [run.folder(s) for run, s in job.results if run.record(s) is None]
        if stamp.exists() and broken:
            print(f"again   {broken[0]} is gone or not whole")
            stamp.unlink()


def report(plan: dict, folder: Path, code: int) -> int:
    """Say what failed, and where to look."""
    failures = {job: folder / "notebooks" / f"{job}.failed" for job in plan["jobs"]}
    failures = {job: path for job, path in failures.items() if path.exists()}
    for job, path in failures.items():
        print(f"\n{job} failed: {path.read_text(encoding='utf-8').strip()}", file=sys.stderr)
        print(f"  traceback: {path.with_suffix('.ipynb')}", file=sys.stderr)
    if code and not failures:
        print(
            f"\nSnakemake stopped with code {code}; see {folder / 'snakemake.log'}", file=sys.stderr
        )
    if code:
        return 1
    print(f"\nAll done. Look at {folder / 'tables/table1.md'} and {folder / 'figures'}")
    return 0
