"""The frozen teacher, the defender's blindness, and a phase's loss on real model outputs."""

from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from bedkd.core.config import DistillConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError, BlindnessError
from bedkd.method.distillation import ask_teacher, check_blind, distillation_phase
from bedkd.method.losses import distillation_loss, penalty_loss
from bedkd.nn.batching import collate


@pytest.mark.parametrize("column", ["is_poisoned", "clean_text", "clean_label", "method"])
def test_ground_truth_columns_are_refused_by_name(column):
    rows = pd.DataFrame({"text": ["a"], "label": [0], column: [0]})
    with pytest.raises(BlindnessError, match=repr(column)):
        check_blind(rows)
    assert issubclass(BlindnessError, BedkdError)


def test_what_the_defender_may_see_passes(rows):
    check_blind(rows)
    check_blind(rows.assign(row=range(len(rows))))


def test_phase_refuses_rows_with_the_truth(tiny_victim, rows):
    marked = rows.assign(is_poisoned=False)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        distillation_phase("x", tiny_victim, marked, rows.label, DistillConfig(), torch.add)


def test_teacher_is_asked_in_eval_mode_and_left_as_it_was(tiny_victim, rows):
    encoded = tiny_victim.encode(rows.text)
    expected = ask_teacher(tiny_victim, encoded, DistillConfig())
    tiny_victim.model.train()
    outputs = ask_teacher(tiny_victim, encoded, DistillConfig())
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.hidden, expected.hidden)
    assert tiny_victim.model.training
    assert not outputs.logits.requires_grad and not outputs.hidden.requires_grad


@pytest.mark.parametrize("is_padding_in_mse", [False, True])
@pytest.mark.parametrize("combine", [distillation_loss, penalty_loss])
@pytest.mark.parametrize("kind", ["cross_entropy", "kl"])
def test_phase_loss_is_the_formula_on_the_rows_of_the_batch(
    tiny_victim, tiny_classifier, rows, is_padding_in_mse, combine, kind, monkeypatch
):
    monkeypatch.setattr(Compute, "eval_tokens", 64)  # the teacher is asked in many batches
    config = DistillConfig(temperature=1.7, soft_loss=kind, is_padding_in_mse=is_padding_in_mse)
    labels = (1 - rows.label).to_numpy()
    phase = distillation_phase("x", tiny_victim, rows, labels, config, partial(combine, weight=0.3))
    index = [17, 2, 40, 9, 3]  # neither in order nor of one length
    batch = collate(phase.encoded, index, "cpu")
    assert len(set(phase.encoded.lengths[index].tolist())) > 1
    with torch.no_grad():
        student = tiny_classifier.model(**batch, output_hidden_states=True)
        teacher = tiny_victim.model(**batch, output_hidden_states=True)
        loss = phase.loss(batch, torch.tensor(index), student).item()
    hard = F.cross_entropy(student.logits.double(), torch.tensor(labels[index]))
    targets = F.softmax(teacher.logits.double() / 1.7, dim=-1)
    soft = F.cross_entropy(student.logits.double() / 1.7, targets)
    if kind == "kl":
        soft = soft + (targets * targets.log()).sum(dim=-1).mean()
    where = batch["attention_mask"].bool() | is_padding_in_mse
    mse = F.mse_loss(
        student.hidden_states[-1][where].double(), teacher.hidden_states[-1][where].double()
    )
    expected = (0.3 * hard + 0.7 * (soft + mse)).item()
    sign = -1 if combine is penalty_loss else 1
    assert loss == pytest.approx(sign * expected, rel=1e-5)
    assert mse > 0.01


@pytest.mark.parametrize("is_padding_in_mse", [False, True])
def test_student_equals_teacher_at_the_start(tiny_victim, rows, is_padding_in_mse, monkeypatch):
    """KL 0 and MSE 0 on every batch, with zero gradient: dropout and L_hard start the training."""
    monkeypatch.setattr(Compute, "eval_tokens", 64)
    config = DistillConfig(soft_loss="kl", is_padding_in_mse=is_padding_in_mse)
    soft_alone = partial(distillation_loss, weight=0.0)
    phase = distillation_phase("x", tiny_victim, rows, rows.label, config, soft_alone)
    student = tiny_victim.copy().model.eval()
    for start in range(0, len(rows), 16):
        index = list(range(start, start + 16))
        batch = collate(phase.encoded, index, "cpu")
        loss = phase.loss(batch, torch.tensor(index), student(**batch, output_hidden_states=True))
        assert abs(loss.item()) < 1e-6
        loss.backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in student.parameters())
