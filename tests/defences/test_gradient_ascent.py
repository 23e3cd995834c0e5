"""RGA, GA and NPO: which rows are forgotten, the losses, the anchor, and what is not seen."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import add_trigger, make_rows

from bedkd.core.config import VictimConfig
from bedkd.core.defence_config import AscentConfig, ForgetConfig
from bedkd.core.errors import BedkdError, BlindnessError, DivergenceError
from bedkd.defences import forget_rows, gradient_ascent
from bedkd.defences.gradient_ascent import ascent_weight, defend, encoder_distance, npo_loss
from bedkd.defences.interface import EquippedView
from bedkd.defences.pairs import Pair, PairedRows
from bedkd.nn.classifier import new_classifier
from bedkd.nn.supervised import train_victim
from bedkd.nn.training import forward_all

TRAIN = pd.concat([make_rows(), add_trigger(make_rows())], ignore_index=True)
IS_POISONED = np.arange(len(TRAIN)) >= len(make_rows())
CONFIG = AscentConfig(epochs=3, learning_rate=1e-3, batch_size=8)


@pytest.fixture
def view(tiny_victim, tiny_classifier, rows) -> EquippedView:
    """`fresh`: what `tiny_victim` was trained from. It is so sure of itself that nothing would have
    a slope; less so with a smaller head."""
    with torch.no_grad():
        tiny_victim.model.classifier.weight.mul_(0.1)
    probabilities = tiny_victim.predict(TRAIN.text)
    fresh = {"fresh": lambda seed: tiny_classifier.copy()}
    return EquippedView(TRAIN, rows, rows, tiny_victim, probabilities, **fresh)


def run(view, method, config=CONFIG, is_forgotten=IS_POISONED, seed=0):
    return defend(view, config, seed=seed, method=method, is_forgotten=is_forgotten)


def weights(classifier) -> dict:
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def is_same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def make_pair(forget, victim, labels=(0,), keep=((0.0, 0.0),), keep_labels=(0,)) -> Pair:
    forget, victim, keep = (torch.tensor(logits).float() for logits in (forget, victim, keep))
    return Pair(forget, torch.tensor(labels), victim, keep, torch.tensor(keep_labels))


# --- the losses ---


def test_weight_is_1_at_the_start_and_falls_as_the_prediction_moves():
    victim = [[3.0, -1.0], [2.0, 0.5]]
    moved = [[[3.0 - step, -1.0 + step], [2.0, 0.5]] for step in (0.0, 0.5, 1.0, 2.0, 4.0)]
    found = [float(ascent_weight(make_pair(m, victim, (0, 0)), 2.0)) for m in moved]
    assert found[0] == pytest.approx(1) and found[-1] < 0.05
    assert found == sorted(found, reverse=True)
    for logits, weight in zip(moved, found, strict=True):
        own, before = (torch.tensor(x, dtype=torch.float64) for x in (logits, victim))
        kl = F.kl_div(own.log_softmax(-1), before.softmax(-1), reduction="batchmean")
        assert weight == pytest.approx(float(torch.exp(-kl) ** 2), rel=1e-4)


def test_weight_has_no_gradient():
    pair = make_pair([[1.0, 0.0]], [[3.0, 0.0]])
    pair.forget.requires_grad_(True)
    assert not ascent_weight(pair, 2.0).requires_grad
    gradient_ascent.rga_loss(pair, CONFIG).backward()
    alone = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (-ascent_weight(pair, 2.0) * F.cross_entropy(alone, torch.tensor([0]))).backward()
    torch.testing.assert_close(pair.forget.grad, alone.grad)


def test_npo_by_hand():
    """CE log 2, of the victim log(4/3): σ of their difference is 0.6; kept rows have log 2."""
    pair = make_pair([[0.0, 0.0]], [[math.log(3), 0.0]])
    assert float(npo_loss(pair, CONFIG)) == pytest.approx(math.log(2) - 2 * math.log(0.6))


def test_ga_by_hand():
    pair = make_pair([[math.log(3), 0.0]], [[0.0, 0.0]])
    assert float(gradient_ascent.ga_loss(pair, CONFIG)) == pytest.approx(math.log(2 / (4 / 3)))


# --- the anchor ---


def test_anchor_has_no_pull_at_the_base_and_none_on_the_head(tiny_classifier):
    student = tiny_classifier.copy()
    distance = encoder_distance(student, tiny_classifier)
    assert distance == 0
    distance.backward()
    assert all(not p.grad.any() for p in student.model.base_model.parameters())
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter += 0.1
    student.model.zero_grad()
    distance = encoder_distance(student, tiny_classifier)
    sizes = [p.numel() for p in student.model.base_model.parameters()]
    assert distance.item() == pytest.approx(sum(0.1 * math.sqrt(n) for n in sizes), rel=1e-4)
    distance.backward()
    for parameter in student.model.base_model.parameters():  # of unsquared norms: unit vectors
        assert float(parameter.grad.norm()) == pytest.approx(1, rel=1e-4)
    assert all(p.grad is None for p in student.model.classifier.parameters())


def test_anchor_holds_the_encoder_near_its_base(view):
    loose, held = (run(view, "rga", replace(CONFIG, anchor=beta)).model for beta in (0.0, 5.0))
    base = view.fresh(0)
    assert encoder_distance(held, base) < encoder_distance(loose, base)


def test_base_is_what_the_victim_was_trained_from(rows, compute):
    """The stage hands RGA `new_classifier` with the victim's own seed and texts."""
    config = VictimConfig(epochs=1, learning_rate=1e-12)
    victim, _ = train_victim(rows, ("bad", "good"), config, compute=compute, seed=3)
    base = new_classifier(config, list(rows.text), ("bad", "good"), compute, 3)
    assert float(encoder_distance(victim, base).detach()) < 1e-3
    assert encoder_distance(victim, replace(base, model=other(base).model)) > 1


