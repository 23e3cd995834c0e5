"""Training steps recorded as CUDA graphs: only where a model can be, and with the same losses."""

from dataclasses import replace

import pytest
import torch

from bedkd.core.devices import Compute
from bedkd.nn.graphs import Graphed, is_recordable
from bedkd.nn.supervised import label_phase
from bedkd.nn.training import TrainingSettings, train

CUDA = Compute(torch.device("cuda"), torch.float32)


def test_only_known_architectures_are_recorded(tiny_classifier, tiny_roberta):
    assert is_recordable(tiny_classifier.model) and not is_recordable(tiny_roberta.model)
    assert not is_recordable(torch.nn.Linear(2, 2))
    tiny_classifier.model.config.model_type = "longformer"
    assert not is_recordable(tiny_classifier.model)


def test_batches_have_few_lengths_where_steps_are_recorded(compute):
    assert [CUDA.padded(n) for n in (1, 16, 17, 100)] == [16, 16, 32, 112]
    assert compute.padded(17) == 17 and not compute.is_graphed


@pytest.fixture
def on_gpu(tiny_classifier):
    """The tiny BERT on the GPU, without dropout."""
    tiny_classifier.model.cuda().set_attn_implementation("sdpa")
    for module in tiny_classifier.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return replace(tiny_classifier, compute=CUDA)


@pytest.mark.gpu
def test_recorded_steps_have_the_same_losses(on_gpu, rows, monkeypatch):
    settings = TrainingSettings(4, 10, 1e-3, 0.0, section="victim", schedule="linear")

    def losses():
        student = on_gpu.copy()
        phases = [label_phase(name, student, rows) for name in ("one", "two")]
        history = train(student.model, phases, settings, compute=CUDA, seed=1)
        return [row[f"{name}_loss"] for row in history for name in ("one", "two")]

    graphed, again = losses(), losses()
    monkeypatch.setattr(Compute, "is_graphed", False)
    assert graphed == again
    assert graphed == pytest.approx(losses(), rel=1e-4)


@pytest.mark.gpu
def test_a_shape_is_recorded_at_its_second_batch():
    called = []

    def step(batch, rows):
        called.append(tuple(rows.shape))
        return batch["input_ids"].sum() + rows.sum()

    run = Graphed(step)
    for n in (2, 2, 2, 3, 2):
        ids, numbers = torch.full((n, 4), n, device="cuda"), torch.arange(n, device="cuda")
        assert int(run({"input_ids": ids}, numbers)) == 4 * n * n + sum(range(n))
    assert called == [(2,), (2,), (3,)]
