"""Training on labelled rows: victim, teacher, TextGuard's models and fine-tuning."""

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bedkd.core.config import VictimConfig
from bedkd.core.devices import Compute
from bedkd.nn.classifier import Classifier, new_classifier
from bedkd.nn.training import Phase, TrainingSettings, WatchFunction, train


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of -log softmax. logits [B, C], labels [B] (int64)."""
    return F.cross_entropy(logits.float(), labels)


def label_phase(
    name: str, classifier: Classifier, rows: pd.DataFrame, weight: float = 1.0
) -> Phase:
    """A pass over rows text, label with `weight` times the cross-entropy."""
    labels = torch.tensor(rows.label.to_numpy())
    target = labels.to(classifier.compute.device)

    def loss(batch: dict, index: Tensor, output) -> Tensor:
        return weight * cross_entropy(output.logits, target[index])

    return Phase(name, classifier.encode(rows.text), labels, loss)


def train_on_labels(
    classifier: Classifier,
    rows: pd.DataFrame,
    settings: TrainingSettings,
    *,
    seed: int,
    name: str = "train",
    watch: WatchFunction | None = None,
) -> list[dict]:
    """Cross-entropy on rows text, label, in place. Returns the history (see `train`).

    Raises DivergenceError if a mean loss is not finite.
    """
    phases = [label_phase(name, classifier, rows)]
    options = {"compute": classifier.compute, "seed": seed, "watch": watch}
    return train(classifier.model, phases, settings, **options)


def train_victim(
    rows: pd.DataFrame,
    label_names: Sequence[str],
    config: VictimConfig,
    *,
    compute: Compute,
    seed: int,
    watch: WatchFunction | None = None,
) -> tuple[Classifier, list[dict]]:
    """f_θ*: cross-entropy on D* (section 3.1). Returns the last epoch's model and the history."""
    victim = new_classifier(config, list(rows.text), tuple(label_names), compute, seed)
    settings = TrainingSettings.of(config, section="victim", title="victim")
    return victim, train_on_labels(victim, rows, settings, seed=seed, watch=watch)
