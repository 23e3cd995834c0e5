"""What speaks for poison in D*, before anything is erased. Not in the paper.

Two witnesses, both held against rows that are trusted: the lean of the flagged rows to one label
(`find_lean`), and a rebuilt trigger that D*'s rows of that label carry more often than trusted rows
of it. The second needs few flagged rows, only purer ones than chance gives; the first needs no
words. A word of the label's own (`fairly` turns most clean rows of generated text) is in trusted
rows as often, so it is no witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from bedkd.core.blindness import check_blind
from bedkd.core.config import MEPDConfig
from bedkd.method.mepd import Lean, select_contrast, select_poison_few
from bedkd.method.triggers import Candidate, carried, reconstruct, take_out
from bedkd.nn.classifier import Classifier

# How improbable a trigger's rows must be, were D* as the trusted rows. A trigger is one of a few
# that turn trusted rows, but was looked for among many phrases.
WIDE = 1e-4
MAX_ROWS = 4000  # of a label, that a trigger is looked for in: their phrases fill the memory


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


@dataclass(frozen=True)
class Evidence:
    """poison_few: the rows found (columns row, text, label), none where nothing speaks for poison.
    `tried`: all candidates; `spreads`: of those that turn trusted rows, in their order; `triggers`:
    those to be erased. `witnesses`: of `trigger` and `lean` those that spoke, the stronger first.
    """

    poison_few: pd.DataFrame
    tried: list[Candidate]
    spreads: list[Spread]
    triggers: list[Candidate]
    witnesses: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[Candidate, Spread]]:
        turning = (candidate for candidate in self.tried if candidate.is_trigger)
        return list(zip(turning, self.spreads, strict=True))


def gather_evidence(
    victim: Classifier,
    train: pd.DataFrame,
    scores: np.ndarray,
    victim_probabilities: np.ndarray,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    lean: Lean | None,
    config: MEPDConfig,
    *,
    seed: int,
    with_triggers: bool = True,
) -> Evidence:
    """What speaks for poison, and the rows that go with it.

    train: D*, columns text, label; scores [N] and victim_probabilities [N, C] are of its rows;
    `poison_few`: what `select_poison_few` took. If these do not lean far enough, the flagged rows
    of every label may show a trigger by themselves, or else all rows of the label; then those that
    carry it are the rows found. `lean`: None, where γ is set and nothing is judged.

    Raises BlindnessError: a table carries more than text and label.
    """
    known = (victim, train, scores, victim_probabilities, clean_few)
    tried, spreads = [], []
    if with_triggers:
        tried, spreads = rebuild_triggers(*known, poison_few, seed=seed)
    if lean is None or lean.is_suspicious:
        is_wide = any(spread.is_suspicious for spread in spreads)
        witnesses = ("trigger",) * is_wide + ("lean",) * (lean is not None)
        triggers = [candidate for candidate in tried if candidate.is_trigger]
        return Evidence(poison_few, tried, spreads, triggers, witnesses)
    nothing = Evidence(poison_few[:0], tried, spreads, [], ())
    if not with_triggers:
        return nothing
    for label in sorted(range(victim_probabilities.shape[1]), key=lambda y: y != lean.label):
        own = (train, scores, victim_probabilities, config)
        flagged = select_poison_few(*own, seed=seed, label=label)
        for rows in (flagged, draw_label(train, label, seed)):
            tried, spreads = rebuild_triggers(*known, rows, seed=seed)
            found = Evidence(rows, tried, spreads, [], ("trigger",))
            triggers = [trigger for trigger, spread in found.pairs if spread.is_suspicious]
            if triggers:
                has_one = [bool(carried(text, triggers)) for text in rows.text]
                few = rows[has_one][: config.n_poison].reset_index(drop=True)
                return replace(found, poison_few=few, triggers=triggers)
    return nothing


def draw_label(train: pd.DataFrame, label: int, seed: int) -> pd.DataFrame:
    """At most MAX_ROWS rows of D* with a label, in a random order, flagged or not: where the DMM
    does not part poison from the rest, a trigger is still more frequent here than among trusted
    rows. Columns row, text, label."""
    rows = np.flatnonzero(train.label == label)
    rows = np.random.default_rng([seed, 74]).permutation(rows)[:MAX_ROWS]
    return train.iloc[rows][["text", "label"]].reset_index(drop=True).assign(row=rows)


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
    it; and how far those that are triggers spread. Clean are D_c^few's rows and those of D* that
    move most, but for the rows found.

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
    clean = [*trusted, *contrast.text[~contrast.row.isin(poison_few.get("row", []))]]
    tried = reconstruct(victim, clean_few, found, clean, label, seed=seed)
    triggers = [candidate for candidate in tried if candidate.is_trigger]
    return tried, [find_spread(trigger, own, trusted) for trigger in triggers]


def leaning_label(poison_few: pd.DataFrame) -> int:
    """The label that most of the rows found have."""
    return int(poison_few.label.mode()[0])
