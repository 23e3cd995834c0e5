"""A defence's numbers beside those of a model that never saw poison, on the same rows."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bedkd.evaluation.sides import Truth
from bedkd.runs.stages.never_poisoned import compare
from bedkd.runs.stages.predictions import FILE


def table(labels, **columns):
    return pd.DataFrame({"text": "x", "label": labels, **columns})


@pytest.fixture
def truth():
    """The rows 4, 9, 2 and 7 of D* stand in for triggered rows of the target class 0."""
    own = table([0, 0, 0, 0], row=[4, 9, 2, 7])
    return Truth(table([0]), table([0, 1]), table([1, 1]), own, 0, ("a", "b"))


@pytest.fixture
def run(tmp_path):
    """Never poisoned: right on all but a triggered row, and on the stand-ins 4 and 2."""
    predicted = {"clean": [0, 1], "triggered": [1, 0], "triggered_target": [0, 1, 0, 1]}
    np.savez(tmp_path / FILE, **{name: np.eye(2)[labels] for name, labels in predicted.items()})
    return SimpleNamespace(folder=lambda stage: {"never_poisoned": tmp_path}[stage])


def score(truth, triggered, own):
    predicted = {"clean": [0, 1], "triggered": triggered, "triggered_target": own}
    return truth.score({k: np.eye(2)[np.array(v, dtype=int)] for k, v in predicted.items()})


def test_by_hand(run, truth):
    ours = score(truth, [1, 1], [0, 0, 0, 1])
    found = compare(run, truth, ours)
    assert found["asr"] == 0 and found["asr_never_poisoned"] == 50
    assert found["lfr_target"] == 25 and found["lfr_target_never_poisoned"] == 50
    assert found["pacc"] == pytest.approx(100 * 5 / 6) and found["pacc_never_poisoned"] == 50
    assert found["delta_pacc"] == pytest.approx(100 * 2 / 6)
    assert {name: found[name] for name in ours} == ours


def test_distance_has_no_sign(run, truth):
    found = compare(run, truth, score(truth, [0, 0], [0, 1, 1, 1]))
    assert found["pacc"] == pytest.approx(100 / 6)
    assert found["delta_pacc"] == pytest.approx(100 * 2 / 6)


def test_rows_that_the_defence_chose_count_for_neither(run, truth):
    """Without 9 and 7 the model that never saw poison is right on all that stand in."""
    left = truth.without([9, 7])
    found = compare(run, left, score(left, [1, 1], [1, 0]))
    assert found["lfr_target_never_poisoned"] == 0 and found["lfr_target"] == 50
    # those two count for all four: of six 1 + 2 · 2 and 2 + 2 · 1 are right
    assert found["pacc_never_poisoned"] == pytest.approx(100 * 5 / 6)
    assert found["pacc"] == pytest.approx(100 * 4 / 6)
    assert found["delta_pacc"] == pytest.approx(100 / 6)


def test_without_rows_of_the_target_class_there_is_no_distance(run, truth):
    left = truth.without([4, 9, 2, 7])
    found = compare(run, left, score(left, [1, 1], []))
    names = ("pacc", "delta_pacc", "pacc_never_poisoned", "lfr_target_never_poisoned")
    assert all(found[name] is None for name in names) and found["asr_never_poisoned"] == 50
