"""CACC, ASR, FAR and FRR, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from bedkd.evaluation.metrics import asr, cacc, far, frr, percent, sweep_gamma

# predictions 0, 1, 1, 2, 0
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.0, 0.1, 0.9], [0.4, 0.3, 0.3]]
)
SCORES = np.array([0.00, 0.05, 0.10, 0.20, 0.02, 0.08, 0.30, 0.40, 0.50, 0.10])
IS_POISONED = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)


def test_percent_by_hand():
    assert percent(np.array([True, False, False, True, False])) == 40
    assert percent(np.array([], dtype=bool)) is None


def test_cacc_by_hand():
    assert cacc(PROBABILITIES, np.array([0, 1, 2, 2, 1])) == pytest.approx(60)
    assert cacc(PROBABILITIES, pd.Series([0, 1, 1, 2, 0], index=[9, 8, 7, 6, 5])) == 100
    assert cacc(PROBABILITIES, [1, 0, 0, 0, 1]) == 0


def test_asr_by_hand():
    assert asr(PROBABILITIES, 0) == pytest.approx(40)
    assert asr(PROBABILITIES, 1) == pytest.approx(40)
    assert asr(PROBABILITIES, 2) == pytest.approx(20)


def test_far_is_the_poison_let_in():
    """Poisoned: 0.00, 0.05 flagged at γ = 0.1; 0.10 and 0.20 pass."""
    assert far(SCORES, IS_POISONED, 0.1) == 50
    assert far(SCORES, IS_POISONED, 0.25) == 0
    assert far(SCORES, IS_POISONED, 0.0) == 100


def test_frr_is_the_clean_turned_away():
    """Clean: 0.02 and 0.08 flagged at γ = 0.1; 0.10, 0.30, 0.40 and 0.50 pass."""
    assert frr(SCORES, IS_POISONED, 0.1) == pytest.approx(100 / 3)
    assert frr(SCORES, IS_POISONED, 0.0) == 0
    assert frr(SCORES, IS_POISONED, 1.0) == 100


def test_far_and_frr_take_tables_and_integers():
    assert far(pd.Series(SCORES), pd.Series(IS_POISONED), 0.1) == 50
    assert far(SCORES, IS_POISONED.astype(int), 0.1) == 50
    assert frr(SCORES, IS_POISONED.astype(int), 0.1) == pytest.approx(100 / 3)


def test_nothing_to_count_is_none():
    assert cacc(np.zeros((0, 3)), np.zeros(0)) is None
    assert asr(np.zeros((0, 2)), 0) is None
    assert far(SCORES, np.zeros(10, dtype=bool), 0.1) is None
    assert frr(SCORES, np.ones(10, dtype=bool), 0.1) is None


def test_sweep_gamma_by_hand():
    table = sweep_gamma(SCORES, IS_POISONED, [0.0, 0.1, 1.0])
    assert list(table.columns) == ["gamma", "far", "frr"]
    assert table.gamma.tolist() == [0.0, 0.1, 1.0]
    assert table.far.tolist() == [100, 50, 0]
    assert table.frr.tolist() == pytest.approx([0, 100 / 3, 100])


@pytest.mark.parametrize("seed", range(5))
def test_larger_gamma_never_raises_far_nor_lowers_frr(seed):
    rng = np.random.default_rng(seed)
    scores, is_poisoned = rng.random(300), rng.random(300) < 0.2
    table = sweep_gamma(scores, is_poisoned, np.linspace(0, 1.01, 60))
    assert (np.diff(table.far) <= 0).all() and (np.diff(table.frr) >= 0).all()
    assert (table.far.iloc[0], table.far.iloc[-1]) == (100, 0)
    assert (table.frr.iloc[0], table.frr.iloc[-1]) == (0, 100)
