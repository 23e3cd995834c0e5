"""Class probabilities [N, C] of the test sets, kept beside a stage's model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bedkd.evaluation.sides import Truth

FILE = "test_probabilities.npz"


def predict_tests(folder: Path, predict: Callable, truth: Truth) -> dict[str, np.ndarray]:
    """What `predict` makes of the texts; kept in `folder` too."""
    arrays = {name: predict(list(rows.text)) for name, rows in truth.tests.items()}
    np.savez(folder / FILE, **arrays)
    return arrays


def load_tests(folder: Path) -> dict[str, np.ndarray]:
    """What `predict_tests` kept."""
    with np.load(folder / FILE) as arrays:
        return dict(arrays)
