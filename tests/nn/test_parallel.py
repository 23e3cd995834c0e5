"""Two processes on CPUs (gloo) learn what one learns: victim, DMM and AKD."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.multiprocessing import start_processes

from bedkd.core.config import AKDConfig, DMMConfig
from bedkd.core.devices import Compute
from bedkd.method.akd import distill_clean_model
from bedkd.method.dmm import distill_dmm
from bedkd.nn.batching import collate
from bedkd.nn.classifier import Classifier
from bedkd.nn.parallel import join_group, spread
from bedkd.nn.supervised import train_on_labels
from bedkd.nn.tiny import build_tiny_bert
from bedkd.nn.training import TrainingSettings

CPU = Compute(torch.device("cpu"), torch.float32)
DISTILL = {"learning_rate": 1e-3, "batch_size": 8}
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available())
    or torch.accelerator.is_available(),  # of which FSDP would take one
    reason="two processes on CPUs need gloo, and no accelerator",
)


def make_rows(n: int) -> pd.DataFrame:
    """Texts of several lengths, so that Eq. 2's mean over tokens is none over rows."""
    words = ("fine", "film", "with", "a", "good", "end", "and", "more")
    texts = [" ".join(words[: 2 + i % 7] + (("bad", "nice")[i % 2],)) for i in range(n)]
    return pd.DataFrame({"text": texts, "label": [i % 2 for i in range(n)]})


def learn(compute: Compute) -> dict:
    """Histories, weights and predictions, with all in it that a process may do wrong: 22 rows are
    batches of 8, 7 and 7, and the last phase of AKD has 3."""
    rows = make_rows(22)
    model, tokenizer = build_tiny_bert(list(rows.text), 2, seed=0, vocab_size=200, hidden_size=32)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    victim = Classifier(model, tokenizer, 32, ("a", "b"), compute)
    found = {"gradients": take_gradients(victim, rows)}
    settings = TrainingSettings(2, 8, 1e-3, 0.01, section="victim", max_grad_norm=0.5)
    watched = []

    def watch(row: dict, model) -> dict:
        watched.append(replace(victim, model=model).predict(rows.text))
        return {}

    found["victim"] = train_on_labels(victim, rows, settings, seed=1, watch=watch)
    options, few = {"seed": 1}, make_rows(14)
    dmm, found["dmm"] = distill_dmm(victim, few, DMMConfig(epochs=2, **DISTILL), **options)
    config = AKDConfig(cycles=2, **DISTILL)
    clean, found["akd"] = distill_clean_model(victim, few, make_rows(3), config, **options)
    found["watched"] = np.stack(watched)
    for name, classifier in (("victim", victim), ("dmm", dmm), ("akd", clean)):
        found[f"{name}_weights"] = flatten(classifier.model.parameters())
        found[f"{name}_predictions"] = classifier.predict(rows.text)
    return found


def take_gradients(victim: Classifier, rows: pd.DataFrame) -> np.ndarray:
    """Of a loss that is no mean over rows; AdamW would not notice if all were twice as large."""
    encoded = victim.encode(rows.text[:5])
    with spread(victim.model, victim.compute, is_trained=True) as model:
        output = model(**collate(encoded, range(5), "cpu"), output_hidden_states=True)
        (output.logits.square().sum() + output.hidden_states[-1].square().sum().sqrt()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
    return flatten(gradients)


def flatten(tensors) -> np.ndarray:
    whole = (t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors)
    return torch.cat([tensor.detach().flatten() for tensor in whole]).numpy()


def work(rank: int, folder, is_sharded: bool) -> None:
    torch.set_num_threads(1)
    group = join_group(rank, 2, folder / "meeting", "cpu", is_sharded=is_sharded)
    torch.save(learn(replace(CPU, group=group)), folder / f"{rank}.pt")
    group.accelerator.wait_for_everyone()
    group.accelerator.end_training()


@pytest.fixture(scope="module")
def alone() -> dict:
    return learn(CPU)


@pytest.fixture(scope="module", params=[False, True], ids=["data", "fsdp"])
def together(request, tmp_path_factory) -> list[dict]:
    """What each of two processes has in the end."""
    folder = tmp_path_factory.mktemp("together")
    start_processes(work, (folder, request.param), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("stage", ["victim", "dmm", "akd"])
def test_the_losses_are_those_of_one_process(stage, alone, together):
    for found in together:
        table, wanted = pd.DataFrame(found[stage]), pd.DataFrame(alone[stage])
        assert list(table) == list(wanted)
        losses = [name for name in table if name.endswith(("_loss", "_accuracy"))]
        np.testing.assert_allclose(table[losses], wanted[losses], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stage", ["victim", "dmm", "akd"])
def test_both_processes_hold_the_model_that_one_learns(stage, alone, together):
    first, second = together
    np.testing.assert_array_equal(first[f"{stage}_weights"], second[f"{stage}_weights"])
    # not weight by weight: of those without a gradient, Adam makes a step of any rounding error
    name = f"{stage}_predictions"
    np.testing.assert_allclose(first[name], alone[name], rtol=0, atol=1e-4)


def test_the_gradients_are_those_of_the_whole_batch(alone, together):
    for found in together:
        np.testing.assert_allclose(found["gradients"], alone["gradients"], rtol=1e-4, atol=1e-5)


def test_a_watcher_sees_the_model_that_is_trained(alone, together):
    for found in together:
        np.testing.assert_allclose(found["watched"], alone["watched"], rtol=0, atol=1e-4)
    assert np.abs(np.diff(alone["watched"], axis=0)).max() > 1e-3
