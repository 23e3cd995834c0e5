"""Directional Mapping Module (section 3.3, lines 1-8 of Algorithm 1)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from bedkd.core.config import DMMConfig
from bedkd.method.distillation import distill, distillation_phase
from bedkd.method.losses import distillation_loss
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier
from bedkd.nn.parallel import copy_weights
from bedkd.nn.training import TrainingSettings, WatchFunction

# the DMM's fold, which of the epochs that are kept, and the DMM
KeepFunction = Callable[[int, int, Classifier], None]


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


def split_folds(labels: Sequence[int], n_folds: int) -> np.ndarray:
    """The fold [N] of each row of D_c^few, class by class. A fold's DMM is distilled on the rows of
    the others, so its own show how far a DMM moves clean rows that it never saw."""
    return pd.Series(np.asarray(labels)).groupby(np.asarray(labels)).cumcount().to_numpy() % n_folds


def reading_epochs(epochs: int, n_readings: int) -> set[int]:
    """So many epochs, evenly spread, the last among them; all, if there are fewer."""
    n = min(epochs, n_readings)
    return {round(epochs * (i + 1) / n) for i in range(n)}


def distill_folds(
    victim: Classifier,
    clean_few: pd.DataFrame,
    rows: Encoded,
    config: DMMConfig,
    *,
    seed: int,
    watch: WatchFunction | None = None,
    keep: KeepFunction | None = None,
) -> tuple[Classifier, list[dict], dict[str, np.ndarray], float]:
    """A DMM for each of `config.n_folds`, and what they make of `rows` on the way.

    Returns the first DMM and its history (`watch` is the first's too); `train` [F, R, N, C], class
    probabilities of the rows under F DMMs at R epochs, and, with several folds, `fold` [M] and
    `clean` [R, M, C], those of D_c^few under the DMM of each row's fold; and the seconds for all
    these probabilities. `keep`, if given, is told of each DMM at each of the epochs.

    Raises BlindnessError: `clean_few` carries more than text and label.
    """
    n, fold = config.n_folds, split_folds(clean_few.label, config.n_folds)
    epochs = reading_epochs(config.epochs, config.n_readings)
    models, readers = [], []
    for number in range(n):
        is_held = fold == number if n > 1 else np.zeros(len(clean_few), dtype=bool)
        read = [rows, victim.encode(clean_few.text[is_held])]
        own_keep = keep and partial(keep, number)
        reader = PathReader(victim, read, epochs, None if number else watch, own_keep)
        own = clean_few[~is_held]
        models.append(distill_dmm(victim, own, config, seed=seed + number, watch=reader))
        readers.append(reader)
    path = {"train": np.stack([reader.kept[0] for reader in readers])}
    if n > 1:
        path["fold"] = fold
        path["clean"] = np.zeros((*path["train"].shape[1:2], len(fold), path["train"].shape[-1]))
        for number, reader in enumerate(readers):
            path["clean"][:, fold == number] = reader.kept[1]
    return *models[0], path, sum(reader.seconds for reader in readers)


def draw_scored(n_rows: int, n_scored: int | None, seed: int) -> np.ndarray:
    """Rows of D*, in its order: all, or a random part."""
    if n_scored is None or n_scored >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng([seed, 21]).permutation(n_rows)[:n_scored])


class PathReader:
    """Watches a DMM while it is distilled, and keeps what it makes of some rows on the way.

    By its end a DMM may have moved too far, or to one class; which epochs are good differs from
    victim to victim, so several are kept: `kept[i]` has class probabilities [N, C] of `rows[i]` for
    each of `epochs`. `seconds`: what that took. `keep` is called with the number of the epoch among
    them and the DMM.
    """

    def __init__(
        self,
        victim: Classifier,
        rows: Sequence[Encoded],
        epochs: set[int],
        watch: WatchFunction | None,
        keep: Callable[[int, Classifier], None] | None = None,
    ):
        self.victim, self.rows, self.epochs, self.watch = victim, rows, epochs, watch
        self.keep = keep
        self.kept: list[list[np.ndarray]] = [[] for _ in rows]
        self.seconds = 0.0

    def __call__(self, row: dict, model) -> dict:
        if row["epoch"] in self.epochs:
            started = time.perf_counter()
            student = replace(self.victim, model=model)
            for kept, rows in zip(self.kept, self.rows, strict=True):
                kept.append(student.predict_encoded(rows))
            if self.keep:
                whole = self.victim.copy()
                copy_weights(model, whole.model)
                self.keep(len(self.kept[0]) - 1, whole)
            self.seconds += time.perf_counter() - started
        return self.watch(row, model) if self.watch else {}
