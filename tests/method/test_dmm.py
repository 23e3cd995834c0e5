"""Flipped labels, and the directional mapping module distilled on them."""

import inspect
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from bedkd.core.config import DMMConfig
from bedkd.core.errors import BedkdError, BlindnessError
from bedkd.method import dmm as dmm_module
from bedkd.method.dmm import (
    PathReader,
    distill_dmm,
    distill_folds,
    flip_labels,
    reading_epochs,
    split_folds,
)
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


# folds of D_c^few and the path of the DMMs, beyond the paper


def test_folds_by_hand():
    assert split_folds([0, 0, 1, 0, 1, 0, 1], 2).tolist() == [0, 1, 0, 0, 1, 1, 0]
    assert split_folds([2, 2, 2, 2], 3).tolist() == [0, 1, 2, 0]
    assert not split_folds([0, 1, 1], 1).any()


def test_every_fold_has_its_part_of_each_class():
    labels = pd.Series(np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 40)))
    fold = split_folds(labels, 3)
    counts = pd.crosstab(labels, fold)
    assert counts.shape == (3, 3) and set(counts.to_numpy().ravel()) == {13, 14}
    moved = labels.set_axis(range(500, 620))  # places count, not the index
    assert (split_folds(moved, 3) == fold).all()


def test_reading_epochs_by_hand():
    assert reading_epochs(20, 1) == {20} and reading_epochs(20, 5) == {4, 8, 12, 16, 20}
    assert reading_epochs(12, 3) == {4, 8, 12} and reading_epochs(3, 3) == {1, 2, 3}
    assert reading_epochs(2, 5) == {1, 2}  # no more than there are


@pytest.mark.parametrize("epochs", [1, 2, 7, 20, 31])
def test_so_many_readings_the_last_epoch_among_them(epochs):
    for n in range(1, epochs + 1):
        found = sorted(reading_epochs(epochs, n))
        assert len(found) == n and found[0] >= 1 and found[-1] == epochs
        assert np.ptp(np.diff(found)) <= 1 if n > 1 else True


def test_path_reader_keeps_those_epochs_and_passes_the_watcher_on(tiny_victim, rows):
    texts = [list(rows.text[:7]), list(rows.text[20:30])]
    seen, predicted = [], {}

    def watch(row, model):
        seen.append(row["epoch"])
        student = replace(tiny_victim, model=model)
        predicted[row["epoch"]] = [student.predict(part) for part in texts]
        return {"seen": 10 * row["epoch"]}

    encoded = [tiny_victim.encode(part) for part in texts]
    reader = PathReader(tiny_victim, encoded, {1, 3}, watch)
    config = DMMConfig(**FAST | {"epochs": 4})
    dmm, history = distill_dmm(tiny_victim, rows, config, seed=0, watch=reader)
    assert seen == [0, 1, 2, 3, 4] and [row["seen"] for row in history] == [0, 10, 20, 30, 40]
    for number, kept in enumerate(reader.kept):
        assert len(kept) == 2
        assert (kept[0] == predicted[1][number]).all() and (kept[1] == predicted[3][number]).all()
        assert (kept[0] != kept[1]).any()
    assert reader.seconds > 0
    plain, _ = distill_dmm(tiny_victim, rows, config, seed=0)  # reading changes no weight
    assert are_equal(weights(dmm), weights(plain))


def test_path_reader_without_a_watcher_adds_nothing(tiny_victim, rows):
    reader = PathReader(tiny_victim, [tiny_victim.encode([])], {0}, None)
    assert reader({"epoch": 0}, tiny_victim.model) == {}
    assert reader.kept[0][0].shape == (0, 2)


def test_one_fold_and_one_reading_is_the_papers_dmm(tiny_victim, rows, triggered):
    config, encoded = DMMConfig(**FAST), tiny_victim.encode(triggered.text)
    assert (config.n_folds, config.n_readings, config.n_scored) == (1, 1, None)
    plain, expected = distill_dmm(tiny_victim, rows, config, seed=2)
    dmm, history, path, seconds = distill_folds(tiny_victim, rows, encoded, config, seed=2)
    assert are_equal(weights(dmm), weights(plain)) and seconds > 0
    assert without_seconds(history[-3:]) == without_seconds(expected)
    assert set(path) == {"train"} and path["train"].shape == (1, 1, 24, 2)
    assert (path["train"][0, 0] == plain.predict(list(triggered.text))).all()


