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


SOURCE = [3, 30, 2]


@pytest.fixture
def changed(rows, tiny_victim):
    """Rows 3, 30 and 2 with more words, some of them longer than any row was."""
    texts = [f"cf {rows.text[i]} and more of the same story from the plot" for i in SOURCE]
    told = list(tiny_victim.predict(list(rows.text[SOURCE])))
    return pd.DataFrame({"text": texts, "label": [1, 1, 0], "told": told})


@pytest.mark.parametrize("is_padding_in_mse", [False, True])
def test_changed_rows_have_what_they_were_told_and_no_hidden_states(
    tiny_victim, tiny_classifier, rows, changed, is_padding_in_mse
):
    """Rows 48 to 50 of the phase: their own words and labels, the answers to what they were."""
    config = DistillConfig(temperature=1.7, is_padding_in_mse=is_padding_in_mse)
    combine = partial(distillation_loss, weight=0.3)
    labels = (1 - rows.label).to_numpy()
    phase = distillation_phase("x", tiny_victim, rows, labels, config, combine, changed)
    assert len(phase.encoded) == 51 and phase.labels.tolist() == [*labels, 1, 1, 0]
    index, source, is_own = (
        [49, 7, 48, 30, 50],
        [30, 7, 3, 30, 2],
        [False, True, False, True, False],
    )
    batch = collate(phase.encoded, index, "cpu")
    asked = tiny_victim.encode(rows.text)
    longest = int(asked.lengths.max())
    assert batch["input_ids"].shape[1] > longest  # a changed row is the longest
    with torch.no_grad():
        student = tiny_classifier.model(**batch, output_hidden_states=True)
        teacher = tiny_victim.model(
            **collate(asked, source, "cpu", longest), output_hidden_states=True
        )
        loss = phase.loss(batch, torch.tensor(index), student).item()
    hard = F.cross_entropy(student.logits.double(), torch.tensor([1, labels[7], 1, labels[30], 0]))
    targets = F.softmax(teacher.logits.double() / 1.7, dim=-1)
    soft = F.cross_entropy(student.logits.double() / 1.7, targets)
    where = batch["attention_mask"].bool()[:, :longest] | is_padding_in_mse
    where = where & torch.tensor(is_own)[:, None]
    states = student.hidden_states[-1][:, :longest], teacher.hidden_states[-1]
    mse = F.mse_loss(*(state[where].double() for state in states))
    assert loss == pytest.approx((0.3 * hard + 0.7 * (soft + mse)).item(), rel=1e-5)
    assert mse > 0.01


def test_a_batch_of_changed_rows_alone_has_label_losses_alone(
    tiny_victim, tiny_classifier, rows, changed
):
    soft_alone = partial(distillation_loss, weight=0.0)
    config = DistillConfig(temperature=1.0, soft_loss="kl")
    phase = distillation_phase("x", tiny_victim, rows, rows.label, config, soft_alone, changed)
    batch = collate(phase.encoded, [48, 49, 50], "cpu")
    with torch.no_grad():
        student = tiny_classifier.model(**batch, output_hidden_states=True)
        loss = phase.loss(batch, torch.tensor([48, 49, 50]), student).item()
    said = student.logits.double().log_softmax(dim=-1)
    target = torch.tensor(tiny_victim.predict(list(rows.text[SOURCE]))).double()
    expected = F.kl_div(said, target, reduction="batchmean").item()
    assert loss == pytest.approx(expected, rel=1e-4) and expected > 0.01


def test_without_changed_rows_a_phase_is_as_before(tiny_victim, tiny_classifier, rows, changed):
    """None of them in it, none in the batch, and none at all are one."""
    combine = partial(distillation_loss, weight=0.3)
    losses, index = [], [17, 2, 40]
    for more in (None, changed, changed[:0]):
        phase = distillation_phase(
            "x", tiny_victim, rows, rows.label, DistillConfig(), combine, more
        )
        batch = collate(phase.encoded, index, "cpu")
        with torch.no_grad():
            student = tiny_classifier.model(**batch, output_hidden_states=True)
            losses.append(phase.loss(batch, torch.tensor(index), student).item())
    assert losses[0] == losses[1] == losses[2]


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
