"""MEPD of the scored rows of D*, the flagged rows, D_p^few*. Then, and only then, the truth."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.evaluation import metrics
from bedkd.evaluation.sides import Truth
from bedkd.method.mepd import (
    AUTO_LEVEL,
    MIN_CLEAN,
    clean_mepd,
    count_calibration,
    find_lean,
    flag_poisoned,
    mepd,
    score_path,
    select_poison_few,
)
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_truth
from bedkd.runs.stages.dmm import read_path
from bedkd.runs.stages.predictions import load_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    """Leaves train.parquet, a row for each of D*: mepd, the mean over DMMs and epochs, and, with
    γ = auto, p (NaN: not scored); then also clean.parquet: label and mepd of D_c^few's rows."""
    c = run.config.mepd
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    victim = np.load(run.folder("victim") / "train_probabilities.npy")
    path = read_path(run)
    started = time.perf_counter()
    scores = score_path(path, train.label.to_numpy(), victim, is_auto=c.gamma == "auto")
    deciding = scores[scores.columns[-1]].to_numpy()
    few = select_poison_few(train, deciding, victim, c, seed=run.config.seed)
    found = {}
    if c.gamma == "auto":
        is_agreed = victim.argmax(axis=1) == train.label.to_numpy()
        lean = find_lean(deciding, train.label.to_numpy(), is_agreed, victim.shape[1])
        names = ("label", "share", "others", "chance", "is_suspicious")
        found = {f"lean_{name}": getattr(lean, name) for name in names}
        warn_of_few(count_calibration(path))
        clean_mepd(path).to_parquet(folder / "clean.parquet")
    seconds = time.perf_counter() - started
    shards = (replace(run, config=shard).record("scan") for shard in run.config.shards())
    times = {"seconds": seconds, "seconds_scoring": sum(shard["seconds"] for shard in shards)}
    scores.to_parquet(folder / "train.parquet")
    few.to_parquet(folder / "poison_few.parquet")
    tests = score_tests(run)
    tests.to_parquet(folder / "test.parquet")
    found |= describe_detection(read_truth(run), deciding, tests, few, c.gamma)
    return times | found


def warn_of_few(n_rows: int) -> None:
    """Say it where nothing can be flagged: `lean_is_suspicious: false` would mean another thing."""
    if n_rows < MIN_CLEAN:
        print(
            f"mepd.gamma: auto has {n_rows} clean rows of a class and fold, and flags nothing with "
            f"fewer than {MIN_CLEAN}: raise dmm.n_clean_per_class"
        )


def score_tests(run: Run) -> pd.DataFrame:
    """MEPD of the test rows, on which the paper's Table 3 counts: columns mepd, is_poisoned."""
    victim, dmm = (load_tests(run.folder(name)) for name in ("victim", "dmm"))
    parts = (("clean", False), ("triggered", True))
    tables = [
        pd.DataFrame({"mepd": mepd(victim[name], dmm[name]), "is_poisoned": is_poisoned})
        for name, is_poisoned in parts
    ]
    return pd.concat(tables, ignore_index=True)


def describe_detection(
    truth: Truth,
    scores: np.ndarray,
    tests: pd.DataFrame,
    few: pd.DataFrame,
    gamma: float | str,
) -> dict:
    """FAR and FRR on the scored rows of D* and on the test sets, and how many of the chosen rows
    are poisoned. With γ = auto the tests have none: their rows have no path."""
    is_poisoned = truth.train.is_poisoned.to_numpy()
    is_auto, is_known = gamma == "auto", ~np.isnan(scores)
    level = AUTO_LEVEL if is_auto else gamma
    known, kinds = scores[is_known], is_poisoned[is_known]
    return {
        "far_train": metrics.far(known, kinds, level),
        "frr_train": metrics.frr(known, kinds, level),
        "far_test": None if is_auto else metrics.far(tests.mepd, tests.is_poisoned, level),
        "frr_test": None if is_auto else metrics.frr(tests.mepd, tests.is_poisoned, level),
        "n_flagged": int(flag_poisoned(known, level).sum()),
        "n_selected": len(few),
        "poison_few_purity": metrics.percent(is_poisoned[few.row]),
    }
