"""Jobs that ended without a word: killed, out of memory, cancelled or timed out on a cluster.

A job that fails says why in JOB.failed. Of one that could not, Snakemake's log says what there is
to say; it becomes JOB.failed, so that all who look for failures find it there.
"""

from __future__ import annotations

import re
from pathlib import Path

from bedkd.core.files import write_text

# an indented block; `output` may lead with the folder of a storage
BLOCK = re.compile(r"^Error in rule run_notebook:\n((?: +.*\n)+)", re.MULTILINE)
OUTPUT = re.compile(r"^ +output: (?:\S*/)?notebooks/(\S+)\.done", re.MULTILINE)
MESSAGE = re.compile(r"^ +message: (.*)$", re.MULTILINE)
LOGS = re.compile(r"^ +log: (.*?)(?: \(.*\))?$", re.MULTILINE)
ENDING = "For further error details"  # of a message of Snakemake's, on where it keeps its logs
KILLED = "it was killed, or the memory ran out"


def note_lost_jobs(folder: Path, start: int = 0) -> None:
    """Write JOB.failed for every job that failed by snakemake.log, from byte `start` on, and left
    none itself."""
    with open(folder / "snakemake.log", "rb") as stream:
        stream.seek(start)
        log = stream.read().decode(errors="replace")
    for job, why in read_errors(log).items():
        done, failed = (folder / "notebooks" / f"{job}.{end}" for end in ("done", "failed"))
        if not done.exists() and not failed.exists():
            failed.parent.mkdir(parents=True, exist_ok=True)
            write_text(failed, f"{why}\n")


def read_errors(log: str) -> dict[str, str]:
    """Job to what Snakemake's log says of its failure."""
    errors = {}
    for block in BLOCK.findall(log):
        if job := OUTPUT.search(block):
            found = MESSAGE.search(block)
            why = found[1].split(ENDING)[0].strip() if found and found[1] != "None" else KILLED
            logs = LOGS.search(block)
            more = [path for path in logs[1].split(", ") if not path.endswith(".ipynb")]
            errors[job[1]] = f"{why} (log: {more[0]})" if more else why
    return errors
