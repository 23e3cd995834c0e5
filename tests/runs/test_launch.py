"""A stage that two processes on CPUs make together."""

import json

import pytest
import torch

from bedkd.core.config import build
from bedkd.core.errors import BedkdError, DivergenceError
from bedkd.runs import launch
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run

CONFIG = {
    "data": {"name": "toy-sentiment", "n_train": 90, "n_test": 40, "clean_pool_per_class": 16},
    "victim": {"model": "tiny-bert", "epochs": 2, "learning_rate": 1e-3, "max_length": 32},
    "dmm": {"n_clean_per_class": 16, "epochs": 2},
    "akd": {"n_clean_per_class": 16},
    "precision": "fp32",
    "device": "cpu",
    "devices": 2,
}
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="two processes on CPUs need gloo",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(build(CONFIG), tmp_path_factory.mktemp("outputs"))


def test_one_result_of_two_processes(run):
    """Whole, once, and under a key of its own: with dropout it is another than one process's."""
    record = ensure(run, "victim")
    alone = Run(build(CONFIG | {"devices": 1}), run.root)
    assert run.folder("data") == alone.folder("data")
    assert run.folder("victim") != alone.folder("victim")
    assert record == run.record("victim") and record["config"]["devices"] == 2
    ensure(alone, "victim")
    assert set(record["files"]) == set(alone.record("victim")["files"])
    history = json.loads((run.folder("victim") / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert [path.name for path in run.folder("victim").parent.glob(".*")] == []


def test_what_they_raise_is_raised(run):
    ensure(run, "data")
    wild = Run(build(CONFIG | {"victim": CONFIG["victim"] | {"learning_rate": 1e30}}), run.root)
    with pytest.raises(DivergenceError, match="^victim diverged in epoch"):
        ensure(wild, "victim")
    assert not wild.folder("victim").exists()


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    launch.check_devices("cuda", 2)
    with pytest.raises(BedkdError, match="devices is 4, but torch sees 2 of 'cuda' here"):
        launch.check_devices("cuda", 4)
    with pytest.raises(BedkdError, match="device is 'cuda:1', one of 2: name their type alone"):
        launch.check_devices("cuda:1", 2)


def test_parts_of_a_model_need_devices():
    with pytest.raises(BedkdError, match="parallel: fsdp parts a model among devices"):
        build({"parallel": "fsdp"})