def other(base):
    with torch.no_grad():
        for parameter in (moved := base.copy()).model.parameters():
            parameter += 0.1
    return moved


# --- unlearning ---


def test_without_weight_and_anchor_rga_is_ga(view):
    plain = replace(CONFIG, power=0.0, anchor=0.0)
    rga, ga = run(view, "rga", plain), run(view, "ga")
    assert is_same(weights(rga.model), weights(ga.model))
    assert not is_same(weights(run(view, "rga").model), weights(ga.model))


@pytest.mark.parametrize("method", ["rga", "ga", "npo"])
def test_trigger_is_unlearnt_and_the_victim_stays_as_it_is(view, method):
    before = weights(view.victim)
    defended = run(view, method, replace(CONFIG, epochs=10))
    assert is_same(weights(view.victim), before)
    triggered, clean = TRAIN[IS_POISONED], TRAIN[~IS_POISONED]
    assert np.mean(defended.predict(triggered.text).argmax(axis=1) == 0) < 0.2  # before: 1
    if method != "ga":  # which climbs on until little else is left
        assert np.mean(defended.predict(clean.text).argmax(axis=1) == clean.label) > 0.9
    losses = [row["forget_loss"] for row in defended.history]
    assert losses[-1] > losses[0] and [row["epoch"] for row in defended.history][-1] == 10
    assert defended.facts == {"n_flagged": 24, "n_kept": 48}


def test_ga_climbs_without_end_and_rga_stops(view):
    config = replace(CONFIG, epochs=15)
    ga, rga = (run(view, method, config).history[-1] for method in ("ga", "rga"))
    assert ga["forget_loss"] > 2 * rga["forget_loss"] and ga["kl"] > rga["kl"]


def test_rows_to_forget_keep_the_labels_that_they_are_given(view):
    rows = PairedRows(view.victim, TRAIN[IS_POISONED], TRAIN[~IS_POISONED], 7)
    assert torch.cat(rows.forget).tolist() == list(range(24))
    assert torch.cat(rows.keep).tolist() == list(range(24, 72))
    with torch.no_grad():
        pair = rows.forward(view.victim.model.eval(), rows.forget[1], rows.keep[2])
    given = TRAIN[IS_POISONED].iloc[7:14]
    assert pair.forget_labels.tolist() == given.label.tolist() == [0] * 7
    assert pair.keep_labels.tolist() == TRAIN[~IS_POISONED].label.iloc[14:21].tolist()
    own, _ = forward_all(view.victim.model, view.victim.encode(given.text), view.victim.compute)
    torch.testing.assert_close(pair.victim, own)
    torch.testing.assert_close(pair.forget, own, atol=1e-4, rtol=1e-4)
    assert float(pair.kl()) == pytest.approx(0, abs=1e-6)


