"""How often a student gives each label: as often as the victim, on rows without a trigger.

Not in the paper. D_c^few has as many rows of each label, whatever D* has, and a backdoor that is
unlearnt pushes away from one of them, so a student gives the target less often than it should.
Clean rows of D* show by how much, and need no true labels for it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from bedkd.core.blindness import check_blind
from bedkd.method.triggers import Candidate, carried, opening_of
from bedkd.nn.classifier import Classifier

MAX_ROWS = 4000  # that both are asked about
MAX_STEPS = 1000
EXACT = 1e-6  # between two means
LEAST = 1e-12  # of a probability


def match_prior(
    student: Classifier,
    victim: Classifier,
    train: pd.DataFrame,
    triggers: Sequence[Candidate],
    *,
    seed: int,
) -> None:
    """Shift the bias of the student's head, in place, so that its mean probability of each label
    is the victim's, on rows of D* without a trigger. A head that has no bias is left as it is.

    `train`: columns text, label. Raises BlindnessError: it carries more than these.
    """
    texts, head = draw_free(train, triggers, seed=seed), find_head(student)
    if not texts or head is None or head.bias is None:
        return
    shift = find_shift(student.predict(texts), victim.predict(texts).mean(axis=0))
    with torch.no_grad():
        head.bias += torch.tensor(shift, dtype=head.bias.dtype, device=head.bias.device)


def draw_free(train: pd.DataFrame, triggers: Sequence[Candidate], *, seed: int) -> list[str]:
    """Random texts of D* without a trigger (see `find_free`), at most MAX_ROWS."""
    free = np.flatnonzero(find_free(train, triggers))
    rows = np.random.default_rng([seed, 79]).permutation(free)[:MAX_ROWS]
    return list(train.text.iloc[rows])


def find_free(train: pd.DataFrame, triggers: Sequence[Candidate]) -> np.ndarray:
    """Which texts of D* carry none of the triggers [N]. If one is an opening, those neither that
    have any opening clause, for not all of an attack's may be known, or that start with the first
    word of a known one, for in a paraphrase that went wrong no comma follows.

    Raises BlindnessError: `train` carries more than text and label.
    """
    check_blind(train)
    firsts = {trigger.words for trigger in triggers if trigger.kind == "opening"}

    def is_free(text: str) -> bool:
        words = text.split()
        if firsts and (opening_of(words) or firsts.intersection(words[:1])):
            return False
        return not carried(text, triggers)

    return np.array([is_free(text) for text in train.text], dtype=bool)


def find_shift(probabilities: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """What is to be added to the logits [N, C] behind `probabilities` so that their mean is `mean`
    [C]: the fixed point of Saerens, Latinne and Decaestecker (2002), with the prior known. Sums up
    to 0."""
    logits, shift = np.log(probabilities.clip(LEAST)), np.zeros(len(mean))
    for _ in range(MAX_STEPS):
        shifted = np.exp(logits + shift)
        now = (shifted / shifted.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(now - mean).max() < EXACT:
            break
        shift += np.log(mean.clip(LEAST)) - np.log(now.clip(LEAST))
    return shift - shift.mean()


def find_head(classifier: Classifier) -> torch.nn.Linear | None:
    """The last layer: the last linear one with as many outputs as there are labels."""
    layers = [m for m in classifier.model.modules() if isinstance(m, torch.nn.Linear)]
    fitting = [m for m in layers if m.out_features == len(classifier.label_names)]
    return fitting[-1] if fitting else None
