"""A stage made by several processes together, one on each device."""

import io
import os
import pickle
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError

from bedkd.core.devices import peak_memory_mb, resolve_compute
from bedkd.core.errors import BedkdError
from bedkd.runs.folders import Run
from bedkd.runs.stages import stage_modules

EDITED = (
    "the code of {} was edited while it ran, and nothing of the result is kept; run it again (in a "
    "notebook: restart the kernel)"
)


def make_together(run: Run, stage: str, folder: Path) -> dict:
    """What the stage's module makes in `folder`, by `devices` processes that end with this one.

    Raises BedkdError: there are fewer devices, a process was killed, or whatever the stage raises.
    """
    from torch.multiprocessing import ProcessExitedException, start_processes

    n, device = run.config.devices, resolve_compute(run.config.device, run.config.precision)[0]
    check_devices(device, n)
    with tempfile.TemporaryDirectory(prefix="bedkd-") as name:
        shared = Path(name)
        task = (n, device, run, run.key(stage), stage, folder, shared)
        try:
            start_processes(work, task, nprocs=n, start_method="spawn")
        except ProcessExitedException as error:
            for path in shared.glob("*.error"):
                raise pickle.loads(path.read_bytes()) from None
            raise BedkdError(
                f"one of the {n} processes that made {stage} was killed; too little memory is the "
                "usual cause"
            ) from error
        return pickle.loads((shared / "made").read_bytes())


def check_devices(device: str, n: int) -> None:
    """Raises BedkdError: there are fewer than `n`. A CPU takes any number of processes."""
    import torch

    if n == 1 or device == "cpu":
        return
    if ":" in device:
        raise BedkdError(f"device is {device!r}, one of {n}: name their type alone")
    there = torch.accelerator.device_count()
    if there < n:
        raise BedkdError(f"devices is {n}, but torch sees {there} of {device!r} here")


def work(
    rank: int, n: int, device: str, run: Run, key: str, stage: str, folder: Path, shared: Path
) -> None:
    """One of the processes. All make the same; what others than the first write is thrown away, and
    what they say."""
    from bedkd.nn.parallel import join_group

    if rank:
        folder = shared / str(rank)
        folder.mkdir()
        os.environ["TQDM_DISABLE"], sys.stdout = "1", io.StringIO()
    group = join_group(
        rank, n, shared / "meeting", device, is_sharded=run.config.parallel == "fsdp"
    )
    try:
        if run.key(stage) != key:
            raise BedkdError(EDITED.format(stage))
        made = import_module(stage_modules(stage)[0]).make(replace(run, group=group), stage, folder)
    except (BedkdError, OSError, SafetensorError) as error:
        (shared / f"{rank}.error").write_bytes(pickle.dumps(error))
        sys.exit(1)
    if not rank:
        peak = {"peak_memory_mb": round(peak_memory_mb(group.accelerator.device), 1)}
        (shared / "made").write_bytes(pickle.dumps(made | peak))
    group.accelerator.wait_for_everyone()  # one that leaves early ends what another still waits for
    group.accelerator.end_training()
