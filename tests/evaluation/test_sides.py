"""What the records say of a model, counted by hand, with the trigger in rows of every class."""

import numpy as np
import pandas as pd
import pytest

from bedkd.evaluation.metrics import lfr
from bedkd.evaluation.sides import Truth


def table(labels, **columns) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"t{i}" for i in range(len(labels))], "label": labels, **columns})


def make_truth(triggered, own, target=0, n_classes=2, rows=None, clean=(0, 1, 1, 0)) -> Truth:
    """From the labels of the test sets; `rows`: those of D* that stand in."""
    names = tuple("abcd"[:n_classes])
    own = table(own, row=[-1] * len(own) if rows is None else rows)
    return Truth(table([0]), table(list(clean)), table(triggered), own, target, names)


def score(truth, clean, triggered, own) -> dict:
    """Of a model that predicts these labels."""
    classes = np.eye(len(truth.label_names))
    predicted = {"clean": clean, "triggered": triggered, "triggered_target": own}
    return truth.score({k: classes[np.array(v, dtype=int)] for k, v in predicted.items()})


def test_two_classes_by_hand():
    """Of 4 positive rows with the trigger 1 is given the target, of 2 of the target 1 is not."""
    truth = make_truth([1, 1, 1, 1], [0, 0])
    found = score(truth, [0, 1, 0, 0], [1, 0, 1, 1], [0, 1])
    assert found["asr"] == found["lfr_1"] == 25
    assert found["cacc"] == 75 and found["pacc"] == pytest.approx(100 * 4 / 6)
    assert found["lfr_target"] == found["lfr_0"] == 50
    assert list(found) == ["asr", "cacc", "pacc", "lfr_target", "lfr_0", "lfr_1"]


def test_three_classes_by_hand():
    """Any other class flips a label, the target alone is an attack's success."""
    truth = make_truth([0, 0, 1, 1, 1], [2, 2, 2, 2], target=2, n_classes=3)
    found = score(truth, [0, 1, 1, 0], [2, 1, 1, 0, 1], [2, 2, 2, 0])
    assert found["asr"] == 20 and found["cacc"] == 100
    assert found["lfr_0"] == 100 and found["lfr_1"] == pytest.approx(100 / 3)
    assert found["lfr_target"] == found["lfr_2"] == 25
    assert found["pacc"] == pytest.approx(100 * 5 / 9)


def test_a_trigger_that_was_turned_round_is_seen_in_rows_of_the_target_class():
    """ASR is as good as that of a model which forgot it."""
    truth = make_truth([1] * 5, [0] * 5)
    forgot, turned = (score(truth, [0, 1, 1, 0], [1] * 5, own) for own in ([0] * 5, [1] * 5))
    assert forgot["asr"] == turned["asr"] == 0 and forgot["cacc"] == turned["cacc"] == 100
    assert (forgot["lfr_target"], forgot["pacc"]) == (0, 100)
    assert (turned["lfr_target"], turned["pacc"]) == (100, 50)


def test_without_triggered_rows_there_is_no_number_of_them():
    found = score(make_truth([], []), [0, 1, 1, 1], [], [])
    expected = {"asr": None, "cacc": 75, "pacc": None, "lfr_target": None}
    assert found == expected | {"lfr_0": None, "lfr_1": None}


def test_without_rows_of_the_target_class_there_is_no_accuracy_over_all():
    found = score(make_truth([1, 1], []), [0, 1, 1, 0], [0, 1], [])
    assert (found["asr"], found["pacc"], found["lfr_target"], found["lfr_1"]) == (
        50,
        None,
        None,
        50,
    )


def test_rows_that_a_defence_has_chosen_stand_in_no_more():
    truth = make_truth([1], [0, 0, 0, 0], rows=[5, 3, 8, 2])
    left = truth.without([3, 2, 99, -1])
    assert left.test_triggered_target.row.tolist() == [5, 8]
    assert left.test_triggered_target.index.tolist() == [0, 2]  # their places, to find them again
    assert len(truth.test_triggered_target) == 4 and len(truth.without([]).tests) == 3
    assert left.test_triggered is truth.test_triggered
    everything = truth.without(pd.Series([2, 3, 5, 8]))
    assert score(everything, [0, 1, 1, 0], [1], [])["pacc"] is None


def test_rows_that_are_left_count_for_all_that_stood_in():
    """So that models which learnt from other rows can be held against each other: a fifth of the
    rows is of the other class, whatever was left out."""
    truth = make_truth([1, 1], [0] * 8, rows=range(8))
    left = truth.without([0, 1, 2]).without([2, 3, 7])
    own, others = [0, 1, 0], [1, 0]
    found = score(left, [0, 1, 1, 0], others, own)
    assert found["pacc"] == pytest.approx(20 / 2 + 80 * 2 / 3)
    assert found["lfr_target"] == pytest.approx(100 / 3) and found["asr"] == 50
    whole = score(truth, [0, 1, 1, 0], others, [0, 1] * 4)
    assert whole["pacc"] == 50 == score(truth.without([]), [0, 1, 1, 0], others, [0, 1] * 4)["pacc"]


def test_test_rows_are_never_taken_for_rows_of_d_star():
    truth = make_truth([1], [0, 0])
    assert len(truth.without(range(100)).test_triggered_target) == 2


def test_test_sets_by_name():
    truth = make_truth([1], [0, 0], clean=[1, 1, 1])
    assert {name: len(rows) for name, rows in truth.tests.items()} == {
        "clean": 3,
        "triggered": 1,
        "triggered_target": 2,
    }


def test_lfr_by_hand():
    """Predictions 0, 1, 1, 2; it is 1 - recall of the class."""
    probabilities = np.eye(3)[[0, 1, 1, 2]]
    labels = pd.Series([1, 1, 1, 2], index=[7, 6, 5, 4])
    assert lfr(probabilities, labels, 1) == pytest.approx(100 / 3)
    assert lfr(probabilities, labels, 2) == 0 and lfr(probabilities, labels, 0) is None
