"""Mean error of the probability distributions (Eq. 4, lines 9-18 of Algorithm 1).

What is not in the paper, for BeDKD+: `p_values`, `find_lean`, `select_contrast`.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom

from bedkd.core.blindness import check_blind
from bedkd.core.config import MEPDConfig

AUTO_LEVEL = 0.05  # `gamma: auto`: of clean rows, at most this share is flagged
# How improbable so many flagged rows must be without poison. All rows are judged by the same
# D_c^few, so they are not independent, and false alarms are more frequent than this: in simulations
# 0 to 4%, the most where a row moves nearly alike under all DMMs.
CERTAIN = 1e-3
# What a victim was trained on moves a little less than trusted rows do, so of clean rows of a label
# up to 8% were flagged (30 victims without an attack), and with many rows that is no chance.
LEARNT = 9.0  # percent
MIN_CLEAN = 20  # of a label and fold: among fewer no p-value is under AUTO_LEVEL


def mepd(victim_probabilities: np.ndarray, dmm_probabilities: np.ndarray) -> np.ndarray:
    """Eq. 4: mean over the classes of |f_θ*(x, y) - DMM(x, y)|. Both [..., N, C]; returns
    [..., N], 0 to 1.

    For two classes it is the difference of one class's probability.
    """
    difference = victim_probabilities.astype(np.float64) - dmm_probabilities.astype(np.float64)
    return np.abs(difference).mean(axis=-1)


def p_values(
    scores: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    clean_labels: np.ndarray,
    clean_folds: np.ndarray,
) -> np.ndarray:
    """How rarely a clean row of the same label moves as little, along the path of every DMM.

    scores [F, R, N]: MEPD of N rows under F DMMs at R epochs; labels [N]. clean [R, M]: the same of
    D_c^few's rows, each under the DMM of its fold, which was not distilled on it; clean_labels [M],
    clean_folds [M].

    Returns [N]: the geometric mean over DMMs and epochs of (1 + clean rows of the label that move
    less or as much) / (1 + clean rows of the label). A DMM swings from epoch to epoch towards one
    class, whose rows then seem not to move: compared within the label, they do.

    Of clean rows, less than a share AUTO_LEVEL is under AUTO_LEVEL: the mean over a path is less
    extreme than its parts (`quick`, no attack: 0.3 to 4%).
    """
    n_dmms, n_epochs, n_rows = scores.shape
    logs = np.zeros(n_rows)
    for fold, epoch, label in itertools.product(range(n_dmms), range(n_epochs), np.unique(labels)):
        is_label = labels == label
        known = np.sort(clean[epoch, (clean_folds == fold) & (clean_labels == label)])
        n_below = np.searchsorted(known, scores[fold, epoch, is_label], side="right")
        logs[is_label] += np.log((1 + n_below) / (1 + len(known)))
    return np.exp(logs / (n_dmms * n_epochs))


@dataclass(frozen=True)
class Lean:
    """The label that flagged rows lean to: the target, if D* is poisoned. It is the one whose
    flagged rows are the least probable by chance.

    `share`: of the label's rows that are flagged, and `others`: of all others, in percent; among
    rows on which the victim agrees with the given label. `chance`: how probable so many are among
    clean rows.
    """

    label: int
    share: float
    others: float
    chance: float

    @property
    def is_suspicious(self) -> bool:
        return self.chance < CERTAIN and self.share >= LEARNT


def find_lean(p: np.ndarray, labels: np.ndarray, is_agreed: np.ndarray, n_classes: int) -> Lean:
    """From p-values [N] (NaN: not scored), given labels [N] and whether the victim agrees [N]."""
    is_known = is_agreed & ~np.isnan(p)
    is_flagged = is_known & flag_poisoned(p, AUTO_LEVEL)
    n_rows, n_flagged = (
        np.bincount(labels[m], minlength=n_classes) for m in (is_known, is_flagged)
    )
    chances = binom.sf(n_flagged - 1, n_rows, AUTO_LEVEL)
    shares = n_flagged / np.maximum(n_rows, 1)
    label = int(np.lexsort((-shares, chances))[0])
    others = (n_flagged.sum() - n_flagged[label]) / max(1, n_rows.sum() - n_rows[label])
    return Lean(label, 100 * float(shares[label]), 100 * float(others), float(chances[label]))


def score_path(
    path: dict[str, np.ndarray], labels: np.ndarray, victim: np.ndarray, *, is_auto: bool
) -> pd.DataFrame:
    """Scores of all rows of D*: columns mepd, the mean over DMMs and epochs, and, if `is_auto`, p
    (see `p_values`); NaN: not scored.

    path: what `distill_folds` returns, and `rows` [n], the rows that it scored; for p also label
    [M] and victim [M, C], of D_c^few. labels [N] and victim [N, C] are of D*.
    """
    rows = path["rows"]
    scores = mepd(victim[rows], path["train"])  # [F, R, n]
    columns = {"mepd": scores.mean(axis=(0, 1))}
    if is_auto:
        moved = mepd(path["victim"], path["clean"])
        columns["p"] = p_values(scores, labels[rows], moved, path["label"], path["fold"])
    return pd.DataFrame(columns, index=rows).reindex(range(len(labels)))


def clean_mepd(path: dict[str, np.ndarray]) -> pd.DataFrame:
    """Label and mean MEPD of D_c^few's rows, each under the DMM that did not see it."""
    moved = mepd(path["victim"], path["clean"]).mean(axis=0)
    return pd.DataFrame({"label": path["label"], "mepd": moved})


