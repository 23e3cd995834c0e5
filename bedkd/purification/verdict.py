"""The verdict: is there a backdoor, what says so, and what would not have been seen."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import binom, false_discovery_control

from bedkd.method.mepd import AUTO_LEVEL, CERTAIN, LEARNT, MIN_CLEAN, flag_poisoned
from bedkd.method.spread import WIDE, Spread
from bedkd.method.triggers import Candidate, carried
from bedkd.purification.detection import Detection

FOUND, NOTHING = "backdoor found", "no evidence"
TOO_FEW, UNTESTED = "too few clean rows to tell", "not tested"
FALSE_DISCOVERIES = 0.1  # of the rows that this rate's procedure takes for poisoned


@dataclass(frozen=True)
class Verdict:
    """`answer` in a few words; `reasons`: what led to it, and `limits`: what would have gone
    unseen, in sentences. `label`: the id that the flagged rows lean to. `witnesses`: which spoke,
    the stronger first.

    `n_discovered`: rows at a false-discovery rate of 10%, of `n_scored`; the p-values are means
    over a path, so this is no witness.
    """

    answer: Literal["backdoor found", "no evidence", "too few clean rows to tell", "not tested"]
    label: int | None
    witnesses: tuple[str, ...]
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    triggers: tuple[tuple[Candidate, Spread], ...]
    n_scored: int
    n_flagged: int
    n_discovered: int

    @property
    def is_found(self) -> bool:
        return self.answer == FOUND


def judge(found: Detection, train: pd.DataFrame, label_names: tuple[str, ...]) -> Verdict:
    """train: D*, columns text, label."""
    p = found.deciding
    known = p[~np.isnan(p)]
    level = AUTO_LEVEL if found.lean else found.config.mepd.gamma
    counts = {"n_scored": len(known), "n_flagged": int(flag_poisoned(known, level).sum())}
    if found.lean is None:
        why = "BeDKD as printed has no test: it erases what lies under γ, poisoned or not"
        return Verdict(UNTESTED, None, (), (why,), (), (), n_discovered=0, **counts)
    is_discovered = false_discovery_control(known) < FALSE_DISCOVERIES
    pairs, witnesses = tuple(found.evidence.pairs), found.evidence.witnesses
    spoken = [pair for pair in pairs if pair[1].is_suspicious]
    own = {"label": found.label, "triggers": pairs, "witnesses": witnesses}
    own |= counts | {"n_discovered": int(is_discovered.sum())}
    if not witnesses and found.n_calibration < MIN_CLEAN:
        return Verdict(TOO_FEW, reasons=(explain_few(found),), limits=(), **own)
    shown = [explain_trigger(*pair, found, label_names[found.label]) for pair in spoken]
    reasons = (*shown, explain_lean(found, label_names[found.lean.label]))
    limits = explain_limits(found, train)
    return Verdict(FOUND if witnesses else NOTHING, reasons=reasons, limits=limits, **own)


def explain_few(found: Detection) -> str:
    n = found.n_calibration * found.config.dmm.n_folds
    return (
        f"of some label there are {n} trusted rows; no row can stand out beside fewer than "
        f"{MIN_CLEAN * found.config.dmm.n_folds} of each"
    )


def explain_trigger(trigger: Candidate, spread: Spread, found: Detection, name: str) -> str:
    n = int((found.few.label == found.label).sum())
    kind = "opening clauses with" if trigger.kind == "opening" else "the words"
    return (
        f"{kind} “{trigger.words}” give {trigger.flips:.0f}% of trusted rows of other labels the "
        f"label “{name}”, and stand in {spread.share:.1f}% of its training rows but in "
        f"{spread.trusted:.1f}% of its {n} trusted rows (chance: {spread.chance:.0e})"
    )


def explain_lean(found: Detection, name: str) -> str:
    lean = found.lean
    amount = "more than" if lean.is_suspicious else "no more than"
    return (
        f"of the training rows with label “{name}” {lean.share:.1f}% stand out, of all others "
        f"{lean.others:.1f}%: {amount} clean rows give (chance: {max(lean.chance, 1e-99):.2g}; "
        f"the limits are {LEARNT:g}% and {CERTAIN:g})"
    )


def explain_limits(found: Detection, train: pd.DataFrame) -> tuple[str, ...]:
    """What rate of poison each witness needs, at best."""
    lean, n_trusted = found.lean, int((found.few.label == found.lean.label).sum())
    is_known = ~np.isnan(found.deciding)
    n_label = int((is_known & (train.label == lean.label)).sum())
    # the fewest flagged rows that are too many, over those that would be flagged anyway
    too_many = max(binom.isf(CERTAIN, n_label, AUTO_LEVEL) + 1, n_label * LEARNT / 100)
    needed = too_many - n_label * lean.others / 100
    rate = 100 * max(0.0, needed) / max(1, is_known.sum())
    share = 100 * (1 - WIDE ** (1 / n_trusted)) if n_trusted else 100.0
    return (
        f"the lean would have missed a share of poisoned rows under {rate:.1f}% even if all of "
        "them stood out",
        f"a trigger would have been missed in under {share:.1f}% of its label's training rows",
        "a trigger that needs more than words, such as a style, is seen by the lean alone; a "
        "backdoor that was not learnt from these training rows is not seen at all",
    )


def list_flagged(found: Detection, train: pd.DataFrame, verdict: Verdict) -> pd.DataFrame:
    """Rows of D* taken for poisoned: row (place, from 0), text, label, score (p, or MEPD for BeDKD
    as printed; NaN: the row was not scored), trigger (the words that it carries, or "").

    A row is, if it stands out; once a backdoor is found, if it has the label that it leads to, and
    stands out or carries a trigger that speaks for itself.
    """
    scores = found.deciding
    level = AUTO_LEVEL if found.lean else found.config.mepd.gamma
    is_flagged = flag_poisoned(scores, level)
    words = np.full(len(train), "", dtype=object)
    if verdict.is_found:
        triggers = [trigger for trigger, spread in verdict.triggers if spread.is_suspicious]
        own = np.flatnonzero(train.label == verdict.label)
        for row in own:
            carries = {trigger.words for trigger in carried(train.text.iloc[row], triggers)}
            words[row] = ", ".join(sorted(carries))
        is_flagged = (is_flagged & (train.label == verdict.label).to_numpy()) | (words != "")
    rows = np.flatnonzero(is_flagged)
    table = train.iloc[rows][["text", "label"]].reset_index(drop=True)
    table.insert(0, "row", rows)
    return table.assign(score=scores[rows], trigger=words[rows])
