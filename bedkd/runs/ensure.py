"""`ensure(run, stage)` makes a stage, and what it needs, unless it is there."""

import contextlib
import errno
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from bedkd.core.devices import device_name, peak_memory_mb, pick_compute, reset_peak_memory
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.runs.folders import Run, hold_alone, list_files, publish
from bedkd.runs.launch import EDITED, make_together
from bedkd.runs.records import environment
from bedkd.runs.stages import STAGES, needed_stages, stage_modules

if TYPE_CHECKING:  # a stage loads what it needs itself
    from bedkd.evaluation.sides import DefenderView, Truth


def ensure(run: Run, stage: str) -> dict:
    """The record of a stage, made now if it is not there or not whole.

    Raises BedkdError: the disk is full, or whatever the stage itself finds wrong.
    """
    if record := run.record(stage):
        return record
    for config, needed in needed_stages(run.config, stage):
        ensure(replace(run, config=config), needed)
    target = run.folder(stage)
    with explain_full_disk(target), hold_alone(target):
        if record := run.record(stage):  # made by the process that we waited for
            return record
        return make(run, stage, target)


def make(run: Run, stage: str, target: Path) -> dict:
    """The record of a stage, made now in the folder `target`.

    Raises BedkdError: code was edited between the choice of `target` and its use, or as `ensure`.
    """
    compute = pick_compute(run.config.device, run.config.precision)
    reset_peak_memory(compute.device)
    started, clock = datetime.now(UTC), time.perf_counter()
    is_shared = run.config.devices > 1 and STAGES[stage].is_spread
    maker = make_together if is_shared else import_module(stage_modules(stage)[0]).make
    with publish(target) as folder:
        made = maker(run, stage, folder)
        record = describe(run, stage, compute) | made
        record.setdefault("seconds", time.perf_counter() - clock)
        record["started_at"] = started.isoformat(timespec="seconds")
        record.setdefault("peak_memory_mb", round(peak_memory_mb(compute.device), 1))
        record["files"] = list_files(folder)
        if run.folder(stage) != target:
            raise BedkdError(EDITED.format(stage))
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


def describe(run: Run, stage: str, compute) -> dict:
    """What every record says of its run."""
    import torch

    c = run.config
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


def load_view(run: Run) -> "DefenderView":
    """The defender's side of a run; makes the victim if need be."""
    from bedkd.runs.reading import read_view

    ensure(run, "victim")
    return read_view(run)


def load_truth(run: Run) -> "Truth":
    """The evaluator's side of a run; makes the data if need be."""
    from bedkd.runs.reading import read_truth

    ensure(run, "data")
    return read_truth(run)
