"""Watchers read at the right times, at a bounded cost, and what they say is what they read."""

import pandas as pd
import pytest

from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.evaluation.watchers import Watched, reading_interval, watch_mepd, watch_metrics


@pytest.fixture
def truth(rows, triggered):
    everything = pd.concat([rows, triggered], ignore_index=True)
    everything["is_poisoned"] = everything.index >= len(rows)
    own = rows[rows.label == 0]
    own = own.assign(text="cf " + own.text, row=-1)
    others = triggered.assign(label=1)  # the true one
    return Truth(everything, rows, others, own, 0, ("negative", "positive"))


@pytest.fixture
def view(tiny_victim, truth):
    train = truth.train[["text", "label"]]
    return DefenderView(train, train, train, tiny_victim, tiny_victim.predict(list(train.text)))


def test_the_interval_bounds_what_is_read(truth, rows):
    """96 test rows are read at a tenth of the cost of training, three forward passes a row."""
    assert reading_interval(truth, [rows], 1) == 7  # 96 / (0.1 * 3 * 48), 6.7 and up
    assert reading_interval(truth, [rows, rows], None) == 4  # 3.3 and up
    assert reading_interval(truth, [rows], 9) == 9


def test_metrics_are_read_now_and_then_and_at_the_end(tiny_victim, truth):
    watch = watch_metrics(tiny_victim, truth, every=3, last=5)
    read = [watch({"epoch": epoch}, tiny_victim.model) for epoch in range(6)]
    # a backdoor as learnt: rows of the target class are right with the trigger too
    learnt = {"asr": 100, "cacc": 100, "pacc": 50, "lfr_target": 0, "lfr_0": 0, "lfr_1": 100}
    assert read == [learnt, {}, {}, learnt, {}, learnt]


def test_metrics_are_of_the_model_that_is_watched(tiny_victim, tiny_classifier, truth):
    watch = watch_metrics(tiny_victim, truth, every=1, last=5)
    found = watch({"epoch": 2}, tiny_classifier.model)
    tests = {k: tiny_classifier.predict(list(rows.text)) for k, rows in truth.tests.items()}
    assert found == truth.score(tests) != watch({"epoch": 2}, tiny_victim.model)


def test_mepd_is_followed_from_the_victim_on(view, truth, tiny_classifier):
    watch = Watched(watch_mepd(view, truth, seed=0, n_trained=100))
    start = watch({"epoch": 0}, view.victim.model)
    assert start == pytest.approx({"mepd_clean": 0, "mepd_poisoned": 0}, abs=1e-5)
    later = watch({"epoch": 1}, tiny_classifier.model)
    assert min(later.values()) > 0.2 and watch.seconds > 0


def test_without_poison_clean_rows_alone_are_followed(view, truth):
    truth.train["is_poisoned"] = False
    assert set(watch_mepd(view, truth, 0, 100)({}, view.victim.model)) == {"mepd_clean"}
