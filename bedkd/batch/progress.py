"""What a running batch says: a line for each job that ends, how far it is, and how long it takes.

One process says it all, by looking at what the jobs leave, so that no two lines run together.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from tqdm import tqdm

from bedkd.batch.run_job import job_file

POLL = 0.2  # seconds between two looks


class Progress:
    """`waiting`: the jobs to look for; of the plan's others it counts those that are done."""

    def __init__(self, plan: dict, folder: Path, waiting: list[str]):
        self.jobs, self.folder = plan["jobs"] | plan["summaries"], folder
        self.waiting, self.started, self.spent = list(waiting), time.monotonic(), 0.0
        self.seconds: dict[str, list[float]] = {}  # by notebook
        stamps = {job: read_stamp(folder, job) for job in plan["jobs"] if job not in waiting}
        for job, stamp in stamps.items():
            self.note(job, stamp)
        self.n_ended = sum(stamp is not None for stamp in stamps.values())
        look = {"bar_format": "{n_fmt}/{total_fmt} {bar}{postfix}", "disable": None, "leave": False}
        self.bar = tqdm(total=len(self.jobs), initial=self.n_ended, file=sys.stdout, **look)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def follow(self, process) -> int:
        """Look until the process ends. Returns its exit code."""
        while process.poll() is None:
            self.look()
            time.sleep(POLL)
        self.look()
        return process.returncode

    def look(self) -> None:
        """Say of each job that has ended since the last look how it did."""
        for job in list(self.waiting):
            if job_file(self.folder, job, "failed").exists():
                why = job_file(self.folder, job, "failed").read_text(encoding="utf-8").strip()
                self.say(job, "failed", f": {why}")
            elif stamp := read_stamp(self.folder, job):
                self.spent += stamp["seconds"]
                self.note(job, stamp)
                self.say(job, "done", f" {stamp['seconds']:.1f} s")

    def say(self, job: str, how: str, more: str) -> None:
        self.waiting.remove(job)
        self.n_ended += 1
        self.bar.update()
        left = self.describe_left()
        self.bar.set_postfix_str(left)
        count = f"[{self.n_ended}/{len(self.jobs)}]"
        line = f"{count:9} {how:6} {job.split('/')[0]:14} {self.jobs[job]['title']}{more}"
        if self.bar.disable:
            print(f"{line}; {left}" if left else line, flush=True)
        else:
            self.bar.write(line)

    def note(self, job: str, stamp: dict | None) -> None:
        if stamp:
            self.seconds.setdefault(job.split("/")[0], []).append(stamp["seconds"])

    def describe_left(self) -> str:
        """By the mean of what the same notebook took, else any, at as many jobs at a time as so
        far."""
        if not self.waiting or not self.spent:
            return ""
        everything = [value for values in self.seconds.values() for value in values]
        known = (self.seconds.get(job.split("/")[0], everything) for job in self.waiting)
        at_once = max(1.0, self.spent / (time.monotonic() - self.started))
        minutes = sum(map(statistics.fmean, known)) / at_once / 60
        return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def read_stamp(folder: Path, job: str) -> dict | None:
    """What a finished job left: `seconds`, and `source`, its notebook's digest."""
    try:
        return json.loads(job_file(folder, job, "done").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
