"""The DMM, or one for each fold, and its probabilities on D*, so that any γ or selection costs no
pass."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bedkd.core.files import write_json
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.watchers import Watched, watch_mepd
from bedkd.method.dmm import distill_folds, draw_scored
from bedkd.nn.classifier import Classifier, save_classifier
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_truth, read_view
from bedkd.runs.stages.predictions import predict_tests

PATH = "path.npz"
SHARD = "train.npy"  # of the stage `scan`


def make(run: Run, stage: str, folder: Path) -> dict:
    """Leaves the first DMM, its history, and path.npz.

    path.npz: rows [n], the scored rows of D*; train, and, with several folds, fold and clean (see
    `distill_folds`), and label [M] and victim [M, C] of D_c^few. With several shards train is
    empty, and the DMMs that are to score them are kept (see `kept_model`).
    """
    view, truth, c, seed = read_view(run), read_truth(run), run.config.dmm, run.config.seed
    is_sharded = run.config.scan.shards > 1
    few = draw_clean_few(view.clean_pool, c.n_clean_per_class)
    kept = {"rows": draw_scored(len(view.train), c.n_scored, seed)}
    rows = view.victim.encode(view.train.text.iloc[[] if is_sharded else kept["rows"]])
    watch = Watched(watch_mepd(view, truth, seed, len(few) // c.n_folds))
    started = time.perf_counter()
    if c.n_folds > 1:
        kept |= {"label": few.label, "victim": view.victim.predict(list(few.text))}

    def keep(fold: int, number: int, student: Classifier) -> None:
        save_classifier(student, kept_model(folder, fold, number), {"role": "dmm"})

    options = {"seed": seed, "watch": watch, "keep": keep if is_sharded else None}
    dmm, history, path, scoring = distill_folds(view.victim, few, rows, c, **options)
    seconds = time.perf_counter() - started - watch.seconds - scoring
    np.savez(folder / PATH, **kept, **path)
    save_classifier(dmm, folder / "model", {"base": run.config.victim.model, "role": "dmm"})
    predict_tests(folder, dmm.predict, truth)
    write_json(folder / "history.json", history)
    return {
        "seconds": seconds,
        "seconds_scoring": scoring,
        "seconds_watching": watch.seconds,
        "n_scored": len(kept["rows"]),
        "flipped_accuracy": history[-1]["flipped_accuracy"],
    }


def kept_model(folder: Path, fold: int, number: int) -> Path:
    """Where a DMM is as it was at an epoch that counts, for D* to be scored in shards."""
    return folder / "path" / f"{fold}-{number}"


def read_path(run: Run) -> dict[str, np.ndarray]:
    """What the stage left in path.npz, with what its shards have found, if there are any."""
    with np.load(run.folder("dmm") / PATH) as arrays:
        path = dict(arrays)
    if shards := run.config.shards():
        folders = [replace(run, config=shard).folder("scan") for shard in shards]
        path["train"] = np.concatenate([np.load(folder / SHARD) for folder in folders], axis=2)
    return path
