"""Where a hub id is found: a local path, the folder in `BEDKD_MIRROR`, or the Hugging Face hub."""

import hashlib
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here

TINY, TINY_LARGE, TINY_ROBERTA = "tiny-bert", "tiny-bert-large", "tiny-roberta"
TINY_MODELS = (TINY, TINY_LARGE, TINY_ROBERTA)  # trained from scratch, found nowhere
TINY_LM = "tiny-lm"  # ONION's or AIText's, likewise
HUB_TIMEOUT = 5  # seconds; an air-gapped machine should hear "no" soon


@dataclass(frozen=True)
class Location:
    """`path` is what `from_pretrained` and `load_dataset` take; `revision` pins its content."""

    path: str
    origin: str  # `local`, `mirror`, `cache` or `hub`
    revision: str  # commit on the hub, or a digest of the files

    @property
    def pinned(self) -> dict[str, str]:
        """What they are told of the revision; a folder is what it is."""
        return {"revision": self.revision} if self.origin in ("hub", "cache") else {}


def mirror_folder() -> Path | None:
    """The folder named by BEDKD_MIRROR, or None. Raises BedkdError if it names no folder."""
    if not (value := os.environ.get("BEDKD_MIRROR")):
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise BedkdError(f"BEDKD_MIRROR is {value!r}, which is not a folder; correct or unset it")
    return folder.resolve()


def locate(repo_id: str, kind: str) -> Location:
    """Find a `model` or `dataset` repository: local path, mirror, hub cache, hub, in this order.
    Raises BedkdError if it is nowhere; the message says what to provide."""
    if repo_id and (folder := from_here(repo_id)).is_dir():
        return Location(str(folder), "local", digest_folder(folder))
    mirror = mirror_folder()
    if repo_id and mirror and (folder := mirror / repo_id).is_dir():
        return Location(str(folder), "mirror", digest_folder(folder))
    return _locate_on_hub(repo_id, kind, mirror)


@cache
def _locate_on_hub(repo_id: str, kind: str, mirror: Path | None) -> Location:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    looked = f"the mirror {mirror}" if mirror else "BEDKD_MIRROR (which is not set)"
    try:
        cached = snapshot_download(repo_id, repo_type=kind, local_files_only=True)
        return Location(repo_id, "cache", Path(cached).name)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise BedkdError(
            f"{repo_id!r} is not in {looked}, and neither a local folder nor a hub id"
        ) from error
    except OSError:  # LocalEntryNotFoundError: not in the cache, so ask the hub
        pass
    try:
        info = HfApi().repo_info(repo_id, repo_type=kind, timeout=HUB_TIMEOUT)
        return Location(repo_id, "hub", info.sha)
    except RepositoryNotFoundError as error:
        raise BedkdError(f"{kind} {repo_id!r} is not in {looked} and not on the hub") from error
    except Exception as error:  # the hub client's transport library changes between versions
        raise BedkdError(
            f"{kind} {repo_id!r} is not in {looked} and the Hugging Face hub does not answer "
            f"({type(error).__name__}); go online, or point BEDKD_MIRROR at a folder that holds "
            f"{repo_id}/"
        ) from error


def model_revision(name: str) -> str:
    """What pins a model's initial weights."""
    return "scratch" if name in (*TINY_MODELS, TINY_LM) else locate(name, "model").revision


def digest_folder(folder: Path) -> str:
    """A short SHA-256 over the names and bytes of all files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}{digest_file(file)}".encode())
    return digest.hexdigest()[:16]


def digest_file(file: Path) -> str:
    """SHA-256 of a file, remembered for as long as its size and time stay the same."""
    stat = file.stat()
    return _digest(str(file), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(file: str, size: int, mtime_ns: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