def test_optimizer_is_new_in_each_epoch(view, monkeypatch):
    made = []
    build = gradient_ascent.build_optimizer
    monkeypatch.setattr(
        gradient_ascent, "build_optimizer", lambda *a: made.append(build(*a)) or made[-1]
    )
    run(view, "ga")
    assert len(made) == len({id(optimizer) for optimizer in made}) == CONFIG.epochs


def test_the_same_seed_gives_the_same_model(view):
    first, again, third = (weights(run(view, "rga", seed=seed).model) for seed in (0, 0, 1))
    assert is_same(first, again) and not is_same(first, third)


def test_nothing_to_forget_leaves_the_victim(view):
    defended = run(view, "rga", is_forgotten=np.zeros(len(TRAIN), dtype=bool))
    assert defended.model is view.victim and defended.history == []


def test_rows_that_say_more_than_text_and_label_are_refused(view):
    peeking = replace(view, train=TRAIN.assign(is_poisoned=IS_POISONED))
    with pytest.raises(BlindnessError, match="is_poisoned"):
        run(peeking, "rga")


def test_rga_alone_needs_the_base(view):
    without = replace(view, fresh=None)
    with pytest.raises(BedkdError, match="RGA holds on to the base encoder"):
        run(without, "rga")
    assert run(without, "ga").history


def test_divergence_names_what_to_lower(view):
    with pytest.raises(DivergenceError, match="ga diverged in epoch .* lower ascent.learning_rate"):
        run(view, "ga", replace(CONFIG, learning_rate=1e30))


# --- which rows ---


def test_largest_clusters_are_kept_and_noise_never_is():
    clusters = np.array([0, 0, 1, 1, 1, -1, -1, -1, -1, 2])
    assert forget_rows.largest_clusters(clusters, 2).tolist() == [1, 0]
    assert sorted(forget_rows.largest_clusters(clusters, 9)) == [0, 1, 2]


SIZES = ForgetConfig(n_neighbors=15, min_cluster_size=15, min_samples=5)


def test_a_small_cluster_is_forgotten_whatever_the_labels_say(view, monkeypatch):
    """Two classes far apart, and a third bundle of rows between them."""
    centres = np.repeat([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [60, 50, 25], axis=0)
    states = centres + 0.05 * np.random.default_rng(0).normal(size=centres.shape)
    answer = partial(torch.tensor, states, dtype=torch.float32)
    monkeypatch.setattr(forget_rows, "first_states", lambda *_: (None, answer()))
    found = [
        forget_rows.find_forget_rows(replace(view, train=train), SIZES, seed=1)
        for train in (TRAIN, TRAIN.assign(label=1 - TRAIN.label))
    ]
    np.testing.assert_array_equal(*found)
    assert found[0][110:].all() and found[0][:110].mean() < 0.1
    assert torch.get_num_threads() == 1  # as before UMAP
    one = forget_rows.find_forget_rows(view, replace(SIZES, n_kept=1), seed=1)
    assert one[60:].all() and one[:60].mean() < 0.1


def test_sizes_that_do_not_fit_are_named(view, monkeypatch):
    for name in ("n_neighbors", "min_cluster_size", "min_samples"):
        config = replace(SIZES, **{name: 72})
        with pytest.raises(BedkdError, match=f"forget.{name} is 72, but D\\* has 72 rows; lower"):
            forget_rows.find_forget_rows(view, config, seed=0)
    monkeypatch.setattr(forget_rows, "cluster", lambda *_: np.full(len(TRAIN), -1))
    with pytest.raises(BedkdError, match="no cluster of forget.min_cluster_size = 15 rows"):
        forget_rows.find_forget_rows(view, SIZES, seed=0)
