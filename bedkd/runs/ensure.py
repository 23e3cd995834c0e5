"""The stages of a run: `ensure(run, stage)` makes one, and what it needs, unless it is there."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError

from bedkd.core.devices import device_name, peak_memory_mb
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.runs.folders import Run, hold_alone, list_files, needed_stages, publish
from bedkd.runs.makers import MAKERS
from bedkd.runs.reading import compute_of, read_truth, read_view
from bedkd.runs.records import environment


def ensure(run: Run, stage: str) -> dict:
    """The record of a stage, made now if it is not there or not whole.

    Raises:
        BedkdError: the disk is full, or whatever the stage itself finds wrong.
    """
    if record := run.record(stage):
        return record
    for needed in needed_stages(run.config, stage):
        ensure(run, needed)
    target = run.folder(stage)
    with explain_full_disk(target), hold_alone(target):
        if record := run.record(stage):  # made by the process that we waited for
            return record
        return make(run, stage)


def make(run: Run, stage: str) -> dict:
    """The record of a stage, made now."""
    started = datetime.now(UTC)
    clock = time.perf_counter()
    with publish(run.folder(stage)) as folder:
        result = MAKERS[stage](run, folder)
        record = describe(run, stage) | result
        record.setdefault("seconds", time.perf_counter() - clock)
        record["started_at"] = started.isoformat(timespec="seconds")
        record["peak_memory_mb"] = round(peak_memory_mb(compute_of(run).device), 1)
        record["files"] = list_files(folder)
        write_json(folder / "record.json", record)
    return record


@contextlib.contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Say it plainly: the cause comes from many libraries, one of them not even as an OSError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        said = [f"os error {code})" for code in codes]
        if getattr(error, "errno", None) in codes or any(text in str(error) for text in said):
            raise BedkdError(
                f"no space left while writing {folder}; nothing of it is kept. Make room (or point "
                "BEDKD_OUTPUTS at another disk) and run again"
            ) from error
        raise


def describe(run: Run, stage: str) -> dict:
    """What every record says of its run."""
    c = run.config
    compute = compute_of(run)
    return {
        "stage": stage,
        "key": run.key(stage),
        "dataset": c.data.name,
        "attack": c.attack.name,
        "model": c.victim.model,
        "seed": c.seed,
        "poison_rate": c.attack.poison_rate if c.attack.name != "none" else 0.0,
        "label_mode": c.attack.label_mode,
        "device": device_name(compute.device),
        "precision": str(compute.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "config": c.flat(),
        **environment(),
    }


def load_view(run: Run) -> DefenderView:
    """The defender's side of a run; makes the victim if need be."""
    ensure(run, "victim")
    return read_view(run)


def load_truth(run: Run) -> Truth:
    """The evaluator's side of a run; makes the data if need be."""
    ensure(run, "data")
    return read_truth(run)
