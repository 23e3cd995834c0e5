"""Beyond Eq. 4: p-values along the DMMs' paths, the label that flagged rows lean to, and what is
taken for clean beside them."""

from math import comb

import numpy as np
import pandas as pd
import pytest

from bedkd.core.config import MEPDConfig
from bedkd.core.errors import BlindnessError
from bedkd.method.mepd import (
    AUTO_LEVEL,
    CERTAIN,
    Lean,
    find_lean,
    flag_poisoned,
    p_values,
    select_contrast,
    select_poison_few,
)

# D_c^few's rows: fold, label, and MEPD at two epochs, each under the DMM of its fold
CLEAN = np.array(
    [(0, 0, 0.1, 0.6), (0, 0, 0.3, 0.4), (1, 0, 0.2, 0.2), (0, 1, 0.5, 0.5), (1, 1, 0.6, 0.6)]
    + [(0, 0, 0.2, 0.5)]
)
FOLDS, LABELS, MOVED = CLEAN[:, 0], CLEAN[:, 1], CLEAN[:, 2:].T
# of two DMMs, at two epochs: MEPD of one row of D*
ONE = np.array([[0.2, 0.39], [0.1, 0.2]])[..., None]


def p_of(scores, labels, folds=FOLDS, clean_labels=LABELS, moved=MOVED):
    return p_values(scores, np.array(labels), moved, clean_labels, folds)


def test_p_by_hand():
    """Label 0, DMM 0: of three clean rows 0.1 and 0.2 are no more than 0.2, none than 0.39; DMM 1:
    of one, none is than 0.1, and it is no more than 0.2."""
    expected = (3 / 4 * 1 / 4 * 1 / 2 * 2 / 2) ** (1 / 4)
    assert p_of(ONE, [0]).tolist() == pytest.approx([expected])


def test_p_is_among_clean_rows_of_the_same_label():
    """The same scores under label 1: nothing but 0.5 and 0.6 there, and all are less."""
    both = np.concatenate([ONE, ONE], axis=-1)
    zero, one = p_of(both, [0, 1])
    assert one == pytest.approx(1 / 2) and zero == pytest.approx(p_of(ONE, [0])[0])


def test_p_counts_what_moves_as_little_as_less():
    assert p_of(np.full((2, 2, 1), 0.6), [1]).tolist() == [1]
    just_under = np.array([[0.5, 0.5], [0.6, 0.6]])[..., None] - 1e-12
    assert p_of(just_under, [1]).tolist() == pytest.approx([1 / 2])


def test_p_with_one_dmm_and_one_epoch_is_a_share():
    clean = np.arange(1, 20)[None] / 100  # 0.01 to 0.19
    scores = np.array([0.0, 0.01, 0.055, 0.19, 0.5])[None, None]
    found = p_values(scores, np.zeros(5, int), clean, np.zeros(19, int), np.zeros(19, int))
    assert found.tolist() == pytest.approx([1 / 20, 2 / 20, 6 / 20, 1, 1])


def test_label_of_no_clean_row_is_never_flagged():
    found = p_of(np.zeros((2, 2, 2)), [7, 0])
    assert found[0] == 1 and not np.isnan(found).any()


def draw_null(seed, *, shared, n_rows=200, n_clean=80, n_folds=2, n_epochs=3):
    """Rows of D* and clean rows alike: of each, what all DMMs share, and what one epoch adds."""
    rng = np.random.default_rng(seed)

    def draw(n, *shape):
        own, rest = rng.normal(size=n), rng.normal(size=(*shape, n))
        return np.exp(shared * own + np.sqrt(1 - shared**2) * rest)

    scores, clean = draw(n_rows, n_folds, n_epochs), draw(2 * n_clean, n_epochs)
    labels = np.arange(n_rows) % 2
    return scores, labels, clean, np.arange(2 * n_clean) % 2, np.arange(2 * n_clean) // 2 % n_folds


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9, 1.0])
def test_of_clean_rows_no_more_than_the_level_is_flagged(shared):
    """Whatever the epochs and DMMs have in common; over 40 draws of D_c^few, since one has few."""
    found = np.concatenate([p_values(*draw_null(seed, shared=shared)) for seed in range(40)])
    assert found.min() > 0 and found.max() <= 1
    assert np.mean(found < AUTO_LEVEL) <= AUTO_LEVEL


