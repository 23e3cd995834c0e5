"""Devices: the one place that knows their names."""

import contextlib
import math
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bedkd.core.errors import BedkdError

FUSED = ("cpu", "cuda", "mps", "xpu")  # types of device for which torch has fused Adam kernels
SHAPE = 16  # tokens


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute, and with whom."""

    device: torch.device
    dtype: torch.dtype  # of autocast; float32: no autocast
    group: Any = None  # nn.parallel.Group: the processes that share each batch; None: this alone

    @property
    def home(self) -> torch.device:
        """Where a model is between passes: one that no device holds is whole on the CPU alone."""
        return torch.device("cpu") if self.group and self.group.is_sharded else self.device

    @property
    def rank(self) -> int:
        """This process's number among those that share each batch."""
        return self.group.rank if self.group else 0

    @property
    def attention(self) -> str:
        """transformers' name of the faster attention; on a CPU plain code wins for short texts."""
        return "eager" if self.device.type == "cpu" else "sdpa"

    @property
    def eval_tokens(self) -> int:
        """Padded tokens in an evaluation batch: an accelerator wants many, a CPU's cache few."""
        return 2048 if self.device.type == "cpu" else 16384

    @property
    def is_graphed(self) -> bool:
        """Whether training steps are recorded and replayed."""
        return self.device.type == "cuda" and self.group is None

    def padded(self, length: int) -> int:
        """Tokens to which a training batch of that length is padded: few different ones where each
        is recorded."""
        return math.ceil(length / SHAPE) * SHAPE if self.is_graphed else length

    def autocast(self) -> torch.autocast:
        is_low = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=is_low)


def pick_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """`auto` takes an accelerator if torch knows one, and bfloat16 where it is computed natively.
    Raises BedkdError if torch does not know the device, or cannot reach it."""
    device, precision = resolve_compute(device, precision)
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by backend
        raise BedkdError(f"device {device!r} cannot be used: {error}") from error
    return Compute(chosen, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision])


def resolve_compute(device: str, precision: str) -> tuple[str, str]:
    """What `auto` becomes, such as ("cpu", "bf16"); other values stay as they are."""
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator else "cpu"
    if precision == "auto":
        precision = "bf16" if has_native_bf16(device) else "fp32"
    return device, precision


def has_native_bf16(device: str) -> bool:
    """Whether a device, such as `cpu` or `cuda:1`, computes bfloat16 itself."""
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def device_name(device: torch.device) -> str:
    """What a record says: the accelerator's own name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU where there is one, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def reset_peak_memory(device: torch.device) -> None:
    """Count the peak anew; on systems other than Linux a process's covers all that it has done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # man proc_pid_clear_refs


def synchronize() -> None:
    """Wait for the accelerator, if there is one, so that a clock read next tells the truth."""
    if torch.accelerator.current_accelerator(check_available=True):
        torch.accelerator.synchronize()
