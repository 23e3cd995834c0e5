"""Any rival or ablation: defend, then measure what comes out on the tests."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from bedkd.core.files import write_json
from bedkd.defences.interface import Defended, EquippedView
from bedkd.evaluation.sides import DefenderView
from bedkd.nn.classifier import save_classifier
from bedkd.runs.folders import Run
from bedkd.runs.reading import data_fields, read_truth, read_view
from bedkd.runs.stages import STAGES, stage_modules
from bedkd.runs.stages.never_poisoned import compare
from bedkd.runs.stages.predictions import predict_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    """A defence that needs no more than the view: fine-tuning, KD, IMBERT, and the two with DMM."""
    defence = importlib.import_module(stage_modules(stage)[1])
    return measure(run, stage, folder, defence.defend, equip(run, stage))


def equip(run: Run, stage: str, **more: Callable[[DefenderView], object]) -> EquippedView:
    """The defender's view with what this defence brings along: functions from the view to it."""
    view = read_view(run)
    found = {name: get(view) for name, get in more.items()}
    if STAGES[stage].upstream == "mepd":
        found["poison_few"] = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    return EquippedView(**vars(view), **found)


def measure(
    run: Run, stage: str, folder: Path, defend: Callable[..., Defended], view: EquippedView
) -> dict:
    """The record of `defend`, under the stage's section of the configuration."""
    truth = read_truth(run)
    if STAGES[stage].upstream == "mepd":
        truth = truth.without(view.poison_few.row)
    started = time.perf_counter()
    config = getattr(run.config, STAGES[stage].sections[0])
    defended = defend(view, config, seed=run.config.seed)
    times = {"seconds": time.perf_counter() - started}
    started = time.perf_counter()
    probabilities = predict_tests(folder, defended.predict, truth)
    times["seconds_inference"] = time.perf_counter() - started
    if defended.model:
        save_classifier(defended.model, folder / "model", {"base": run.config.victim.model})
    write_json(folder / "history.json", defended.history)
    evaluation = compare(run, truth, truth.score(probabilities))
    return data_fields(run) | {"defence": stage} | evaluation | defended.facts | times
