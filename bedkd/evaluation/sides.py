"""Two sides of a run: what the defender may see, and the truth, which only `metrics` reads."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
    test_triggered_target: pd.DataFrame
    target_label: int
    label_names: tuple[str, ...]
    n_stand_ins: int = 0  # rows of `test_triggered_target` before some were left out; 0: none were

    @property
    def tests(self) -> dict[str, pd.DataFrame]:
        """The test sets: `clean`, `triggered` (of the other classes), `triggered_target`."""
        names = ("clean", "triggered", "triggered_target")
        return {name: getattr(self, f"test_{name}") for name in names}

    def without(self, rows: Iterable[int]) -> "Truth":
        """Without these rows of D* among those that stand in for triggered rows of the target
        class: what a defence has chosen to learn from says nothing of the others. Those that are
        left count for all."""
        own = self.test_triggered_target
        left, n = own[~own.row.isin(list(rows))], self.n_stand_ins or len(own)
        return replace(self, test_triggered_target=left, n_stand_ins=n)

    def encode(self, classifier: Classifier) -> dict[str, Encoded]:
        """The test sets, tokenized."""
        return {name: classifier.encode(rows.text) for name, rows in self.tests.items()}

    def score(self, probabilities: dict[str, np.ndarray]) -> dict:
        """What the records say (percent; None where there is no such row), from the probabilities
        [N, C] of the test sets.

        asr, cacc; and with the trigger in rows of all classes pacc, lfr_target, and lfr_0, lfr_1, …
        of the classes.
        """
        parts = ("triggered", "triggered_target")
        triggered = np.concatenate([probabilities[name] for name in parts])
        labels = pd.concat([self.tests[name].label for name in parts]).to_numpy()
        n_others, n_own = map(len, (self.test_triggered, self.test_triggered_target))
        is_whole = n_others and n_own
        weight = (self.n_stand_ins or n_own) / max(1, n_own)
        weights = np.repeat([1.0, weight], [n_others, n_own])
        lfr = {k: metrics.lfr(triggered, labels, k) for k in range(len(self.label_names))}
        return {
            "asr": metrics.asr(probabilities["triggered"], self.target_label),
            "cacc": metrics.cacc(probabilities["clean"], self.test_clean.label),
            "pacc": metrics.pacc(triggered, labels, weights) if is_whole else None,
            "lfr_target": lfr[self.target_label],
            **{f"lfr_{label}": value for label, value in lfr.items()},
        }
