"""Watchers read at the right times, at a bounded cost, and what they say is what they read."""

import pandas as pd
import pytest

from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.evaluation.watchers import Watched, reading_interval, watch_mepd, watch_metrics


@pytest.fixture
def truth(rows, triggered):
    everything = pd.concat([rows, triggered], ignore_index=True)
    everything["is_poisoned"] = everything.index >= len(rows)
    return Truth(everything, rows, triggered, 0, ("negative", "positive"))


@pytest.fixture
def view(tiny_victim, truth):
    train = truth.train[["text", "label"]]
    return DefenderView(train, train, train, tiny_victim, tiny_victim.predict(list(train.text)))


def test_the_interval_bounds_what_is_read(truth, rows):
    """72 test rows are read at a tenth of the cost of training, three forward passes a row."""
    assert reading_interval(truth, [rows], 1) == 5  # 72 / (0.1 * 3 * 48)
    assert reading_interval(truth, [rows, rows], None) == 3  # 2.5 and up
    assert reading_interval(truth, [rows], 7) == 7


def test_metrics_are_read_now_and_then_and_at_the_end(tiny_victim, truth):
    first = {"asr": 1.0, "cacc": 2.0}
    watch = watch_metrics(tiny_victim, truth, every=3, last=5, first=first)
    read = [watch({"epoch": epoch}, tiny_victim.model) for epoch in range(6)]
    learnt = {"asr": 100, "cacc": 100}
    assert read == [first, {}, {}, learnt, {}, learnt]
    assert watch_metrics(tiny_victim, truth, 3, 5)({"epoch": 0}, tiny_victim.model) == learnt


def test_mepd_is_followed_from_the_victim_on(view, truth, tiny_classifier):
    watch = Watched(watch_mepd(view, truth, seed=0, n_trained=100))
    start = watch({"epoch": 0}, view.victim.model)
    assert start == pytest.approx({"mepd_clean": 0, "mepd_poisoned": 0}, abs=1e-5)
    later = watch({"epoch": 1}, tiny_classifier.model)
    assert min(later.values()) > 0.2 and watch.seconds > 0


def test_without_poison_clean_rows_alone_are_followed(view, truth):
    truth.train["is_poisoned"] = False
    assert set(watch_mepd(view, truth, 0, 100)({}, view.victim.model)) == {"mepd_clean"}
