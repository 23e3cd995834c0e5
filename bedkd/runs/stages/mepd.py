"""MEPD of every row of D*, the flagged rows, and D_p^few*. Then, and only then, the truth."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.evaluation import metrics
from bedkd.evaluation.sides import Truth
from bedkd.method.mepd import flag_poisoned, mepd, select_poison_few
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_truth
from bedkd.runs.stages.predictions import load_tests


def make(run: Run, stage: str, folder: Path) -> dict:
    c = run.config
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    victim = np.load(run.folder("victim") / "train_probabilities.npy")
    started = time.perf_counter()
    scores = mepd(victim, np.load(run.folder("dmm") / "train_probabilities.npy"))
    few = select_poison_few(train, scores, victim, c.mepd, seed=c.seed)
    seconds = time.perf_counter() - started
    pd.DataFrame({"mepd": scores}).to_parquet(folder / "train.parquet")
    few.to_parquet(folder / "poison_few.parquet")
    tests = score_tests(run)
    tests.to_parquet(folder / "test.parquet")
    found = describe_detection(read_truth(run), scores, tests, few, c.mepd.gamma)
    return {"seconds": seconds} | found


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
    truth: Truth, scores: np.ndarray, tests: pd.DataFrame, few: pd.DataFrame, gamma: float
) -> dict:
    """FAR and FRR on D* and on the test sets, and how many of the chosen rows are poisoned."""
    is_poisoned = truth.train.is_poisoned.to_numpy()
    return {
        "far_train": metrics.far(scores, is_poisoned, gamma),
        "frr_train": metrics.frr(scores, is_poisoned, gamma),
        "far_test": metrics.far(tests.mepd, tests.is_poisoned, gamma),
        "frr_test": metrics.frr(tests.mepd, tests.is_poisoned, gamma),
        "n_flagged": int(flag_poisoned(scores, gamma).sum()),
        "n_selected": len(few),
        "poison_few_purity": metrics.percent(is_poisoned[few.row]),
    }
