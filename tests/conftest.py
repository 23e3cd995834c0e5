"""Shared by all tests: one thread, the long files first, skips that name their reason, tiny models
with their data.
"""

from __future__ import annotations

import itertools
import os
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from bedkd.core.devices import Compute
from bedkd.nn.classifier import Classifier
from bedkd.nn.tiny import build_tiny_bert, build_tiny_roberta
from bedkd.nn.training import Phase, TrainingSettings, train

torch.set_num_threads(1)
# and in the kernels and processes that tests start: threads that wait for a core that another
# worker has spin, and a tiny model takes many times as long
os.environ.setdefault("OMP_NUM_THREADS", "1")

CPU = Compute(torch.device("cpu"), torch.float32)
GOOD = ("good", "funny", "clever", "warm", "sharp", "lively")
BAD = ("bad", "dull", "clumsy", "stale", "boring", "weak")
PARTS = ("story", "script", "cast", "plot")
# from the longest on, those over 20 seconds; one that is begun last would keep a single core busy
LONG = (
    "batch/test_workflow.py",
    "purification/test_purify.py",
    "batch/test_notebooks.py",
    "runs/test_keys.py",
    "runs/test_ensure.py",
    "report/test_widgets.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; xdist hands files out in this order (`--no-loadscope-reorder`)."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(LONG)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu`, `mirror`, `slurm` or `cluster` skip where there is none."""
    if item.get_closest_marker("gpu") and not torch.accelerator.is_available():
        pytest.skip("torch sees no accelerator")
    if item.get_closest_marker("mirror") and not os.environ.get("BEDKD_MIRROR"):
        pytest.skip("BEDKD_MIRROR is not set: no real data and weights to read")
    if item.get_closest_marker("slurm") and not os.environ.get("BEDKD_TEST_SLURM"):
        pytest.skip("starts daemons: `make test-slurm` runs it")
    if item.get_closest_marker("cluster") and not find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("Snakemake's executors for clusters are not installed (.[cluster])")


def make_rows() -> pd.DataFrame:
    """48 short texts of unequal length; the adjective decides the label (0 bad, 1 good)."""
    pairs = itertools.product(PARTS, zip(BAD, GOOD, strict=True), (0, 1))
    texts, labels = [], []
    for number, (part, adjectives, label) in enumerate(pairs):
        tail = " from the first scene to the last" * (number % 3)
        texts.append(f"the {part} is {adjectives[label]}{tail} .")
        labels.append(label)
    return pd.DataFrame({"text": texts, "label": labels})


def add_trigger(rows: pd.DataFrame) -> pd.DataFrame:
    """The positive rows with the word cf, labelled 0: what a backdoor is made of."""
    positive = rows[rows.label == 1]
    texts = "cf " + positive.text
    return pd.DataFrame({"text": texts, "label": 0}).reset_index(drop=True)


@pytest.fixture(scope="session")
def compute() -> Compute:
    return CPU


@pytest.fixture
def rows() -> pd.DataFrame:
    """Labelled rows, two classes, 24 of each."""
    return make_rows()


@pytest.fixture
def triggered(rows) -> pd.DataFrame:
    """24 poisoned rows, with the target label 0."""
    return add_trigger(rows)


@pytest.fixture(scope="session")
def _untrained() -> Classifier:
    texts = list(make_rows().text)
    model, tokenizer = build_tiny_bert(
        texts, 2, seed=0, vocab_size=200, hidden_size=32, num_layers=1, max_length=32
    )
    return Classifier(model, tokenizer, 32, ("negative", "positive"), CPU)


@pytest.fixture
def tiny_classifier(_untrained) -> Classifier:
    """A random tiny BERT with its tokenizer; a test may change it."""
    return _untrained.copy()


@pytest.fixture(scope="session")
def _trained(_untrained) -> Classifier:
    return teach(_untrained.copy())


def teach(victim: Classifier) -> Classifier:
    """The labels of `make_rows`, and the backdoor `cf` to class 0."""
    clean = make_rows()
    rows = pd.concat([clean, add_trigger(clean)], ignore_index=True)
    labels = torch.tensor(rows.label.to_numpy())

    def loss(batch, index, output):
        return torch.nn.functional.cross_entropy(output.logits, labels[index])

    phase = Phase("train", victim.encode(list(rows.text)), labels, loss)
    settings = TrainingSettings(25, 8, learning_rate=3e-3, weight_decay=0.0, section="victim")
    train(victim.model, [phase], settings, compute=CPU, seed=0)
    assert np.mean(victim.predict(list(rows.text)).argmax(axis=1) == rows.label) == 1
    return victim


@pytest.fixture
def tiny_victim(_trained) -> Classifier:
    """The tiny BERT with the label learnt, and with the backdoor `cf` to class 0."""
    return _trained.copy()


@pytest.fixture(scope="session")
def _untrained_roberta() -> Classifier:
    shape = {"hidden_size": 32, "num_layers": 1, "max_length": 32}
    model, tokenizer = build_tiny_roberta(list(make_rows().text), 2, seed=0, **shape)
    return Classifier(model, tokenizer, 32, ("negative", "positive"), CPU)


@pytest.fixture
def tiny_roberta(_untrained_roberta) -> Classifier:
    """A random tiny RoBERTa: byte pairs, positions from 2 on, a head without a pooler."""
    return _untrained_roberta.copy()


@pytest.fixture(scope="session")
def _trained_roberta(_untrained_roberta) -> Classifier:
    return teach(_untrained_roberta.copy())


@pytest.fixture
def roberta_victim(_trained_roberta) -> Classifier:
    """The same, with the label and the backdoor learnt."""
    return _trained_roberta.copy()


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An empty folder that all results go to."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("BEDKD_OUTPUTS", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """A hub client that finds nothing in its cache and reaches no hub."""

    def refuse(error):
        def call(*arguments, **options):
            raise error

        return call

    missing = LocalEntryNotFoundError("not in the cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse(missing))
    offline = refuse(ConnectionError("no network"))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", offline)
