"""A model that never saw poison, on the triggered tests: what a defence can hope for at most."""

from dataclasses import replace
from pathlib import Path

from bedkd.evaluation.sides import Truth
from bedkd.runs.folders import Run
from bedkd.runs.reading import data_fields, read_model, read_truth
from bedkd.runs.stages.predictions import load_tests, predict_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    clean = replace(run, config=run.config.without_attack())
    truth, model = read_truth(run), read_model(clean, "victim")
    evaluation = truth.score(predict_tests(folder, model.predict, truth))
    return data_fields(run) | {"defence": "never_poisoned"} | evaluation


def compare(run: Run, truth: Truth, evaluation: dict) -> dict:
    """What `truth.score` said of a defence, with the same rows' of the model that never saw poison,
    and ΔPACC, the distance of the two PACCs (Robust Gradient Ascent, ICLR 2026)."""
    predicted = load_tests(run.folder("never_poisoned"))
    # without the rows that this defence chose, as `truth` is
    predicted["triggered_target"] = predicted["triggered_target"][truth.test_triggered_target.index]
    never = truth.score(predicted)
    names = ("asr", "pacc", "lfr_target")
    found = {f"{name}_never_poisoned": never[name] for name in names}
    is_known = evaluation["pacc"] is not None
    delta = abs(evaluation["pacc"] - never["pacc"]) if is_known else None
    return evaluation | found | {"delta_pacc": delta}
