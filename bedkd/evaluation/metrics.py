"""CACC, ASR, PACC, LFR, FAR and FRR, in percent. Only here is the truth about the poison read."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def percent(hits: np.ndarray) -> float | None:
    """Share of true values, or None where there is nothing to count."""
    return 100 * float(np.mean(hits)) if len(hits) else None


def cacc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Clean accuracy: probabilities [N, C] against the true labels [N] of the clean test set."""
    return percent(probabilities.argmax(axis=1) == np.asarray(labels))


def pacc(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Accuracy on triggered rows of all classes, N >= 1 (Robust Gradient Ascent, ICLR 2026):
    probabilities [N, C], true labels [N]. weights [N]: of a row, more than 1 where it counts for
    others like it."""
    is_right = probabilities.argmax(axis=1) == np.asarray(labels)
    return 100 * float(np.average(is_right, weights=weights))


def asr(probabilities: np.ndarray, target_label: int) -> float | None:
    """Attack success rate: triggered non-target rows [N, C] that are given the target label."""
    return percent(probabilities.argmax(axis=1) == target_label)


def lfr(probabilities: np.ndarray, labels: np.ndarray, label: int) -> float | None:
    """Label flip rate of a class: its triggered rows that are given any other, 1 - recall
    (Robust Gradient Ascent, ICLR 2026). probabilities [N, C], true labels [N].

    With two classes that of the other class is the ASR, and that of the target class tells a
    trigger that was turned round from one that is forgotten.
    """
    is_own = np.asarray(labels) == label
    return percent(probabilities[is_own].argmax(axis=1) != label)


def far(scores: np.ndarray, is_poisoned: np.ndarray, gamma: float) -> float | None:
    """False acceptance rate: poisoned rows with MEPD >= γ, of all poisoned rows."""
    return percent(~(np.asarray(scores) < gamma)[np.asarray(is_poisoned, dtype=bool)])


def frr(scores: np.ndarray, is_poisoned: np.ndarray, gamma: float) -> float | None:
    """False rejection rate: clean rows with MEPD < γ, of all clean rows."""
    return percent((np.asarray(scores) < gamma)[~np.asarray(is_poisoned, dtype=bool)])


def sweep_gamma(
    scores: np.ndarray, is_poisoned: np.ndarray, gammas: Iterable[float]
) -> pd.DataFrame:
    """FAR and FRR over γ (Figure 4): columns gamma, far, frr."""
    rows = [(g, far(scores, is_poisoned, g), frr(scores, is_poisoned, g)) for g in gammas]
    return pd.DataFrame(rows, columns=["gamma", "far", "frr"])
