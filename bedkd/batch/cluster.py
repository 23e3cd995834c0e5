"""Where a batch runs its jobs: on this machine, or on a cluster by one of Snakemake's executors."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bedkd.batch.gpus import list_slots
from bedkd.core.errors import BedkdError
from bedkd.core.files import HERE
from bedkd.runs.nested import read_yaml
from bedkd.runs.profiles import PROJECT, Profile, outputs_folder

FOLDER = PROJECT / "params" / "cluster"
FILES = ("profile.yaml", "config.yaml")  # what Snakemake takes for a profile
BUILT_IN = ("local", "dryrun", "touch")
VARIABLES = ("BEDKD_OUTPUTS", "BEDKD_MIRROR", HERE)  # what a job must know of where it was started


@dataclass(frozen=True)
class Place:
    """`cores`: jobs at a time; None leaves them to the cluster. `cluster`: the folder of a profile
    of Snakemake's; None is this machine. `has_storage`: jobs start in a folder of their own, and
    Snakemake carries its files there and back (Kubernetes)."""

    cores: int | None = 1
    cluster: Path | None = None
    gpus: int = 0
    jobs_per_gpu: int = 1
    has_storage: bool = False


def choose_place(
    cores: int | None = None, cluster: str | None = None, gpus: int = 0, jobs_per_gpu: int = 1
) -> Place:
    """What the command line asks for; `cores` of this machine are all of them by default.

    Raises BedkdError: a number that cannot be, an unknown cluster, an executor that is not
    installed.
    """
    for option, value, least in (
        ("cores", cores, 1),
        ("gpus", gpus, 0),
        ("jobs-per-gpu", jobs_per_gpu, 1),
    ):
        if value is not None and value < least:
            raise BedkdError(f"--{option} is {value}; it must be {least} or more")
    if jobs_per_gpu > 1 and not gpus:
        raise BedkdError(f"--jobs-per-gpu is {jobs_per_gpu}, but --gpus is 0; give --gpus too")
    if cluster is None:
        return Place(cores or os.cpu_count() or 1, None, gpus, jobs_per_gpu)
    if jobs_per_gpu > 1:
        raise BedkdError(
            f"--jobs-per-gpu is {jobs_per_gpu}, but on a cluster the scheduler shares GPUs "
            "(on Slurm by `gres: shard:1` in the profile); leave it out"
        )
    folder, values = read_cluster(cluster)
    return Place(cores, folder, gpus, has_storage="default-storage-provider" in values)


def settle_compute(profile: Profile, overrides: dict, place: Place) -> dict:
    """`overrides` with device and precision by name where jobs run on other machines.

    A result's key holds what `auto` becomes, and that must be the same here and on every node: with
    `--gpus` a GPU that computes bfloat16, else what this machine's CPU does.
    """
    if not place.cluster:
        return overrides
    from bedkd.core.devices import resolve_compute  # with torch: not before it is needed

    asked = {name: "auto" for name in ("device", "precision")} | profile.config | overrides
    device, precision = asked["device"], asked["precision"]
    if device == "auto":
        device = "cuda" if place.gpus else "cpu"
    if precision == "auto":
        precision = "bf16" if device != "cpu" else resolve_compute(device, precision)[1]
    return overrides | {"device": device, "precision": precision}


def snakemake_options(place: Place, folder: Path) -> list[str]:
    """What Snakemake is told of the place. `folder`: of the batch."""
    if place.cluster:
        # over a profile of the site's own, if SNAKEMAKE_PROFILE names one
        options = ["--workflow-profile", str(place.cluster)]
        options += ["--jobs", str(place.cores)] if place.cores else []
        options += ["--envvars", *(name for name in VARIABLES if name in os.environ)]
    else:
        options = ["--cores", str(place.cores)]
    if place.has_storage:
        # a job changes into the batch's folder, on the volume; what is carried ends there too
        options += ["--directory", str(folder), "--default-storage-prefix", str(folder)]
    if place.gpus:
        options += ["--resources", f"gpu={place.gpus * place.jobs_per_gpu}"]
    return options


def plan_gpus(place: Place, per_job: int = 1) -> dict:
    """What a plan says of GPUs. On a cluster the scheduler assigns them, here a job's slot does.

    Raises BedkdError: more GPUs than this process may see, or fewer than a job needs.
    """
    slots = [] if place.cluster else list_slots(place.gpus, place.jobs_per_gpu, per_job)
    return {"resources": {"gpu": per_job} if place.gpus else {}, "slots": slots}


def find_snakefile(place: Place, folder: Path) -> Path:
    """The Snakefile; a copy in the batch's folder if it is to be carried, for from there it is."""
    source = PROJECT / "Snakefile"
    return Path(shutil.copy(source, folder)) if place.has_storage else source


def read_cluster(name: str) -> tuple[Path, dict]:
    """The folder of a profile and what it says.

    Raises BedkdError: neither a name in params/cluster/ nor such a folder, no YAML, or an executor
    that is not installed.
    """
    known = sorted(path.parent.name for path in FOLDER.glob("*/config.yaml"))
    folder = FOLDER / name if name in known else Path(name).expanduser().resolve()
    file = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if file is None:
        raise BedkdError(
            f"unknown cluster {name!r}; known: {', '.join(known)}, or a folder with a profile "
            f"of Snakemake's ({' or '.join(FILES)})"
        )
    values = read_yaml(file)
    check_executor(file, values.get("executor"))
    return folder, values


def check_executor(file: Path, name: str | None) -> None:
    """Raises BedkdError if the executor that a profile names is not installed."""
    module = f"snakemake_executor_plugin_{str(name).replace('-', '_')}"
    if name not in (None, *BUILT_IN) and not find_spec(module):
        raise BedkdError(
            f"{file} asks for the executor {name!r}, which is not installed; for Slurm and "
            "Kubernetes: pip install -c constraints.txt -e '.[cluster]'"
        )


@contextlib.contextmanager
def name_folders() -> Iterator[None]:
    """Jobs started in the block find outputs and mirror by absolute paths, wherever they run."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ["BEDKD_OUTPUTS"] = str(outputs_folder())
    os.environ[HERE] = str(Path(before[HERE] or "").absolute())
    if mirror := before["BEDKD_MIRROR"]:
        os.environ["BEDKD_MIRROR"] = str(Path(mirror).expanduser().resolve())
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
