"""A model that never saw poison, on the triggered tests: what a defence can hope for at most."""

from dataclasses import replace
from pathlib import Path

from bedkd.runs.folders import Run
from bedkd.runs.reading import data_fields, read_model, read_truth
from bedkd.runs.stages.predictions import predict_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    clean = replace(run, config=run.config.without_attack())
    truth, model = read_truth(run), read_model(clean, "victim")
    evaluation = truth.score(predict_tests(folder, model.predict, truth))
    return data_fields(run) | {"defence": "never_poisoned"} | evaluation
