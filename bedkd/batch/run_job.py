"""One job of a plan: `python -m bedkd.batch.run_job plan.json JOB`. Imports little."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from bedkd.batch.forks import run_forked
from bedkd.batch.gpus import hold_gpu


def main(arguments: list[str]) -> int:
    """Run it on a GPU of its own where GPUs are counted. Returns the exit code."""
    with hold_gpu(Path(arguments[0]), arguments[1]):
        return run(arguments)


def run(arguments: list[str]) -> int:
    """In a fork of the server where there is one, else here."""
    with contextlib.suppress(OSError):
        return run_forked(arguments)
    from bedkd.batch.notebooks import run_job

    return run_job(Path(arguments[0]), arguments[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