def count_calibration(path: dict[str, np.ndarray]) -> int:
    """Rows of D_c^few that p-values are read off, of the label and fold that has fewest. With fewer
    than MIN_CLEAN nothing can be flagged."""
    return int(pd.Series(1, [path["fold"], path["label"]]).groupby(level=[0, 1]).sum().min())


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
    label: int | None = None,
) -> pd.DataFrame:
    """D_p^few*: at most n_p of the flagged rows of D*, by `config.selection`.

    `file_order`: Algorithm 1. `random`: a seeded draw. `lowest_mepd`: where DMM and victim agree
    most. `teacher_agreement`: file order, rows on which the victim predicts the given label.
    `lean`: those of `label`, or of `find_lean`'s, the lowest first. `scores` are p-values with
    `gamma: auto`, else MEPD.

    Returns columns row (place in D*), text, label.
    """
    check_blind(train)
    labels = train.label.to_numpy()
    is_agreed = victim_probabilities.argmax(axis=1) == labels
    gamma = AUTO_LEVEL if config.gamma == "auto" else config.gamma
    flagged = np.flatnonzero(flag_poisoned(scores, gamma))[: config.max_candidates]
    if config.selection in ("teacher_agreement", "lean"):
        flagged = flagged[is_agreed[flagged]]
    if config.selection == "lean":
        if label is None:
            label = find_lean(scores, labels, is_agreed, victim_probabilities.shape[1]).label
        flagged = flagged[labels[flagged] == label]
    if config.selection in ("lowest_mepd", "lean"):
        flagged = flagged[np.argsort(scores[flagged], kind="stable")]
    elif config.selection == "random":
        flagged = np.random.default_rng([seed, 30]).permutation(flagged)
    chosen = flagged[: config.n_poison]
    return train.iloc[chosen][["text", "label"]].reset_index(drop=True).assign(row=chosen)


def select_contrast(
    train: pd.DataFrame, scores: np.ndarray, victim_probabilities: np.ndarray, label: int
) -> pd.DataFrame:
    """The half of the agreeing rows of a label that moves most, hence is clean: row, text,
    label."""
    check_blind(train)
    labels = train.label.to_numpy()
    is_agreed = victim_probabilities.argmax(axis=1) == labels
    rows = np.flatnonzero(is_agreed & (labels == label) & ~np.isnan(scores))
    rows = rows[np.argsort(scores[rows], kind="stable")][len(rows) // 2 :]
    return train.iloc[rows][["text", "label"]].reset_index(drop=True).assign(row=rows)
