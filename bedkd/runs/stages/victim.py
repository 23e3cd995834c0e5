"""f_θ* trained on D*, and its probabilities on D*, which every defence asks for."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.files import write_json
from bedkd.nn.classifier import save_classifier
from bedkd.nn.hardening import harden
from bedkd.nn.supervised import train_victim
from bedkd.runs.folders import Run
from bedkd.runs.reading import compute_of, data_fields, read_truth
from bedkd.runs.stages.predictions import predict_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    truth, train = read_truth(run), pd.read_parquet(run.folder("data") / "train.parquet")
    c, compute = run.config, compute_of(run)
    started = time.perf_counter()
    victim, history = train_victim(train, truth.label_names, c.victim, compute=compute, seed=c.seed)
    if c.victim.resist_epochs and c.attack.name != "none":
        harden(victim, train, truth.train.is_poisoned, c.victim, seed=c.seed)
    trained = time.perf_counter()
    np.save(folder / "train_probabilities.npy", victim.predict(list(train.text)))
    times = {"seconds": trained - started, "seconds_scoring": time.perf_counter() - trained}
    save_classifier(victim, folder / "model", {"base": c.victim.model})
    evaluation = truth.score(predict_tests(folder, victim.predict, truth))
    write_json(folder / "history.json", history)
    return data_fields(run) | {"defence": "none"} | evaluation | times