def test_rows_that_move_as_little_as_no_clean_row_have_the_least_p():
    scores, *rest = draw_null(0, shared=0.5)
    scores[..., :20] = 0
    found = p_values(scores, *rest)
    assert found[:20].tolist() == pytest.approx([1 / 41] * 20)  # 40 clean rows a label and fold
    assert found[20:].min() > found[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_moves_more_has_no_smaller_p(seed):
    scores, *rest = draw_null(seed, shared=0.3)
    before = p_values(scores, *rest)
    for step in (1e-9, 0.1, 1e3):
        after = p_values(scores + step, *rest)
        assert (after >= before).all()
    assert (after == 1).all() and (before < 1).any()
    _, labels, *clean = scores, *rest
    some = [5, 190, 6]  # and what else is scored is no matter
    assert (p_values(scores[..., some], labels[some], *clean) == before[some]).all()


# the label that flagged rows lean to


def lean_table(n_flagged: int):
    """Of label 1 n_flagged of 20 rows; of label 0 1 of 40; of label 2 none of 10."""
    p = np.ones(70)
    p[:n_flagged], p[20], p[n_flagged] = 0.01, 0.049, AUTO_LEVEL  # the level is not under itself
    return p, np.repeat([1, 0, 2], [20, 40, 10])


def test_lean_by_hand():
    p, labels = lean_table(6)
    found = find_lean(p, labels, np.ones(70, bool), 3)
    chance = sum(comb(20, k) * 0.05**k * 0.95 ** (20 - k) for k in range(6, 21))
    assert found == Lean(
        label=1, share=30.0, others=pytest.approx(2.0), chance=pytest.approx(chance)
    )


@pytest.mark.parametrize("n_flagged", [4, 5, 6, 7])
def test_suspicious_is_what_clean_rows_would_not_give(n_flagged):
    """At 5% a row: five or more of 20 have 0.26%, six or more 0.03%."""
    chance = sum(comb(20, k) * 0.05**k * 0.95 ** (20 - k) for k in range(n_flagged, 21))
    found = find_lean(*lean_table(n_flagged), np.ones(70, bool), 3)
    assert found.label == 1 and found.is_suspicious == (chance < CERTAIN) == (n_flagged > 5)


@pytest.mark.parametrize(("share", "is_suspicious"), [(8.9, False), (9.0, True)])
def test_rows_learnt_by_heart_are_not_suspicious_however_many(share, is_suspicious):
    assert Lean(0, share, 2.0, 1e-30).is_suspicious == is_suspicious
    assert not Lean(0, share, 2.0, CERTAIN).is_suspicious


def test_rows_that_are_not_scored_or_not_agreed_on_do_not_count():
    p, labels = lean_table(6)
    more = [0.0, 0.0, 0.0, np.nan, np.nan, 1.0]  # of label 2, and of label 1 the last three
    p, labels = np.append(p, more), np.append(labels, [2, 2, 2, 1, 1, 1])
    is_agreed = np.append(np.ones(70, bool), [False, False, False, True, True, False])
    assert find_lean(p, labels, is_agreed, 3) == find_lean(*lean_table(6), np.ones(70, bool), 3)


def test_lean_of_nothing_is_not_suspicious():
    for p in (np.full(4, np.nan), np.ones(4)):
        found = find_lean(p, np.array([0, 1, 1, 0]), np.ones(4, bool), 2)
        assert (found.share, found.others, found.is_suspicious) == (0, 0, False)


# what is chosen


@pytest.fixture
def train():
    return pd.DataFrame({"text": list("abcdefgh"), "label": [0, 1, 1, 1, 0, 1, 0, 1]})


@pytest.fixture
def probabilities():
    """The victim agrees with all labels but that of row 3."""
    return np.eye(2)[[0, 1, 1, 0, 0, 1, 0, 1]]


# flagged: 1, 2, 3, 5 of label 1 and 4 of label 0; row 6 is not scored
P = np.array([0.50, 0.04, 0.01, 0.001, 0.001, 0.02, np.nan, 0.30])


def select(train, probabilities, scores=P, **values):
    config = MEPDConfig(**{"gamma": "auto", "selection": "lean"} | values)
    return select_poison_few(train, scores, probabilities, config, seed=0)


def test_lean_takes_agreed_rows_of_its_label_with_the_least_p_first(train, probabilities):
    few = select(train, probabilities)
    assert few.row.tolist() == [2, 5, 1] and few.text.tolist() == ["c", "f", "b"]
    assert set(few.label) == {1} and list(few.columns) == ["text", "label", "row"]
    assert select(train, probabilities, n_poison=2).row.tolist() == [2, 5]
    assert select(train, probabilities, n_poison=0).empty


def test_lean_keeps_the_files_order_among_equals(train, probabilities):
    scores = np.where(P < AUTO_LEVEL, 0.01, P)
    assert select(train, probabilities, scores).row.tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("file_order", [1, 2, 3, 4, 5]),
        ("lowest_mepd", [3, 4, 2, 5, 1]),
        ("teacher_agreement", [1, 2, 4, 5]),
    ],
)
def test_auto_is_a_level_for_every_selection(train, probabilities, selection, expected):
    assert select(train, probabilities, selection=selection).row.tolist() == expected
    assert flag_poisoned(P, AUTO_LEVEL).nonzero()[0].tolist() == [1, 2, 3, 4, 5]


