"""Directional Mapping Module (section 3.3, lines 1-8 of Algorithm 1)."""

from functools import partial

import numpy as np
import pandas as pd

from bedkd.core.config import DMMConfig
from bedkd.method.distillation import distill, distillation_phase
from bedkd.method.losses import distillation_loss
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import TrainingSettings, WatchFunction


def flip_labels(labels: np.ndarray, n_classes: int, flip: str, seed: int) -> np.ndarray:
    """y' ≠ y for each row: `random` among the wrong ones, or the `next` class, cyclically."""
    labels = np.asarray(labels)
    if flip == "next":
        return (labels + 1) % n_classes
    shift = np.random.default_rng([seed, 20]).integers(1, n_classes, size=len(labels))
    return (labels + shift) % n_classes


def distill_dmm(
    victim: Classifier,
    clean_few: pd.DataFrame,
    config: DMMConfig,
    *,
    seed: int,
    watch: WatchFunction | None = None,
) -> tuple[Classifier, list[dict]]:
    """Distil a copy of the victim on D_c^few with flipped labels (Eq. 3).

    `clean_few` has columns text, label. Returns the DMM and one dict an epoch (see `train`).

    Raises BlindnessError: `clean_few` carries more than text and label.
    """
    flipped = flip_labels(clean_few.label, len(victim.label_names), config.flip, seed)
    combine = partial(distillation_loss, weight=config.alpha)
    phase = distillation_phase("flipped", victim, clean_few, flipped, config, combine)
    settings = TrainingSettings.of(config, section="dmm", title="DMM")
    return distill(victim, [phase], settings, seed=seed, watch=watch)
