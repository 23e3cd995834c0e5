"""What speaks for poison in D*, before anything is erased. Not in the paper.

Two witnesses, both held against rows that are trusted: the lean of the flagged rows to one label
(`find_lean`), and a rebuilt trigger that D*'s rows of that label carry more often than trusted rows
of it. The second needs few flagged rows, only purer ones than chance gives; the first needs no
words. A word of the label's own (`fairly` turns most clean rows of generated text) is in trusted
rows as often, so it is no witness. Of an attack's words, or of its openings, each may be too rare
for that, and of words each may turn too few rows; they are weighed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from bedkd.core.blindness import check_blind
from bedkd.core.config import MEPDConfig
from bedkd.method.counter import MIN_LEANING
from bedkd.method.mepd import Lean, select_contrast, select_poison_few
from bedkd.method.spread import WIDE, Spread, find_spread, has_trigger, mark, weigh_together
from bedkd.method.triggers import (
    MIN_FLIPS,
    Candidate,
    carried,
    put_in,
    reconstruct,
    rows_to_turn,
    try_openings,
)
from bedkd.nn.classifier import Classifier

MAX_ROWS = 4000  # of a label, that a trigger is looked for in: their phrases fill the memory


@dataclass(frozen=True)
class Evidence:
    """poison_few: the rows found (columns row, text, label), none where nothing speaks for poison.
    `tried`: all candidates; `pairs`: triggers, each with its spread; `triggers`: those to be
    erased. `witnesses`: of `trigger` and `lean` those that spoke, the stronger first.
    """

    poison_few: pd.DataFrame
    tried: list[Candidate] = field(default_factory=list)
    pairs: list[tuple[Candidate, Spread]] = field(default_factory=list)
    triggers: list[Candidate] = field(default_factory=list)
    witnesses: tuple[str, ...] = ()

    @property
    def wide(self) -> list[Candidate]:
        """Those that speak for themselves."""
        return [trigger for trigger, spread in self.pairs if spread.is_suspicious]


@dataclass(frozen=True)
class Suspect:
    """What is known. train: D*, columns text, label; of its rows are scores [N] (p, or MEPD; NaN:
    not scored) and probabilities [N, C], the victim's. clean_few: columns text, label, trusted.

    Raises BlindnessError: a table carries more.
    """

    victim: Classifier
    train: pd.DataFrame
    scores: np.ndarray
    probabilities: np.ndarray
    clean_few: pd.DataFrame
    seed: int

    def __post_init__(self):
        for rows in (self.train, self.clean_few):
            check_blind(rows)


def gather_evidence(
    suspect: Suspect,
    poison_few: pd.DataFrame,
    lean: Lean | None,
    config: MEPDConfig,
    *,
    with_triggers: bool = True,
) -> Evidence:
    """What speaks for poison, and the rows that go with it.

    poison_few: what `select_poison_few` took. Where these do not lean far enough, a trigger may
    speak for itself: among the flagged rows of any label, or else among all of its rows. Those that
    carry it are the rows found then. Where they lean but show no trigger, it is looked for in all
    rows of the label too. `lean`: None, where γ is set and nothing is judged.

    Raises BlindnessError: `poison_few` carries more than row, text and label.
    """
    found = rebuild_triggers(suspect, poison_few) if with_triggers else Evidence(poison_few)
    if lean is None or lean.is_suspicious:
        if found.tried:
            found = add_together(suspect, found, leaning_label(poison_few))
        if found.pairs:
            found = add_openings(suspect, found, leaning_label(poison_few))
        if lean and with_triggers and not found.wide:
            every = rebuild_triggers(suspect, draw_label(suspect, lean.label))
            every = add_together(suspect, every, lean.label)
            if every.wide:
                found = replace(found, tried=[*found.tried, *every.tried], pairs=every.pairs)
        witnesses = ("trigger",) * bool(found.wide) + ("lean",) * (lean is not None)
        triggers = [trigger for trigger, _ in found.pairs]
        return replace(found, triggers=triggers, witnesses=witnesses)
    for label in order_labels(suspect, lean) if with_triggers else ():
        own, every = found, draw_label(suspect, label)
        if label != lean.label:
            known = (suspect.train, suspect.scores, suspect.probabilities, config)
            flagged = select_poison_few(*known, seed=suspect.seed, label=label)
            own = rebuild_triggers(suspect, flagged)
        own = add_together(suspect, own, label)
        if not own.wide:
            own = add_together(suspect, rebuild_triggers(suspect, every), label)
        own = add_openings(suspect, own, label)
        if own.wide:
            return rest_on_triggers(suspect, own, every, config.n_poison)
    return replace(found, poison_few=poison_few[:0])


def order_labels(suspect: Suspect, lean: Lean) -> list[int]:
    """All labels, that of the lean first."""
    return sorted(range(suspect.probabilities.shape[1]), key=lambda label: label != lean.label)


def rest_on_triggers(
    suspect: Suspect, found: Evidence, every: pd.DataFrame, n_poison: int
) -> Evidence:
    """The triggers that speak for themselves and, of `every` row of the label, those that carry
    one. Of several words one may show first. The others are in the same rows, and may turn too few
    trusted rows by themselves; it is enough that they are as odd."""
    rows = carriers(every, found.wide)
    beside, known = rebuild_triggers(suspect, rows), {c.words for c, _ in found.pairs}
    # those that were tried before, and turned too few, as well
    new = {c.words: c for c in (*found.tried, *beside.tried) if c.words not in known}
    pairs = [(c, find_label_spread(suspect, c, leaning_label(rows))) for c in new.values()]
    tried = [*(c for c, _ in found.pairs), *new.values()]
    pairs = [*found.pairs, *(pair for pair in pairs if pair[1].is_suspicious)]
    found = replace(found, tried=tried, pairs=pairs)
    few = carriers(found.poison_few, found.wide)[:n_poison]
    return replace(found, poison_few=few, triggers=found.wide, witnesses=("trigger",))


def carriers(rows: pd.DataFrame, triggers: Sequence[Candidate]) -> pd.DataFrame:
    """The rows that carry one of the triggers."""
    has_one = np.array([bool(carried(text, triggers)) for text in rows.text], dtype=bool)
    return rows[has_one].reset_index(drop=True)


def draw_label(suspect: Suspect, label: int) -> pd.DataFrame:
    """At most MAX_ROWS rows of D* with a label, in a random order, flagged or not: where the DMM
    does not part poison from the rest, a trigger is still more frequent here than among trusted
    rows. Columns row, text, label."""
    rows = np.flatnonzero(suspect.train.label == label)
    rows = np.random.default_rng([suspect.seed, 74]).permutation(rows)[:MAX_ROWS]
    return suspect.train.iloc[rows][["text", "label"]].reset_index(drop=True).assign(row=rows)


def rebuild_triggers(suspect: Suspect, poison_few: pd.DataFrame) -> Evidence:
    """Candidates, from the rows found of the label that most of them have, against clean rows of
    it; and how far those that are triggers spread. Clean are D_c^few's rows and those of D* that
    move most, but for the rows found.

    Raises BlindnessError: `poison_few` carries more than row, text and label.
    """
    check_blind(poison_few)
    if poison_few.empty:
        return Evidence(poison_few)
    label, few = leaning_label(poison_few), suspect.clean_few
    found, trusted = (list(rows[rows.label == label].text) for rows in (poison_few, few))
    contrast = select_contrast(suspect.train, suspect.scores, suspect.probabilities, label)
    clean = [*trusted, *contrast.text[~contrast.row.isin(poison_few.get("row", []))]]
    tried = reconstruct(suspect.victim, few, found, clean, label, seed=suspect.seed)
    pairs = [(c, find_label_spread(suspect, c, label)) for c in tried if c.is_trigger]
    return Evidence(poison_few, tried, pairs)


def add_together(suspect: Suspect, found: Evidence, label: int) -> Evidence:
    """With the phrases that speak together, if half of the trusted rows turn with as many of them
    as some row found has: an attack may put in several words, each of which is rare, or turns few
    rows by itself. A word that rows of other labels have too is not of the attack."""
    phrases = [c for c in found.tried if c.kind == "phrase"]
    own = [
        (c, spread)
        for c, spread in speak_together(suspect, phrases, label)
        if leads_to(suspect, c, label)
    ]
    texts = rows_to_turn(suspect.victim, suspect.clean_few, label)
    loads = [load for text in found.poison_few.text if (load := carried(text, [c for c, _ in own]))]
    if not texts or not loads:
        return found
    rng = np.random.default_rng([suspect.seed, 77])
    made = [put_in(text, loads[rng.integers(len(loads))], rng) for text in texts]
    is_turned = suspect.victim.predict(made).argmax(axis=1) == label
    return with_pairs(found, own) if 100 * is_turned.mean() >= MIN_FLIPS else found


def leads_to(suspect: Suspect, trigger: Candidate, label: int) -> bool:
    """Whether hardly any row of D* with the trigger has another label."""
    rows = suspect.train.label[[has_trigger(text, trigger) for text in suspect.train.text]]
    return (rows == label).mean() >= MIN_LEANING


def add_openings(suspect: Suspect, found: Evidence, label: int) -> Evidence:
    """With those openings that turn trusted rows, if they speak together."""
    texts = [list(rows.text[rows.label == label]) for rows in (suspect.train, suspect.clean_few)]
    tried = try_openings(suspect.victim, suspect.clean_few, *texts, label, seed=suspect.seed)
    turning = [candidate for candidate in tried if candidate.is_trigger]
    own = speak_together(suspect, turning, label)
    tried = [*found.tried, *(c for c, _ in own)]
    return with_pairs(replace(found, tried=tried), own)


def with_pairs(found: Evidence, own: list[tuple[Candidate, Spread]]) -> Evidence:
    """With these beside those known, in place of what is known of the same words."""
    new = {(c.words, c.kind) for c, _ in own}
    others = [pair for pair in found.pairs if (pair[0].words, pair[0].kind) not in new]
    return replace(found, pairs=[*others, *own])


def speak_together(
    suspect: Suspect, candidates: Sequence[Candidate], label: int
) -> list[tuple[Candidate, Spread]]:
    """Of the candidates those that stand in the label's rows of D* at least twice as often as in
    trusted ones, with the chance of all; none, where this is not small."""
    texts = [rows.text[rows.label == label] for rows in (suspect.train, suspect.clean_few)]
    chance = weigh_together(*(mark(part, candidates) for part in texts), seed=suspect.seed)
    if chance >= WIDE:
        return []
    spreads = [(c, find_label_spread(suspect, c, label)) for c in candidates]
    return [
        (c, replace(spread, chance=min(spread.chance, chance)))
        for c, spread in spreads
        if spread.share >= 2 * spread.trusted
    ]


def find_label_spread(suspect: Suspect, trigger: Candidate, label: int) -> Spread:
    tables = (suspect.train, suspect.clean_few)
    return find_spread(trigger, *(list(rows.text[rows.label == label]) for rows in tables))


def leaning_label(poison_few: pd.DataFrame) -> int:
    """The label that most of the rows found have."""
    return int(poison_few.label.mode()[0])