@pytest.fixture
def calls(monkeypatch, tiny_classifier):
    """`distill_dmm` as a list of calls: nothing is trained, and each DMM has weights of its own."""
    made = []

    def distill(victim, clean_few, config, *, seed, watch):
        dmm = tiny_classifier.copy()
        for epoch in range(config.epochs + 1):
            with torch.no_grad():
                generator = torch.Generator().manual_seed(100 * seed + epoch)
                weight = dmm.model.classifier.weight
                weight.copy_(3 * torch.randn(weight.shape, generator=generator))
            watch({"epoch": epoch}, dmm.model)
            made.append((seed, epoch, clean_few, dmm.copy()))
        return dmm, [{"epoch": epoch, "seed": seed} for epoch in range(config.epochs + 1)]

    monkeypatch.setattr(dmm_module, "distill_dmm", distill)
    return made


def fold_path(victim, rows, scored, watch=None):
    config = DMMConfig(**FAST | {"epochs": 4, "n_folds": 3, "n_readings": 2})
    return distill_folds(victim, rows, victim.encode(scored), config, seed=7, watch=watch)


def test_clean_rows_are_read_under_the_dmm_that_did_not_see_them(tiny_victim, rows, calls):
    shuffled = rows.sample(frac=1, random_state=0)  # and the index is out of order
    _, _, path, _ = fold_path(tiny_victim, shuffled, ["a b"])
    fold = split_folds(shuffled.label, 3)
    assert (path["fold"] == fold).all() and path["clean"].shape == (2, 48, 2)
    for seed, epoch, seen, dmm in calls:
        is_held = fold == seed - 7
        assert list(seen.text) == list(shuffled.text[~is_held])  # all others, and none of its own
        if epoch in (2, 4):
            expected = dmm.predict(list(shuffled.text[is_held]))
            assert (path["clean"][epoch // 2 - 1, is_held] == expected).all()
    assert {(seed, epoch) for seed, epoch, *_ in calls} == set(product((7, 8, 9), range(5)))


def test_scored_rows_are_read_under_every_dmm(tiny_victim, rows, calls):
    texts = list(rows.text[5:11])
    watched = []
    dmm, history, path, seconds = fold_path(
        tiny_victim, rows, texts, watch=lambda row, model: watched.append(row["epoch"]) or {}
    )
    assert path["train"].shape == (3, 2, 6, 2) and seconds > 0
    for seed, epoch, _, model in calls:
        if epoch in (2, 4):
            assert (path["train"][seed - 7, epoch // 2 - 1] == model.predict(texts)).all()
    assert np.unique(path["train"][:, :, 0, 0]).size == 6  # all another
    # the model, the history and the watcher are the first fold's
    assert {row["seed"] for row in history} == {7} and watched == [0, 1, 2, 3, 4]
    assert (dmm.predict(texts) == path["train"][0, 1]).all()


def test_a_held_row_reads_as_it_would_among_the_scored_ones(tiny_victim, rows):
    """The real thing: D_c^few scored too, under the DMM that saw a row and the one that did not."""
    config = DMMConfig(**FAST | {"epochs": 2, "n_folds": 2, "n_readings": 2})
    encoded, every = tiny_victim.encode(rows.text), np.arange(48)
    _, _, path, _ = distill_folds(tiny_victim, rows, encoded, config, seed=0)
    held, seen = (path["train"][fold, :, every] for fold in (path["fold"], 1 - path["fold"]))
    np.testing.assert_allclose(held.swapaxes(0, 1), path["clean"], atol=1e-6)
    assert (seen != held).any()


def test_truth_about_the_poison_is_refused_by_the_folds(tiny_victim, rows):
    marked = rows.assign(is_poisoned=True)
    config = DMMConfig(**FAST | {"n_folds": 2})
    with pytest.raises(BlindnessError, match="is_poisoned"):
        distill_folds(tiny_victim, marked, tiny_victim.encode(["a"]), config, seed=0)
