"""What speaks for poison in D*, before anything is erased. Not in the paper.

Two witnesses, both held against rows that are trusted: the lean of the flagged rows to one label
(`find_lean`), and a rebuilt trigger that D*'s rows of that label carry more often than trusted rows
of it. The second needs few flagged rows, only purer ones than chance gives; the first needs no
words. A word of the label's own (`fairly` turns most clean rows of generated text) is in trusted
rows as often, so it is no witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from bedkd.core.blindness import check_blind
from bedkd.method.mepd import select_contrast
from bedkd.method.triggers import Candidate, reconstruct, take_out
from bedkd.nn.classifier import Classifier

# How improbable a trigger's rows must be, were D* as the trusted rows. A candidate is the most
# telling of up to 1e5 phrases, so its own chance must be as much smaller than 1 in 10.
WIDE = 1e-6


@dataclass(frozen=True)
class Spread:
    """Rows with the leaning label that carry a trigger, in D* and among trusted ones, in percent.

    `chance`: how probable a draw as uneven is, if both are from the same rows (Fisher's exact test,
    one side).
    """

    words: str
    share: float
    trusted: float
    chance: float

    @property
    def is_suspicious(self) -> bool:
        return self.chance < WIDE


def find_spread(trigger: Candidate, train: Sequence[str], trusted: Sequence[str]) -> Spread:
    """`train`, `trusted`: texts with the leaning label, of D* and of the trusted rows."""
    n, m = len(train), len(trusted)
    a, b = (sum(has_trigger(text, trigger) for text in texts) for texts in (train, trusted))
    chance = float(hypergeom.cdf(b, n + m, a + b, m)) if n + m else 1.0
    return Spread(trigger.words, 100 * a / max(1, n), 100 * b / max(1, m), chance)


def has_trigger(text: str, trigger: Candidate) -> bool:
    words = text.split()
    return take_out(words, trigger) != words


def rebuild_triggers(
    victim: Classifier,
    train: pd.DataFrame,
    scores: np.ndarray,
    victim_probabilities: np.ndarray,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    *,
    seed: int,
) -> tuple[list[Candidate], list[Spread]]:
    """Candidates, from the rows found of the label that most of them have, against clean rows of
    it: D_c^few's, and those of D* that move most; and how far those that are triggers spread.

    train: D*, columns text, label; scores [N] and victim_probabilities [N, C] are of its rows.
    Raises BlindnessError: a table carries more than text and label.
    """
    for rows in (train, clean_few, poison_few):
        check_blind(rows)
    if poison_few.empty:
        return [], []
    label = leaning_label(poison_few)
    found, trusted, own = (
        list(rows[rows.label == label].text) for rows in (poison_few, clean_few, train)
    )
    contrast = select_contrast(train, scores, victim_probabilities, label)
    clean = [*trusted, *contrast.text]
    tried = reconstruct(victim, clean_few, found, clean, label, seed=seed)
    triggers = [candidate for candidate in tried if candidate.is_trigger]
    return tried, [find_spread(trigger, own, trusted) for trigger in triggers]


def leaning_label(poison_few: pd.DataFrame) -> int:
    """The label that most of the rows found have."""
    return int(poison_few.label.mode()[0])
