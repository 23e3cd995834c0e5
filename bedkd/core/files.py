"""Files that are written whole or not at all, and where a path that a user gives counts from."""

import json
import os
import tempfile
from pathlib import Path

HERE = "BEDKD_CWD"  # where the user stands, for jobs that run elsewhere


def from_here(path: str | Path) -> Path:
    """A path that a user gave, in whatever folder it is looked for."""
    return Path(os.environ.get(HERE, "")) / Path(path).expanduser()


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
