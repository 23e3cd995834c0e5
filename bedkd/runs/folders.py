"""Where results lie: a folder for each, whole or not there, found again by its key."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bedkd.core.config import RunConfig
from bedkd.runs.keys import Libraries, stage_key
from bedkd.runs.records import read_record
from bedkd.runs.stages import STAGES


@dataclass(frozen=True)
class Run:
    """One cell of the grid and the folder that all its results lie under. `libraries`: those of
    the machine that made them, if that is another one, of which there are the records alone.
    `group`: the processes that make a stage of it together (nn.parallel.Group), this among them;
    most often None."""

    config: RunConfig
    root: Path
    libraries: Libraries = ()
    group: Any = None

    def key(self, stage: str) -> str:
        return stage_key(self.config, stage, self.libraries)

    def folder(self, stage: str) -> Path:
        c = self.config
        label = f"{Path(c.data.name).stem}-{c.attack.name}-s{c.seed}"
        if STAGES[stage].is_shared:
            label = "shared"
        return self.root / "runs" / stage / f"{label}-{self.key(stage)}"

    def record(self, stage: str) -> dict | None:
        """The record of a finished and complete stage, else None."""
        folder = self.folder(stage)
        record = read_record(folder)
        is_here = record and (self.libraries or is_complete(folder, record))
        return record if is_here else None


@contextlib.contextmanager
def hold_alone(folder: Path) -> Iterator[None]:
    """One process at a time makes a result, others wait: two cells may need the same teacher."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    lock = FileLock(path)  # it ends with its process, however that ends
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"another process makes {folder.parent.name}/{folder.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def publish(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends well, and vanishes when not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield scratch
        scratch.chmod(0o755)
        for path in scratch.rglob("*"):  # libraries write weights for their owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        if (record := read_record(folder)) and is_complete(folder, record):
            shutil.rmtree(scratch)  # made by a process that does not see our locks
            return
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def list_files(folder: Path) -> dict[str, int]:
    """Size in bytes of every file of a finished stage, as the record keeps them."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "record.json")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def is_complete(folder: Path, record: dict) -> bool:
    """True if every file that the record lists is there in its full size."""
    files = ((folder / name, size) for name, size in record.get("files", {}).items())
    return all(path.is_file() and path.stat().st_size == size for path, size in files)
