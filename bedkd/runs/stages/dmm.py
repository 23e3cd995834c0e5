"""The DMM, and its probabilities on D*, so that any γ or selection costs no pass."""

import time
from pathlib import Path

import numpy as np

from bedkd.core.files import write_json
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.watchers import Watched, watch_mepd
from bedkd.method.dmm import distill_dmm
from bedkd.nn.classifier import save_classifier
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_truth, read_view
from bedkd.runs.stages.predictions import predict_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    view, truth, c = read_view(run), read_truth(run), run.config
    few = draw_clean_few(view.clean_pool, c.dmm.n_clean_per_class)
    watch = Watched(watch_mepd(view, truth, c.seed, len(few)))
    started = time.perf_counter()
    dmm, history = distill_dmm(view.victim, few, c.dmm, seed=c.seed, watch=watch)
    seconds = time.perf_counter() - started - watch.seconds
    started = time.perf_counter()
    np.save(folder / "train_probabilities.npy", dmm.predict(list(view.train.text)))
    scoring = time.perf_counter() - started
    save_classifier(dmm, folder / "model", {"base": c.victim.model, "role": "dmm"})
    predict_tests(folder, dmm.predict, truth)
    write_json(folder / "history.json", history)
    return {
        "seconds": seconds,
        "seconds_scoring": scoring,
        "seconds_watching": watch.seconds,
        "flipped_accuracy": history[-1]["flipped_accuracy"],
    }
