"""TextGuard's votes, and what they certify."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bedkd.evaluation.metrics import percent


def vote_shares(votes: np.ndarray) -> np.ndarray:
    """Votes over m, [N, C]. Times m they are the votes; argmax gives ties to the smallest class."""
    return votes / votes.sum(axis=1, keepdims=True)


def certified_radius(votes: np.ndarray) -> np.ndarray:
    """Votes int [N, C] -> int [N]: how many of the m models may change theirs, as an attacker
    likes, without changing the majority.

    Moving k votes from the winner a to b leaves n_a - k against n_b + k; at a tie the smaller
    class wins. So a stands while 2k <= n_a - n_b - [b < a], for every b.
    """
    winner = votes.argmax(axis=1)[:, None]
    classes = np.arange(votes.shape[1])
    lead = np.take_along_axis(votes, winner, axis=1) - votes - (classes < winner)
    return np.where(classes == winner, votes.sum(axis=1, keepdims=True), lead).min(axis=1) // 2


def certified_accuracy(votes: np.ndarray, labels: Sequence[int]) -> dict[int, float | None]:
    """Percent of N texts that are right and stay so, whatever k of the m groups are corrupted.

    For k = 0 (the accuracy) to m // 2, above which nothing is certain. It holds for `certified`
    votes, against words put in, taken out or replaced: k groups' words change k sub-texts. Words
    changing places within a group would need sorted sub-texts, which the authors have as an option.
    """
    is_right = votes.argmax(axis=1) == np.asarray(labels)
    radius = certified_radius(votes)
    n_models = int(votes[:1].sum())
    return {k: percent(is_right & (radius >= k)) for k in range(n_models // 2 + 1)}
