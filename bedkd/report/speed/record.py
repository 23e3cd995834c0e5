"""What a measurement leaves: ratios, seconds, floors and what each side reached, as one dict."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from bedkd.core.devices import Compute, device_name
from bedkd.core.files import write_json
from bedkd.report.speed.stages import Stage
from bedkd.runs.records import environment


def describe_speed(
    stages: Mapping[str, Stage],
    compute: Compute,
    rates: Mapping[str, float],
    *,
    accuracies: pd.DataFrame,
    growth: pd.DataFrame,
    what: Mapping[str, str],
) -> dict:
    """The record. `rates`: see `matrix_rate`; `what`: the model, the rows and what of them was
    run, in words; in percent: asr, cacc of `accuracies`.

    A stage `dmm_akd` gives ratio_dmm_akd, and an entry in seconds and floor_fraction.
    """
    rate = max(rates.values())
    medians = {name: stage.times.groupby("loop").seconds.median() for name, stage in stages.items()}
    fractions = {name: stage.floor_fraction(rate) for name, stage in stages.items()}
    return {
        **{f"ratio_{name}": stage.ratio for name, stage in stages.items()},
        "floor_fraction": {name: value for name, value in fractions.items() if value == value},
        "seconds": {name: of.to_dict() for name, of in medians.items()},
        "steps": {name: stage.steps for name, stage in stages.items() if stage.steps},
        "rounds": {name: int(stage.times["round"].nunique()) for name, stage in stages.items()},
        "matrix_rate": dict(rates),
        "device": device_name(compute.device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": str(compute.dtype).removeprefix("torch."),
        "accuracies": json.loads(accuracies.to_json(orient="records")),
        "growth": json.loads(growth.to_json(orient="records")),
        "what": dict(what),
        **environment(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def keep_speed(record: dict, path: Path) -> None:
    """Put a record into the file: the one with the most threads first, at its top, the others, of
    other devices or thread counts, under `others`."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    others = old.pop("others", [])
    known = [other for other in (old, *others) if other and _place(other) != _place(record)]
    first, *rest = sorted([record, *known], key=_rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, first | {"others": rest})


def _place(record: dict) -> tuple:
    return record["device"], record["threads"], record["what"]["model"]


def _rank(record: dict) -> tuple:
    """Real data on a CPU before generated text and before other devices."""
    is_tiny = record["what"]["model"].startswith("tiny")
    return is_tiny, record["device"] != "cpu", -record["threads"], record["device"]
