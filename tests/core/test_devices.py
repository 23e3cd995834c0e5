"""The choice of a device and precision, and what is asked of a device."""

import sys

import pytest
import torch

from bedkd.core import devices
from bedkd.core.devices import (
    Compute,
    device_name,
    peak_memory_mb,
    pick_compute,
    reset_peak_memory,
    resolve_compute,
    synchronize,
)
from bedkd.core.errors import BedkdError


def test_pick_compute_takes_what_is_named():
    compute = pick_compute("cpu", "fp32")
    assert (compute.device, compute.dtype) == (torch.device("cpu"), torch.float32)
    assert pick_compute("cpu", "bf16").dtype == torch.bfloat16


def test_auto_precision_follows_the_hardware(monkeypatch):
    for is_native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "has_native_bf16", lambda device, native=is_native: native)
        assert pick_compute("cpu", "auto").dtype == dtype
        assert pick_compute("cpu", "fp32").dtype == torch.float32


@pytest.mark.parametrize("is_native", [True, False])
def test_auto_becomes_what_the_hardware_has(monkeypatch, is_native):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: is_native)
    native = "bf16" if is_native else "fp32"
    assert pick_compute().device == torch.device("cpu")
    assert resolve_compute("auto", "auto") == ("cpu", native)
    assert resolve_compute("auto", "fp32") == ("cpu", "fp32")
    assert resolve_compute("cuda", "fp32") == ("cuda", "fp32")
    assert resolve_compute("cuda", "auto") == ("cuda", native)


@pytest.mark.parametrize("device", ["nonsense", "", "cpu:x", "mps:7", "cuda:99"])
def test_unusable_device_is_named(device):
    with pytest.raises(BedkdError, match=f"device {device!r} cannot be used"):
        pick_compute(device)


def test_autocast_is_for_low_precision_alone():
    a = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with Compute(torch.device("cpu"), dtype).autocast():
            assert (a @ a).dtype == dtype


@pytest.mark.gpu
def test_auto_device_is_the_accelerator():
    assert pick_compute().device.type == torch.accelerator.current_accelerator().type


def test_peak_memory_is_in_mib(compute):
    assert 50 < peak_memory_mb(compute.device) < 100_000


def test_what_is_said_of_the_cpu():
    cpu = torch.device("cpu")
    assert device_name(cpu) == "cpu"
    synchronize()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a peak anew")
def test_peak_memory_is_counted_anew(compute):
    held = torch.ones(50_000_000)  # 190 MiB
    high = peak_memory_mb(compute.device)
    del held
    reset_peak_memory(compute.device)
    assert peak_memory_mb(compute.device) < high - 150
