"""Adversarial Knowledge Distillation (section 3.4, lines 19-31 of Algorithm 1)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from bedkd.core.blindness import check_blind
from bedkd.core.config import AKDConfig
from bedkd.core.errors import DivergenceError
from bedkd.method.counter import Carriers, draw_counter_poison, tell_carriers
from bedkd.method.distillation import cycle_settings, distill, distillation_phase
from bedkd.method.losses import distillation_loss, margin_loss, penalty_loss
from bedkd.method.triggers import Candidate, carried
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Phase, WatchFunction

MAX_UNEXPLAINED = 0.5  # of the rows found; beyond it they are punished
LATER = 4  # of so many cycles the last has rows of D* too, told by the student so far
MAX_ROUNDS = 4  # of such cycles
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
    carriers: Carriers | None = None,
) -> tuple[Classifier, list[dict]]:
    """Cycles of trust (Eq. 5, D_c^few) and punish (Eq. 6, D_p^few*) distillation, one optimizer.

    Both tables have columns text, label. With no poisoned row it is plain distillation. Returns CM
    after the last cycle and one dict a cycle, with trust_ and punish_ loss and accuracy.

    `triggers`, beyond the paper: rows of D_c^few that are given them join the trust pass, and rows
    found are punished only where most of them carry none (see `select_punished`). In the last of
    the cycles, with an optimizer of their own, rows of D* that have them, `carriers`, join it too,
    with what the student so far says of them without (`tell_carriers`); and as many cycles again,
    up to MAX_ROUNDS times in all, while this leans to the trigger's label.

    Raises DivergenceError: a loss is not finite, or the accuracy on D_c^few collapsed.
    Raises BlindnessError: a table carries more than text and label.
    """
    for rows in (clean_few, poison_few):
        check_blind(rows)
    changed, n_later = None, 0
    if triggers and config.n_counter:
        rows = (clean_few, poison_few.text, triggers, config.n_counter)
        changed = draw_counter_poison(victim, *rows, seed=seed)
        n_later = config.cycles // LATER if carriers is not None else 0
    punished = select_punished(poison_few, triggers)

    def run(start: Classifier, own: pd.DataFrame | None, n_before: int, n_cycles: int):
        more = changed if own is None else pd.concat([changed, own], ignore_index=True)
        phases = plan_phases(victim, clean_few, punished, more, config)
        guard = DivergenceGuard(accuracy_floor(start, clean_few, more), watch, n_before)
        settings = replace(cycle_settings(config, "AKD"), epochs=n_cycles)
        return distill(start, phases, settings, seed=seed, watch=guard)

    student, history = run(victim, None, 0, config.cycles - n_later)
    for number in range(MAX_ROUNDS if n_later else 0):
        own, is_even = tell_carriers(student, carriers, triggers)
        if number and is_even:
            break
        student, later = run(student, own, history[-1]["epoch"], n_later)
        history += later[1:]  # its first row is the last one before
    return student, history


def plan_phases(
    victim: Classifier,
    clean_few: pd.DataFrame,
    punished: pd.DataFrame,
    changed: pd.DataFrame | None,
    config: AKDConfig,
) -> list[Phase]:
    """The passes of a cycle."""
    trust = partial(distillation_loss, weight=config.lambda_)
    labels = clean_few.label.to_numpy()
    phases = [distillation_phase("trust", victim, clean_few, labels, config, trust, changed)]
    if len(punished):
        phases.append(PENALTIES[config.penalty](victim, punished, config))
    return phases


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


def accuracy_floor(
    start: Classifier, clean_few: pd.DataFrame, changed: pd.DataFrame | None = None
) -> float:
    """Half way between guessing and the accuracy of the model that training starts from on the rows
    of the trust pass (columns text, label), in percent. Of rows with a trigger a victim has many
    wrong, and need not do better."""
    trusted = pd.concat([clean_few, changed])
    predicted = start.predict(list(trusted.text)).argmax(axis=1)
    accuracy = 100 * float(np.mean(predicted == trusted.label.to_numpy()))
    guessing = 100 / len(start.label_names)
    return guessing + (accuracy - guessing) / 2


class DivergenceGuard:
    """Stops AKD when the unbounded penalty wins; otherwise only passes the watcher on.

    It sees a student that forgets (a loss that is not finite is `train`'s to refuse), and reads the
    accuracy of the trust pass itself, so that it costs no pass of its own. `n_before`: cycles of an
    earlier training, from which this one's are counted.
    """

    def __init__(self, floor: float, watch: WatchFunction | None, n_before: int = 0):
        self.floor, self.watch, self.n_below, self.n_before = floor, watch, 0, n_before

    def __call__(self, row: dict, model) -> dict:
        if self.n_before and not row["epoch"]:  # seen as the cycle before
            return {}
        row = row | {"epoch": row["epoch"] + self.n_before}
        if row["epoch"]:
            self._check(row)
        return {"epoch": row["epoch"]} | (self.watch(row, model) if self.watch else {})

    def _check(self, row: dict) -> None:
        self.n_below = self.n_below + 1 if row["trust_accuracy"] < self.floor else 0
        if self.n_below == COLLAPSE_PATIENCE:
            raise DivergenceError(
                f"AKD diverged in cycle {row['epoch']}: accuracy of the trust pass is "
                f"{row['trust_accuracy']:.1f}%, under {self.floor:.1f}% for {self.n_below} cycles, "
                f"while the punish loss is {row.get('punish_loss', 0.0):.4g}; lower "
                "akd.learning_rate or mepd.n_poison"
            )
