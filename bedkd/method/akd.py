"""Adversarial Knowledge Distillation (section 3.4, lines 19-31 of Algorithm 1)."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from bedkd.core.blindness import check_blind
from bedkd.core.config import AKDConfig
from bedkd.core.errors import DivergenceError
from bedkd.method.counter import Candidate, carried, draw_counter_poison
from bedkd.method.distillation import cycle_settings, distill, distillation_phase
from bedkd.method.losses import distillation_loss, margin_loss, penalty_loss
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Phase, WatchFunction

MAX_UNEXPLAINED = 0.5  # of the rows found; beyond it they are punished
COLLAPSE_PATIENCE = 3  # cycles in a row; one bad cycle is repaired by the next trust pass


def distill_clean_model(
    victim: Classifier,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    config: AKDConfig,
    *,
    seed: int,
    watch: WatchFunction | None = None,
    triggers: Sequence[Candidate] = (),
) -> tuple[Classifier, list[dict]]:
    """Cycles of trust (Eq. 5, D_c^few) and punish (Eq. 6, D_p^few*) distillation, one optimizer.

    Both tables have columns text, label. With no poisoned row it is plain distillation. Returns CM
    after the last cycle and one dict a cycle, with trust_ and punish_ loss and accuracy.

    `triggers`, beyond the paper: rows of D_c^few that carry them join the trust pass, and rows
    found are punished only where most of them carry none (see `select_punished`).

    Raises DivergenceError: a loss is not finite, or the accuracy on D_c^few collapsed.
    Raises BlindnessError: a table carries more than text and label.
    """
    for rows in (clean_few, poison_few):
        check_blind(rows)
    trust = partial(distillation_loss, weight=config.lambda_)
    labels, changed, trusted = clean_few.label.to_numpy(), None, clean_few
    if triggers and config.n_counter:
        n, found = config.n_counter, poison_few.text
        changed = draw_counter_poison(clean_few, found, triggers, n, seed=seed)
        trusted = pd.concat([clean_few, changed])
    phases = [distillation_phase("trust", victim, clean_few, labels, config, trust, changed)]
    if len(punished := select_punished(poison_few, triggers)):
        phases.append(PENALTIES[config.penalty](victim, punished, config))
    guard = DivergenceGuard(accuracy_floor(victim, trusted), watch)
    return distill(victim, phases, cycle_settings(config, "AKD"), seed=seed, watch=guard)


def select_punished(poison_few: pd.DataFrame, triggers: Sequence[Candidate]) -> pd.DataFrame:
    """The rows found that carry no trigger; none of them if they are fewer than MAX_UNEXPLAINED,
    for what is left over then is mostly clean."""
    is_left = np.array([not carried(text, triggers) for text in poison_few.text], dtype=bool)
    is_most = is_left.sum() > MAX_UNEXPLAINED * len(poison_few)
    return poison_few[is_left] if is_most else poison_few[:0]


def punish_unbounded(victim: Classifier, rows: pd.DataFrame, config: AKDConfig) -> Phase:
    """Eq. 6."""
    combine = partial(penalty_loss, weight=config.lambda_)
    return distillation_phase("punish", victim, rows, rows.label.to_numpy(), config, combine)


def punish_margin(victim: Classifier, rows: pd.DataFrame, config: AKDConfig) -> Phase:
    """`margin_loss`, which needs no teacher."""
    check_blind(rows)
    labels = torch.tensor(rows.label.to_numpy(), dtype=torch.int64)
    target = labels.to(victim.compute.device)
    return Phase(
        "punish",
        victim.encode(rows.text),
        labels,
        lambda batch, index, output: margin_loss(output.logits, target[index.to(target.device)]),
    )


PENALTIES = {"unbounded": punish_unbounded, "margin": punish_margin}


def accuracy_floor(victim: Classifier, trusted: pd.DataFrame) -> float:
    """Half way between guessing and the victim's accuracy on the rows of the trust pass (columns
    text, label), in percent. Of rows with a trigger it has many wrong, and need not do better."""
    predicted = victim.predict(list(trusted.text)).argmax(axis=1)
    accuracy = 100 * float(np.mean(predicted == trusted.label.to_numpy()))
    guessing = 100 / len(victim.label_names)
    return guessing + (accuracy - guessing) / 2


class DivergenceGuard:
    """Stops AKD when the unbounded penalty wins; otherwise only passes the watcher on.

    It sees a student that forgets (a loss that is not finite is `train`'s to refuse), and reads the
    accuracy of the trust pass itself, so that it costs no pass of its own.
    """

    def __init__(self, floor: float, watch: WatchFunction | None):
        self.floor, self.watch, self.n_below = floor, watch, 0

    def __call__(self, row: dict, model) -> dict:
        if row["epoch"]:
            self._check(row)
        return self.watch(row, model) if self.watch else {}

    def _check(self, row: dict) -> None:
        self.n_below = self.n_below + 1 if row["trust_accuracy"] < self.floor else 0
        if self.n_below == COLLAPSE_PATIENCE:
            raise DivergenceError(
                f"AKD diverged in cycle {row['epoch']}: accuracy of the trust pass is "
                f"{row['trust_accuracy']:.1f}%, under {self.floor:.1f}% for {self.n_below} cycles, "
                f"while the punish loss is {row.get('punish_loss', 0.0):.4g}; lower "
                "akd.learning_rate or mepd.n_poison"
            )
