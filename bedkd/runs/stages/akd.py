"""BeDKD's clean model CM; ASR and CACC are read on the way, and steer nothing."""

import time
from pathlib import Path

import pandas as pd

from bedkd.core.files import write_json
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.watchers import Watched, reading_interval, watch_metrics
from bedkd.method.akd import distill_clean_model
from bedkd.nn.classifier import save_classifier
from bedkd.runs.folders import Run
from bedkd.runs.reading import data_fields, read_truth, read_view

DETECTION_FIELDS = (
    *("far_train", "frr_train", "far_test", "frr_test"),
    *("n_flagged", "n_selected", "poison_few_purity"),
)


def make(run: Run, stage: str, folder: Path) -> dict:
    view, truth, c = read_view(run), read_truth(run), run.config
    start = 0 if c.akd.is_clean_shared else c.dmm.n_clean_per_class
    few = draw_clean_few(view.clean_pool, c.akd.n_clean_per_class, start)
    poison_few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    every = reading_interval(truth, [few, poison_few], c.akd.evaluate_every)
    first = {name: run.record("victim")[name] for name in ("asr", "cacc")}
    watch = Watched(watch_metrics(view.victim, truth, every, c.akd.cycles, first))
    started = time.perf_counter()
    clean, history = distill_clean_model(
        view.victim, few, poison_few, c.akd, seed=c.seed, watch=watch
    )
    seconds = time.perf_counter() - started - watch.seconds
    save_classifier(clean, folder / "model", {"base": c.victim.model, "role": "clean model"})
    write_json(folder / "history.json", history)
    evaluation = {name: history[-1][name] for name in ("asr", "cacc")}
    own = {"defence": "bedkd", "n_clean": len(few), "n_poison": len(poison_few)}
    detection = {name: run.record("mepd")[name] for name in DETECTION_FIELDS}
    times = defence_seconds(run, seconds) | {"seconds_watching": watch.seconds}
    return data_fields(run) | own | evaluation | detection | times


def defence_seconds(run: Run, seconds_akd: float) -> dict:
    """BeDKD's seconds: DMM, both models' passes over D*, the choice of rows, AKD."""
    victim, dmm, mepd = (run.record(name) for name in ("victim", "dmm", "mepd"))
    times = {
        "seconds_dmm": dmm["seconds"],
        "seconds_scoring": victim["seconds_scoring"] + dmm["seconds_scoring"] + mepd["seconds"],
        "seconds_akd": seconds_akd,
    }
    return times | {"seconds": sum(times.values())}
