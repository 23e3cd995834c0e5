"""Eq. 4, the threshold, and the choice of D_p^few*."""

import inspect

import numpy as np
import pandas as pd
import pytest

from bedkd.core.config import MEPDConfig
from bedkd.core.errors import BlindnessError
from bedkd.evaluation.metrics import far, frr
from bedkd.method.mepd import flag_poisoned, mepd, select_poison_few

# six rows of D*: what is flagged at γ = 0.1 are rows 0, 2, 3 and 5
SCORES = np.array([0.05, 0.30, 0.01, 0.09, 0.10, 0.02])
FLAGGED = [0, 2, 3, 5]


@pytest.fixture
def train():
    return pd.DataFrame({"text": list("abcdef"), "label": [0, 1, 0, 1, 0, 0]})


@pytest.fixture
def probabilities():
    """The victim predicts 0, 1, 0, 0, 0, 1: of the flagged rows, 0 and 2 as they are labelled."""
    first = np.array([0.9, 0.2, 0.8, 0.7, 0.6, 0.1])
    return np.stack([first, 1 - first], axis=1).astype(np.float32)


def select(train, probabilities, scores=SCORES, seed=0, **values):
    config = MEPDConfig(**{"gamma": 0.1, "n_poison": 32} | values)
    return select_poison_few(train, scores, probabilities, config, seed=seed)


def draw_probabilities(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(n_classes), size=n)


def test_eq_4_by_hand():
    victim = np.array([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]])
    dmm = np.array([[0.1, 0.4, 0.1, 0.4], [0.25, 0.25, 0.25, 0.25]])
    # row 0: (0.6 + 0.2 + 0.0 + 0.4) / 4
    assert mepd(victim, dmm).tolist() == pytest.approx([0.3, 0.0])


def test_two_classes_give_the_difference_of_one_probability():
    victim, dmm = draw_probabilities(50, 2, 0), draw_probabilities(50, 2, 1)
    assert mepd(victim, dmm) == pytest.approx(np.abs(victim[:, 0] - dmm[:, 0]))
    assert mepd(victim, dmm) == pytest.approx(np.abs(victim[:, 1] - dmm[:, 1]))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_mepd_is_symmetric_and_bounded(n_classes):
    victim, dmm = draw_probabilities(200, n_classes, 0), draw_probabilities(200, n_classes, 1)
    scores = mepd(victim, dmm)
    assert (scores == mepd(dmm, victim)).all()
    # two distributions differ by at most 2 in total
    assert (scores > 0).all() and (scores <= 2 / n_classes).all()
    certain = np.eye(n_classes)
    assert mepd(certain[:1], certain[1:2]).tolist() == pytest.approx([2 / n_classes])


def test_float32_probabilities_are_compared_in_float64():
    scores = mepd(np.float32([[0.6, 0.4]]), np.float32([[0.6, 0.4]]))
    assert scores.dtype == np.float64 and scores[0] == 0


def test_threshold_itself_counts_as_clean():
    """Algorithm 1, line 15: MEPD < γ."""
    assert flag_poisoned(np.array([0.0999, 0.1, 0.1001]), 0.1).tolist() == [True, False, False]
    assert not flag_poisoned(SCORES, 0.0).any()
    assert flag_poisoned(pd.Series(SCORES), 0.1).nonzero()[0].tolist() == FLAGGED


@pytest.mark.parametrize("gamma", [1e-9, 0.1, 1.0])
def test_before_training_everything_is_flagged(gamma):
    victim = draw_probabilities(40, 4, 0)
    scores = mepd(victim, victim.copy())
    is_poisoned = np.arange(40) < 8
    assert (scores == 0).all() and flag_poisoned(scores, gamma).all()
    assert far(scores, is_poisoned, gamma) == 0
    assert frr(scores, is_poisoned, gamma) == 100


def test_file_order_takes_the_first_flagged_rows(train, probabilities):
    few = select(train, probabilities, n_poison=3)
    assert few.row.tolist() == [0, 2, 3]
    assert few.text.tolist() == ["a", "c", "d"] and few.label.tolist() == [0, 0, 1]
    assert list(few.columns) == ["text", "label", "row"] and few.index.tolist() == [0, 1, 2]


def test_lowest_mepd_takes_where_both_agree_most(train, probabilities):
    few = select(train, probabilities, n_poison=3, selection="lowest_mepd")
    assert few.row.tolist() == [2, 5, 0]
    assert few.text.tolist() == ["c", "f", "a"]


def test_teacher_agreement_takes_rows_that_the_victim_labels_alike(train, probabilities):
    few = select(train, probabilities, selection="teacher_agreement")
    assert few.row.tolist() == [0, 2]
    assert select(train, probabilities, n_poison=1, selection="teacher_agreement").row.item() == 0


def test_random_draws_flagged_rows_by_seed(train, probabilities):
    drawn = [
        select(train, probabilities, n_poison=2, selection="random", seed=seed).row.tolist()
        for seed in range(30)
    ]
    assert all(set(rows) <= set(FLAGGED) and len(set(rows)) == 2 for rows in drawn)
    assert {row for rows in drawn for row in rows} == set(FLAGGED)
    again = select(train, probabilities, n_poison=2, selection="random", seed=7)
    assert again.row.tolist() == drawn[7]


@pytest.mark.parametrize("selection", ["file_order", "random", "lowest_mepd"])
def test_n_poison_above_the_flagged_takes_all_of_them(train, probabilities, selection):
    few = select(train, probabilities, n_poison=100, selection=selection)
    assert sorted(few.row) == FLAGGED


@pytest.mark.parametrize("selection", ["file_order", "random", "lowest_mepd", "teacher_agreement"])
@pytest.mark.parametrize("values", [{"n_poison": 0}, {"gamma": 0.0}])
def test_nothing_to_take_is_an_empty_table(train, probabilities, selection, values):
    few = select(train, probabilities, selection=selection, **values)
    assert len(few) == 0 and list(few.columns) == ["text", "label", "row"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("file_order", [0, 2]), ("lowest_mepd", [2, 0]), ("teacher_agreement", [0, 2])],
)
def test_max_candidates_ends_the_sweep_of_the_file(train, probabilities, selection, expected):
    few = select(train, probabilities, max_candidates=2, selection=selection)
    assert few.row.tolist() == expected
    few = select(train, probabilities, max_candidates=2, selection="random")
    assert sorted(few.row) == [0, 2]


def test_rows_are_places_and_not_index_labels(train, probabilities):
    few = select(train.set_index(pd.Index([9, 8, 7, 6, 5, 4])), probabilities, n_poison=2)
    assert few.row.tolist() == [0, 2] and few.text.tolist() == ["a", "c"]


def test_selection_reads_no_label_but_for_teacher_agreement(train, probabilities):
    other = train.assign(label=1 - train.label)
    for selection in ("file_order", "random", "lowest_mepd"):
        one, two = (select(t, probabilities, selection=selection) for t in (train, other))
        assert one.row.tolist() == two.row.tolist()


def test_truth_about_the_poison_is_refused(train, probabilities):
    with pytest.raises(BlindnessError, match="is_poisoned"):
        select(train.assign(is_poisoned=True), probabilities)
    names = inspect.signature(select_poison_few).parameters
    names = set(names) - {"label"}
    assert names == {"train", "scores", "victim_probabilities", "config", "seed"}
