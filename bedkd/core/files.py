"""Files that are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path


def write_json(path: Path, value, **options) -> None:
    """All or nothing: a temporary file beside `path`, then a rename."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, **options) + "\n")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's own mode would hide it from other users
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
