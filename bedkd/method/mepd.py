"""Mean error of the probability distributions (Eq. 4, lines 9-18 of Algorithm 1)."""

import numpy as np
import pandas as pd

from bedkd.core.blindness import check_blind
from bedkd.core.config import MEPDConfig


def mepd(victim_probabilities: np.ndarray, dmm_probabilities: np.ndarray) -> np.ndarray:
    """Eq. 4: mean over the classes of |f_θ*(x, y) - DMM(x, y)|. Both [N, C]; returns [N], 0 to 1.

    For two classes it is the difference of one class's probability.
    """
    difference = victim_probabilities.astype(np.float64) - dmm_probabilities.astype(np.float64)
    return np.abs(difference).mean(axis=1)


def flag_poisoned(scores: np.ndarray, gamma: float) -> np.ndarray:
    """Rows taken for poisoned: MEPD < γ. scores [N]; returns bool [N]. A NaN is not."""
    return np.asarray(scores) < gamma


def select_poison_few(
    train: pd.DataFrame,
    scores: np.ndarray,
    victim_probabilities: np.ndarray,
    config: MEPDConfig,
    *,
    seed: int,
) -> pd.DataFrame:
    """D_p^few*: at most n_p of the flagged rows of D*, by `config.selection`.

    `file_order`: Algorithm 1. `random`: a seeded draw. `lowest_mepd`: where DMM and victim agree
    most. `teacher_agreement`: file order, rows on which the victim predicts the given label.

    Returns columns row (place in D*), text, label.
    """
    check_blind(train)
    flagged = np.flatnonzero(flag_poisoned(scores, config.gamma))[: config.max_candidates]
    if config.selection == "teacher_agreement":
        predicted = victim_probabilities.argmax(axis=1)
        flagged = flagged[predicted[flagged] == train.label.to_numpy()[flagged]]
    elif config.selection == "lowest_mepd":
        flagged = flagged[np.argsort(scores[flagged], kind="stable")]
    elif config.selection == "random":
        flagged = np.random.default_rng([seed, 30]).permutation(flagged)
    chosen = flagged[: config.n_poison]
    return train.iloc[chosen][["text", "label"]].reset_index(drop=True).assign(row=chosen)
