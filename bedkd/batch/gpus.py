"""One GPU for each job: Snakemake counts them, but does not say which job has which.

A plan's `slots` names a device for each job that may run at once: `["0", "1", "0", "1"]` is two
GPUs with two jobs on each, `["0,1"]` two GPUs for a job that spreads a model over both. A job holds
the lock of its slot as long as its process lives, so a killed one leaves nothing to clean up.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bedkd.core.errors import BedkdError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 0.2  # seconds between two looks for a free slot


def list_slots(gpus: int, jobs_per_gpu: int, per_job: int = 1) -> list[str]:
    """The device of each slot, or its `per_job` devices, all GPUs once before one is used twice.

    Raises BedkdError: there are fewer than `gpus`; a job on one that is not there would take the
    CPU. Or a job needs more.
    """
    if gpus and gpus < per_job:
        raise BedkdError(f"--gpus is {gpus}, but devices is {per_job}: so many GPUs has each job")
    devices = list_devices()[:gpus] if gpus else []
    if len(devices) < gpus:
        raise BedkdError(f"--gpus is {gpus}, but torch sees {len(devices)} here")
    starts = range(0, gpus - per_job + 1, per_job)
    return [",".join(devices[start : start + per_job]) for start in starts] * jobs_per_gpu


def list_devices() -> list[str]:
    """The GPUs that we may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    if VISIBLE not in os.environ:
        return [str(number) for number in range(count)]
    return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()][:count]


@contextlib.contextmanager
def hold_gpu(folder: Path, slots: list[str]) -> Iterator[None]:
    """Be told by CUDA_VISIBLE_DEVICES which GPU is ours, where the plan in `folder` has slots."""
    if not slots:
        yield
        return
    with take_slot(folder / ".slots", slots) as device:
        os.environ[VISIBLE] = device
        yield


@contextlib.contextmanager
def take_slot(folder: Path, slots: list[str]) -> Iterator[str]:
    """Hold the lock of the first free slot; gives its device. Waits while all are taken."""
    folder.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(folder / str(number)) for number in range(len(slots))]
    while (free := next((n for n, lock in enumerate(locks) if try_lock(lock)), None)) is None:
        time.sleep(POLL)
    try:
        yield slots[free]
    finally:
        locks[free].release()


def try_lock(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
