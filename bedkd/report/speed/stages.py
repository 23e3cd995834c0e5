"""The kit's stages and their rivals, in turn, with the floor of each."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from bedkd.core.config import AKDConfig, DMMConfig, RunConfig, VictimConfig
from bedkd.core.devices import synchronize
from bedkd.defences.language.word_scores import leave_one_out
from bedkd.method.akd import distill_clean_model
from bedkd.method.dmm import distill_dmm
from bedkd.nn.classifier import Classifier
from bedkd.nn.language import LanguageModel
from bedkd.nn.supervised import train_on_labels
from bedkd.nn.training import TrainingSettings
from bedkd.report.speed.floor import count_flops
from bedkd.report.speed.textbook import (
    textbook_akd,
    textbook_dmm,
    textbook_leave_one_out,
    textbook_scan,
)
from bedkd.report.speed.trainer import trainer_victim
from bedkd.report.speed.turns import Timed, clock, take_turns


@dataclass(frozen=True)
class Stage:
    """`times`: see `take_turns`. `flops`: the floor's, for the same work; NaN: not counted.
    `steps`: of training; 0: none."""

    times: pd.DataFrame
    flops: float
    rival: str
    steps: int = 0

    @property
    def ratio(self) -> float:
        """How many times as fast the kit is: the rival's median over its own."""
        median = self.times.groupby("loop").seconds.median()
        return float(median[self.rival] / median["bedkd"])

    def floor_fraction(self, rate: float) -> float:
        """Seconds at `rate` operations a second over the kit's median."""
        mine = self.times[self.times.loop == "bedkd"].seconds.median()
        return float(self.flops / rate / mine)


def time_distillation(
    victim: Classifier,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    config: RunConfig,
    *,
    rounds: int,
    epochs: int = 2,
) -> Stage:
    """DMM and AKD from end to end. Each is run for `epochs`, and the rest of the configured ones is
    taken to last as long as the last of these."""
    rows = (victim, clean_few, poison_few, config)
    loops = {
        "bedkd": partial(_both, kit_dmm, kit_akd, *rows, epochs),
        "textbook": partial(_both, textbook_dmm, textbook_akd, *rows, epochs),
    }
    clean, poisoned = (victim.encode(few.text) for few in (clean_few, poison_few))
    n_epochs, n_cycles = config.dmm.epochs, config.akd.cycles
    flops = (
        (n_epochs + n_cycles) * count_flops(victim, clean, is_training=True)
        + n_cycles * count_flops(victim, poisoned, is_training=True)
        + 2 * count_flops(victim, clean, is_training=False)
        + count_flops(victim, poisoned, is_training=False)
    )
    n, more = (math.ceil(len(few) / config.akd.batch_size) for few in (clean_few, poison_few))
    steps = n_epochs * math.ceil(len(clean_few) / config.dmm.batch_size) + n_cycles * (n + more)
    return Stage(take_turns(loops, rounds), flops, "textbook", steps)


def _both(dmm, akd, victim, clean_few, poison_few, config: RunConfig, epochs: int, number: int):
    _, first = dmm(victim, clean_few, config.dmm, seed=number, epochs=epochs)
    _, second = akd(victim, clean_few, poison_few, config.akd, seed=number, cycles=epochs)
    return first.of(config.dmm.epochs) + second.of(config.akd.cycles)


def kit_dmm(
    victim: Classifier, clean_few: pd.DataFrame, config: DMMConfig, *, seed: int, epochs: int
) -> tuple[Classifier, Timed]:
    """The kit's DMM after so many epochs."""
    return _timed(distill_dmm, victim, clean_few, replace(config, epochs=epochs), seed, epochs)


def kit_akd(
    victim: Classifier,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    config: AKDConfig,
    *,
    seed: int,
    cycles: int,
) -> tuple[Classifier, Timed]:
    """The kit's CM after so many cycles."""
    run = partial(distill_clean_model, victim, clean_few)
    return _timed(run, poison_few, replace(config, cycles=cycles), seed, cycles)


def _timed(run: Callable, *arguments) -> tuple[Classifier, Timed]:
    *arguments, seed, epochs = arguments
    started = time.perf_counter()
    model, history = run(*arguments, seed=seed)
    synchronize()
    return model, Timed(time.perf_counter() - started, history[-1]["seconds"], epochs)


def time_victim(
    start: Classifier, rows: pd.DataFrame, config: VictimConfig, *, rounds: int, epochs: int = 2
) -> Stage:
    """Training on rows text, label, against `Trainer`; as `time_distillation`."""

    def of(train: Callable, number: int) -> float:
        return train(start, rows, config, seed=number, epochs=epochs)[1].of(config.epochs)

    loops = {"bedkd": partial(of, kit_victim), "trainer": partial(of, trainer_victim)}
    flops = config.epochs * count_flops(start, start.encode(rows.text), is_training=True)
    steps = config.epochs * math.ceil(len(rows) / config.batch_size)
    return Stage(take_turns(loops, rounds), flops, "trainer", steps)


def kit_victim(
    start: Classifier, rows: pd.DataFrame, config: VictimConfig, *, seed: int, epochs: int
) -> tuple[Classifier, Timed]:
    """A copy of `start` after so many epochs of the kit's loop."""
    model = start.copy()
    settings = TrainingSettings.of(replace(config, epochs=epochs), section="victim")
    started = time.perf_counter()
    history = train_on_labels(model, rows, settings, seed=seed)
    synchronize()
    return model, Timed(time.perf_counter() - started, history[-1]["seconds"], epochs)


def time_scan(
    models: Sequence[Classifier], texts: Sequence[str], batch_size: int, *, rounds: int
) -> Stage:
    """What both models, victim and DMM, make of the rows of D*. The kit tokenizes them once."""

    def kit(number: int) -> float:
        return clock(lambda: kit_scan(models, texts))

    def textbook(number: int) -> float:
        return clock(lambda: textbook_scan(models, texts, batch_size))

    encoded = models[0].encode(texts)
    flops = sum(count_flops(model, encoded, is_training=False) for model in models)
    return Stage(take_turns({"bedkd": kit, "textbook": textbook}, rounds), flops, "textbook")


def kit_scan(models: Sequence[Classifier], texts: Sequence[str]) -> list[np.ndarray]:
    """Class probabilities [N, C] by each model."""
    encoded = models[0].encode(texts)
    return [model.predict_encoded(encoded) for model in models]


def time_onion(lm: LanguageModel, texts: Sequence[str], *, rounds: int) -> Stage:
    """ONION's scores of all words of `texts`. `times.difference`: the largest between the two."""
    scores = {}

    def of(score: Callable, name: str, number: int) -> float:
        return clock(lambda: scores.update({name: np.concatenate(score(lm, texts))}))

    both = {"bedkd": leave_one_out, "textbook": textbook_leave_one_out}
    times = take_turns({name: partial(of, score, name) for name, score in both.items()}, rounds)
    difference = float(np.abs(scores["bedkd"] - scores["textbook"]).max())
    return Stage(times.assign(difference=difference), float("nan"), "textbook")
