"""Two sides of a run: what the defender may see, and the truth, which only `metrics` reads."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bedkd.evaluation import metrics
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier


@dataclass(frozen=True)
class DefenderView:
    """All that a defender may see. `train` and the clean rows: columns text, label."""

    train: pd.DataFrame
    clean_pool: pd.DataFrame  # of which D_c^few is taken
    clean_share: pd.DataFrame  # for fine-tuning alone: see `draw_clean_share`
    victim: Classifier
    victim_probabilities: np.ndarray  # on D*, [N, C]


@dataclass(frozen=True)
class Truth:
    """What only `metrics` may see: see `attacks.PoisonedData`."""

    train: pd.DataFrame
    test_clean: pd.DataFrame
    test_triggered: pd.DataFrame
    target_label: int
    label_names: tuple[str, ...]

    def encode(self, classifier: Classifier) -> dict[str, Encoded]:
        """The test sets `clean` and `triggered`, tokenized."""
        tables = {"clean": self.test_clean, "triggered": self.test_triggered}
        return {name: classifier.encode(rows.text) for name, rows in tables.items()}

    def score(self, probabilities: dict[str, np.ndarray]) -> dict:
        """CACC and ASR (percent; ASR is None without an attack) from the probabilities [N, C] of
        the test sets `clean` and `triggered`."""
        return {
            "asr": metrics.asr(probabilities["triggered"], self.target_label),
            "cacc": metrics.cacc(probabilities["clean"], self.test_clean.label),
        }
