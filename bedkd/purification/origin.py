"""What a purified model came from: names and hashes, for its card."""

import hashlib
from pathlib import Path

import pandas as pd

from bedkd.core import hub
from bedkd.core.files import from_here


def describe_model(model) -> dict[str, str]:
    """name, and revision or hash, of a folder or hub id; of a model in memory its class."""
    if not isinstance(model, str | Path):
        return {"name": type(model).__name__, "revision": "given in memory"}
    location = hub.locate(str(model), "model")
    name = Path(model).resolve().name if location.origin == "local" else str(model)
    return {"name": name, "revision": location.revision}


def describe_rows(source, rows: pd.DataFrame) -> dict[str, str | int]:
    """name and hash of a file's bytes; of a table in memory or a hub's of its rows as they were
    read (columns text, label)."""
    if isinstance(source, str | Path) and (file := from_here(source)).is_file():
        return {"name": file.name, "rows": len(rows), "sha256": hub.digest_file(file)}
    name = source if isinstance(source, str) else type(source).__name__
    values = pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes()
    return {"name": name, "rows": len(rows), "sha256": hashlib.sha256(values).hexdigest()}
