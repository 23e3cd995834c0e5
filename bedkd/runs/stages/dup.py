"""DUP: rows found by the victim's layers, then unlearnt."""

import time
from functools import partial
from pathlib import Path

from bedkd.defences.dup import defend
from bedkd.defences.layer_scores import flag_rows
from bedkd.runs.folders import Run
from bedkd.runs.stages.defended import equip, measure
from bedkd.runs.stages.flagged import rate


def make(run: Run, stage: str, folder: Path) -> dict:
    """The record's `seconds` are those of finding the rows too."""
    view, started = equip(run, stage), time.perf_counter()
    is_flagged = flag_rows(view, run.config.dup)
    seconds = time.perf_counter() - started
    record = measure(run, stage, folder, partial(defend, is_flagged=is_flagged), view)
    times = {"seconds_finding": seconds, "seconds": record["seconds"] + seconds}
    return record | rate(run, is_flagged) | times
