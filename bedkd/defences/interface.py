"""What goes into a defence and what comes out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bedkd.evaluation.sides import DefenderView
from bedkd.nn.classifier import Classifier


@dataclass(frozen=True)
class EquippedView(DefenderView):
    """A defender's view with what some defences bring along."""

    language: object | None = None  # ONION: a bedkd.nn.language.LanguageModel
    teacher: Classifier | None = None  # W2SDefense
    proxy: pd.DataFrame | None = None  # W2SDefense: text, label
    poison_few: pd.DataFrame | None = None  # D_p^few*, for the ablations with the DMM
    fresh: Callable[[int], Classifier] | None = None  # TextGuard: a new victim, untrained, by seed


@dataclass(frozen=True)
class Defended:
    """What a defence ends in: texts in, class probabilities [N, C] out, in the texts' order."""

    predict: Callable[[Sequence[str]], np.ndarray]
    facts: dict  # what it used and chose, for the record: numbers and short strings
    history: list[dict] = field(default_factory=list)  # one dict an epoch, where it trains
    model: Classifier | None = None  # to be kept, if the victim was changed rather than its input
