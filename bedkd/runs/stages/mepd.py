"""MEPD of the scored rows of D*, the flagged rows, D_p^few*. Then, and only then, the truth."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.evaluation import metrics
from bedkd.evaluation.sides import Truth
from bedkd.method.mepd import (
    AUTO_LEVEL,
    MIN_CLEAN,
    find_lean,
    flag_poisoned,
    mepd,
    p_values,
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
    scores = score_rows(path, train.label.to_numpy(), victim, is_auto=c.gamma == "auto")
    deciding = scores[scores.columns[-1]].to_numpy()
    few = select_poison_few(train, deciding, victim, c, seed=run.config.seed)
    found = {}
    if c.gamma == "auto":
        is_agreed = victim.argmax(axis=1) == train.label.to_numpy()
        lean = find_lean(deciding, train.label.to_numpy(), is_agreed, victim.shape[1])
        found = {f"lean_{name}": value for name, value in vars(lean).items()}
        clean_mepd(path).to_parquet(folder / "clean.parquet")
    seconds = time.perf_counter() - started
    scores.to_parquet(folder / "train.parquet")
    few.to_parquet(folder / "poison_few.parquet")
    tests = score_tests(run)
    tests.to_parquet(folder / "test.parquet")
    found |= describe_detection(read_truth(run), deciding, tests, few, c.gamma)
    return {"seconds": seconds} | found


def score_rows(path: dict, labels: np.ndarray, victim: np.ndarray, *, is_auto: bool):
    """Columns mepd and, if `is_auto`, p, of all rows of D*."""
    rows = path["rows"]
    scores = mepd(victim[rows], path["train"])  # [F, R, n]
    columns = {"mepd": scores.mean(axis=(0, 1))}
    if is_auto:
        warn_of_few(path)
        moved = mepd(path["victim"], path["clean"])
        columns["p"] = p_values(scores, labels[rows], moved, path["label"], path["fold"])
    return pd.DataFrame(columns, index=rows).reindex(range(len(labels)))


def warn_of_few(path: dict) -> None:
    """Say it where nothing can be flagged: `lean_is_suspicious: false` would mean another thing."""
    fewest = pd.Series(1, [path["fold"], path["label"]]).groupby(level=[0, 1]).sum().min()
    if fewest < MIN_CLEAN:
        print(
            f"mepd.gamma: auto has {fewest} clean rows of a class and fold, and flags nothing with "
            f"fewer than {MIN_CLEAN}: raise dmm.n_clean_per_class"
        )


def clean_mepd(path: dict) -> pd.DataFrame:
    """Label and mean MEPD of D_c^few's rows, each under the DMM that did not see it."""
    moved = mepd(path["victim"], path["clean"]).mean(axis=0)
    return pd.DataFrame({"label": path["label"], "mepd": moved})


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
