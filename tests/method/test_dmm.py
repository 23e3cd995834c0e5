"""Flipped labels, and the directional mapping module distilled on them."""

import inspect

import numpy as np
import pytest
import torch

from bedkd.core.config import DMMConfig
from bedkd.core.errors import BedkdError, BlindnessError
from bedkd.method import dmm as dmm_module
from bedkd.method.dmm import distill_dmm, flip_labels
from bedkd.method.mepd import mepd

FAST = {"n_clean_per_class": 24, "epochs": 3, "learning_rate": 1e-3}


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def are_equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def without_seconds(history):
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


@pytest.mark.parametrize("flip", ["random", "next"])
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_flipped_label_is_never_the_true_one(flip, n_classes):
    labels = np.arange(3000) % n_classes
    flipped = flip_labels(labels, n_classes, flip, seed=0)
    assert (flipped != labels).all()
    assert set(flipped) == set(range(n_classes))


def test_next_is_cyclic():
    assert flip_labels(np.array([0, 1, 2, 3, 3]), 4, "next", seed=0).tolist() == [1, 2, 3, 0, 0]


def test_two_classes_leave_one_wrong_label():
    labels = np.array([0, 1, 1, 0])
    for flip in ("random", "next"):
        assert flip_labels(labels, 2, flip, seed=5).tolist() == [1, 0, 0, 1]


def test_random_reaches_all_wrong_labels_about_equally():
    for label in range(4):
        flipped = flip_labels(np.full(3000, label), 4, "random", seed=0)
        values, counts = np.unique(flipped, return_counts=True)
        assert set(values) == set(range(4)) - {label}
        assert counts.min() > 900


def test_random_is_seeded():
    labels = np.arange(200) % 4
    one, same, other = (flip_labels(labels, 4, "random", seed=seed) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def test_dmm_is_the_victim_before_the_first_step(tiny_victim, rows):
    """Hence MEPD is 0 everywhere at epoch 0."""
    victim = tiny_victim.predict(list(rows.text))
    scores = {}

    def watch(row, model):
        assert not model.training
        student = tiny_victim.copy()
        student.model.load_state_dict(model.state_dict())
        scores[row["epoch"]] = mepd(victim, student.predict(list(rows.text)))
        return {}

    distill_dmm(tiny_victim, rows, DMMConfig(**FAST), seed=0, watch=watch)
    assert (scores[0] == 0).all()
    assert scores[3].max() > 0.01


def test_victim_stays_as_it_was(tiny_victim, rows):
    before = weights(tiny_victim)
    dmm, _ = distill_dmm(tiny_victim, rows, DMMConfig(**FAST), seed=0)
    assert are_equal(before, weights(tiny_victim))
    assert not tiny_victim.model.training and not dmm.model.training
    assert not are_equal(before, weights(dmm))


def test_student_trains_with_dropout_and_the_teacher_never_does(tiny_victim, rows):
    calls = []

    def hook(module, args, output):
        calls.append((module is tiny_victim.model, module.training, torch.is_grad_enabled()))

    tiny_victim.model.register_forward_hook(hook)
    distill_dmm(tiny_victim, rows, DMMConfig(**FAST), seed=0)
    with_gradient = [call for call in calls if call[2]]
    assert set(with_gradient) == {(False, True, True)} and len(with_gradient) == 9
    assert {call[:2] for call in calls if call[0]} == {(True, False)}


def test_hard_loss_alone_reaches_the_flipped_labels(tiny_victim, rows):
    config = DMMConfig(n_clean_per_class=24, alpha=1.0, epochs=25, learning_rate=3e-3)
    dmm, history = distill_dmm(tiny_victim, rows, config, seed=0)
    predicted = dmm.predict(list(rows.text)).argmax(axis=1)
    assert np.mean(predicted == 1 - rows.label) > 0.97
    assert history[-1]["flipped_accuracy"] > 90
    before = tiny_victim.predict(list(rows.text)).argmax(axis=1)
    assert (before == rows.label).all()


def test_paper_settings_stop_short_of_the_flipped_labels(tiny_victim, rows):
    """The minimum of Eq. 3 with α = 0.3, T = 1.5 (see test_losses) holds for a trained model."""
    config = DMMConfig(n_clean_per_class=24, epochs=60, learning_rate=1e-3)
    assert (config.alpha, config.temperature) == (0.3, 1.5)
    dmm, _ = distill_dmm(tiny_victim, rows, config, seed=0)
    probabilities = dmm.predict(list(rows.text))
    flipped = probabilities[np.arange(len(rows)), 1 - rows.label]
    assert 0.2 < flipped.mean() < 0.5
    assert np.mean(probabilities.argmax(axis=1) == 1 - rows.label) < 0.5


def test_alpha_zero_stays_with_the_teacher(tiny_victim, rows):
    config = DMMConfig(**FAST | {"alpha": 0.0, "learning_rate": 1e-4})
    dmm, _ = distill_dmm(tiny_victim, rows, config, seed=0)
    text = list(rows.text)
    assert mepd(tiny_victim.predict(text), dmm.predict(text)).max() < 0.05


def test_history_has_one_row_an_epoch(tiny_victim, rows):
    _, history = distill_dmm(tiny_victim, rows, DMMConfig(**FAST), seed=0)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert set(history[0]) == {"epoch", "seconds", "flipped_loss", "flipped_accuracy"}


def test_same_seed_same_dmm(tiny_victim, rows):
    config = DMMConfig(**FAST)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one, one_history = distill_dmm(tiny_victim, rows, config, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    same, same_history = distill_dmm(tiny_victim, rows, config, seed=3)
    other, _ = distill_dmm(tiny_victim, rows, config, seed=4)
    assert are_equal(weights(one), weights(same))
    assert without_seconds(one_history) == without_seconds(same_history)
    assert not are_equal(weights(one), weights(other))


def test_dmm_that_is_not_a_number_is_no_silent_result(tiny_victim, rows):
    """NaN is not under γ, so that nothing would be flagged and AKD would be plain distillation."""
    config = DMMConfig(**FAST | {"learning_rate": 1e18})
    with pytest.raises(BedkdError):
        distill_dmm(tiny_victim, rows, config, seed=0)


def test_truth_about_the_poison_is_refused(tiny_victim, rows):
    marked = rows.assign(is_poisoned=True)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        distill_dmm(tiny_victim, marked, DMMConfig(**FAST), seed=0)


def test_dmm_sees_clean_few_alone():
    """Neither D* nor the target label is among its arguments."""
    names = set(inspect.signature(dmm_module.distill_dmm).parameters)
    assert names == {"victim", "clean_few", "config", "seed", "watch"}
