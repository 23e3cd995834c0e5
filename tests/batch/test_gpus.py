"""A GPU for each job, without a GPU: what counts is who holds which slot."""

import json
import os
import subprocess
import sys
import time

import nbformat
import pytest
import torch

from bedkd.batch import notebooks
from bedkd.batch.gpus import VISIBLE, hold_gpu, list_slots, take_slot
from bedkd.batch.run_job import run_job
from bedkd.core.errors import BedkdError

HOLD = """
import sys, time
from pathlib import Path
from bedkd.batch.gpus import take_slot
with take_slot(Path(sys.argv[1]), sys.argv[2].split(",")) as device:
    print(device, flush=True)
    time.sleep(60)
"""


def start_holder(folder, slots):
    """A process that holds a slot until it is killed, and the device that it got."""
    command = [sys.executable, "-c", HOLD, str(folder), ",".join(slots)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_all_gpus_are_used_before_one_is_shared(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert list_slots(2, 1) == ["0", "1"]
    assert list_slots(2, 2) == ["0", "1", "0", "1"]
    assert list_slots(0, 3) == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert list_slots(5, 2, 2) == ["0,1", "2,3", "0,1", "2,3"]
    with pytest.raises(BedkdError, match="--gpus is 2, but devices is 4"):
        list_slots(2, 1, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(BedkdError, match="--gpus is 4, but torch sees 3"):
        list_slots(4, 1)


def test_only_the_gpus_that_are_allowed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "3, GPU-1a2b")
    assert list_slots(2, 1) == ["3", "GPU-1a2b"] and list_slots(1, 2) == ["3", "3"]
    monkeypatch.setenv(VISIBLE, "")
    with pytest.raises(BedkdError, match="--gpus is 1, but torch sees 0"):
        list_slots(1, 1)


def test_jobs_at_once_have_different_gpus(tmp_path):
    with take_slot(tmp_path, ["0", "1"]) as first, take_slot(tmp_path, ["0", "1"]) as second:
        assert [first, second] == ["0", "1"]
    with take_slot(tmp_path, ["0", "1"]) as again:
        assert again == "0"


def test_jobs_share_a_gpu_if_they_may(tmp_path):
    slots = ["0", "1"] * 2
    with (
        take_slot(tmp_path, slots) as a,
        take_slot(tmp_path, slots) as b,
        take_slot(tmp_path, slots) as c,
        take_slot(tmp_path, slots) as d,
    ):
        assert [a, b, c, d] == ["0", "1", "0", "1"]


def test_a_failing_job_keeps_its_error_and_frees_its_slot(tmp_path):
    with pytest.raises(BlockingIOError), take_slot(tmp_path, ["0"]):
        raise BlockingIOError
    with take_slot(tmp_path, ["0"]):
        pass


def test_a_killed_job_frees_its_slot(tmp_path):
    slots = ["0", "1"]
    processes = [start_holder(tmp_path, slots) for _ in range(2)]
    assert sorted(device for _, device in processes) == slots
    (killed, device), (other, _) = processes
    started = time.monotonic()
    killed.kill()  # SIGKILL: it can clean up nothing
    with take_slot(tmp_path, slots) as free:
        assert free == device and time.monotonic() - started < 10
    killed.wait()
    other.kill()
    other.wait()


def test_a_job_waits_for_a_free_slot(tmp_path):
    holder, _ = start_holder(tmp_path, ["0"])
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "0"], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1)
    assert waiting.poll() is None
    holder.kill()
    assert waiting.stdout.readline().strip() == "0"
    for process in (holder, waiting):
        process.kill()
        process.wait()


def test_without_counted_gpus_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    with hold_gpu(tmp_path, []):
        assert VISIBLE not in os.environ
    assert not (tmp_path / ".slots").exists()


def test_the_kernel_sees_its_gpu(tmp_path, monkeypatch):
    """Through papermill, by a notebook that prints it."""
    monkeypatch.setenv(VISIBLE, "")  # which the job sets; pytest puts back what was there
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    look = nbformat.v4.new_code_cell(f"import os; print(os.environ.get({VISIBLE!r}))")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[look], metadata=kernel), tmp_path / "look.ipynb")
    job = {"parameters": {}, "title": "a job", "source": ""}
    plan = {"jobs": {"look/x": job}, "summaries": {}, "slots": ["5", "7"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with take_slot(tmp_path / ".slots", ["5", "7"]):
        assert run_job(tmp_path / "plan.json", "look/x") == 0
    (cell,) = nbformat.read(tmp_path / "notebooks/look/x.ipynb", as_version=4).cells
    assert cell.outputs[0].text == "7\n"