def test_contrast_is_the_half_that_moves_most(train, probabilities):
    """Of label 1, agreed on and scored: rows 2, 5, 1, 7, from the least p to the greatest."""
    found = select_contrast(train, P, probabilities, 1)
    assert found.text.tolist() == ["b", "h"] and list(found.columns) == ["text", "label", "row"]
    assert select_contrast(train, P, probabilities, 0).text.tolist() == ["a"]  # of 4 and 0
    without = np.where(np.arange(8) == 7, np.nan, P)  # an odd number: the middle row is in it
    assert select_contrast(train, without, probabilities, 1).text.tolist() == ["f", "b"]
    assert select_contrast(train, np.full(8, np.nan), probabilities, 1).empty


def test_contrast_has_no_row_that_is_chosen(train, probabilities):
    """So long as the flagged are not more than half of their label."""
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"text": [f"row {i}" for i in range(100)], "label": np.arange(100) % 2})
    p = np.where(np.arange(100) < 30, 0.01, rng.uniform(0.05, 1, 100))
    args = many, p, np.eye(2)[many.label]
    few, contrast = select(many, args[2], p), select_contrast(*args, 1)
    assert len(few) == 15 and len(contrast) == 25
    assert not set(few.text) & set(contrast.text)


def test_truth_about_the_poison_is_refused(train, probabilities):
    marked = train.assign(is_poisoned=True)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        select(marked, probabilities)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        select_contrast(marked, P, probabilities, 1)


def test_the_lean_is_not_to_a_label_with_one_row():
    """One of one flagged row is no excess, 200 of 400 are."""
    labels = np.array([0] * 400 + [1] * 400 + [2])
    p = np.full(len(labels), 0.5)
    p[400:600] = p[-1] = 0.01
    lean = find_lean(p, labels, np.ones(len(labels), dtype=bool), 3)
    assert lean.label == 1 and lean.is_suspicious and lean.share == 50
