"""The stages of a run: `ensure(run, stage)` makes one, and what it needs, unless it is there."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import torch

from bedkd.devices import device_name, peak_memory_mb
from bedkd.makers import MAKERS
from bedkd.records import environment, write_json
from bedkd.results import compute_of, read_truth, read_view
from bedkd.store import Run, list_files, needed_stages, publish
from bedkd.views import DefenderView, Truth


def ensure(run: Run, stage: str) -> dict:
    """The record of a stage, made now if it is not there or not whole."""
    if record := run.record(stage):
        return record
    for needed in needed_stages(run.config, stage):
        ensure(run, needed)
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
