"""How much more often D*'s rows carry a trigger than trusted ones, and how probable that is.

Not in the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from bedkd.method.triggers import Candidate, likelihood_ratio, take_out

# How improbable a trigger's rows must be, were D* as the trusted rows. A trigger is one of a few
# that turn trusted rows, but was looked for among many phrases.
WIDE = 1e-4
N_DRAWS = 99_999  # of the test of several together
CHUNK = 10_000  # of them held at a time


@dataclass(frozen=True)
class Spread:
    """Rows with the leaning label that carry a trigger, in D* and among trusted ones, in percent.

    `chance`: how probable a draw as uneven is, if both are from the same rows: Fisher's exact test,
    one side; for candidates that were weighed together, see `weigh_together`.
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


def mark(texts: Sequence[str], candidates: Sequence[Candidate]) -> np.ndarray:
    """Which text has which candidate: bool [N, K]."""
    marks = [[has_trigger(text, candidate) for candidate in candidates] for text in texts]
    return np.array(marks, dtype=bool).reshape(len(texts), len(candidates))


def weigh_together(inside: np.ndarray, outside: np.ndarray, *, seed: int) -> float:
    """How probable it is that a draw of m of n + m rows leaves the others as many more of K
    candidates: a permutation test of the sum of G² over the candidates that the n rows, D*'s, have
    more often. inside [n, K], outside [m, K]: which row has which (`mark`)."""
    n, m = len(inside), len(outside)
    if not m or not inside.any():
        return 1.0
    # rows that have the same of them are drawn as one kind
    kinds, kind = np.unique(np.concatenate([inside, outside]), axis=0, return_inverse=True)
    both, n_rows = inside.sum(axis=0) + outside.sum(axis=0), np.bincount(kind.ravel())

    def excess(outside: np.ndarray) -> np.ndarray:
        inside = both - outside
        score = likelihood_ratio(inside, outside, n, m)
        return np.where(inside * m > outside * n, score, 0.0).sum(axis=-1).round(6)

    rng, seen = np.random.default_rng([seed, 76]), excess(outside.sum(axis=0))
    n_more = 0
    for start in range(0, N_DRAWS, CHUNK):
        size = min(CHUNK, N_DRAWS - start)
        drawn = rng.multivariate_hypergeometric(n_rows, m, size=size) @ kinds.astype(int)
        n_more += (excess(drawn) >= seen).sum()
    return float((1 + n_more) / (1 + N_DRAWS))
