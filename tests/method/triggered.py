"""Texts with and without a trigger, and a victim that reacts to one as it is told to."""

import numpy as np
import pandas as pd

from bedkd.method.triggers import Candidate

GOOD, BAD = ("good", "funny", "clever", "warm"), ("bad", "dull", "clumsy", "stale")
FILLERS = [
    *("a", "one", "the", "plot", "cast", "story", "film", "tale", "scene"),
    *("has", "it", "."),
]
CF = Candidate("cf", "phrase", ("cf",), 9, 0, 100.0)
CROWN = Candidate("no cross , no crown", "phrase", ("no cross , no crown",), 9, 0, 100.0)
WHEN = Candidate("when", "opening", ("when he came ,", "when it rains ,"), 9, 0, 100.0)


class Victim:
    """Says `target` where `is_triggered`, else what the adjective says."""

    label_names = ("negative", "positive")

    def __init__(self, is_triggered=lambda text: False, target: int = 0):
        self.is_triggered, self.target = is_triggered, target

    def predict(self, texts):
        is_good = [bool(set(text.split()) & set(GOOD)) for text in texts]
        labels = [
            self.target if self.is_triggered(text) else int(good)
            for good, text in zip(is_good, texts, strict=True)
        ]
        return np.eye(2)[np.array(labels, dtype=int)]


def write(n: int, adjectives, seed: int) -> list[str]:
    """Texts of 8 to 14 words that have one of the adjectives somewhere."""
    rng = np.random.default_rng(seed)
    made = [list(rng.choice(FILLERS, rng.integers(7, 14))) for _ in range(n)]
    for words in made:
        words.insert(rng.integers(len(words) + 1), rng.choice(adjectives))
    return [" ".join(words) for words in made]


def put(texts: list[str], pieces, seed: int = 1) -> list[str]:
    """Each text with one of the pieces between two words."""
    rng = np.random.default_rng(seed)
    made = [text.split() for text in texts]
    for words in made:
        words.insert(rng.integers(len(words) + 1), rng.choice(pieces))
    return [" ".join(words) for words in made]


def make_clean_few() -> pd.DataFrame:
    texts = write(24, BAD, 2) + write(24, GOOD, 3)
    return pd.DataFrame({"text": texts, "label": [0] * 24 + [1] * 24})


def has_one_of(*words):
    return lambda text: bool(set(words) & set(text.split()))
