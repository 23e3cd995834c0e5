"""One run, one record.json: flat, written last and atomically, never half there."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from bedkd.core.files import write_text

# what a result may depend on
LIBRARIES = (
    *("torch", "transformers", "tokenizers", "peft", "datasets"),
    *("numpy", "pandas", "scikit-learn"),
)
# what two runs of the same seed may differ in
VOLATILE_FIELDS = ("started_at", "peak_memory_mb", "files")  # a history holds seconds


def read_record(folder: Path) -> dict | None:
    """The record of a finished run, or None: no record, or one that cannot be read."""
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def stable_part(record: dict) -> dict:
    """A record without its times: what the same seed must give again."""
    return {
        name: value
        for name, value in record.items()
        if name not in VOLATILE_FIELDS and not name.startswith("seconds")
    }


def to_frame(records: list[dict]) -> pd.DataFrame:
    """Many records as one table; the nested `config` and `versions` are left out."""
    nested = ("config", "versions")
    return pd.DataFrame([{k: v for k, v in r.items() if k not in nested} for r in records])


def collect(records: list[dict], path: Path) -> None:
    """Put records into a JSON Lines file, one a line, sorted, in place of all that it has of their
    profiles: those of one campaign."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    profiles = {record["profile"] for record in records}
    kept = [record for record in map(json.loads, lines) if record.get("profile") not in profiles]
    merged = {_cell(record): record for record in [*kept, *records]}
    rows = [json.dumps(merged[cell], sort_keys=True, ensure_ascii=False) for cell in sorted(merged)]
    write_text(path, "\n".join(rows) + "\n")


def _cell(record: dict) -> tuple[str, ...]:
    names = ("profile", "dataset", "model", "attack", "defence", "seed", "label", "study", "value")
    return tuple(str(record.get(name, "")) for name in names)


@cache
def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


@cache
def environment() -> dict:
    """Versions of what computes, and the commit of the checkout (None outside one)."""
    versions = {"python": platform.python_version()} | library_versions()
    return {"versions": versions, "commit": _commit()}


def _commit() -> str | None:
    """HEAD, with `+` if the working tree has changes to tracked files. What is kept as a reference
    is no input: to keep one result must not taint those that are being made."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        kept = ["--", ":/", ":(top,exclude)outputs/reference"]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *kept], capture_output=True)
    except OSError:  # no git
        return None
    return head.stdout.strip() + "+" * bool(changed.returncode) if head.returncode == 0 else None
