"""W2SDefense's teacher. It knows the proxy alone, so all attacks share it."""

from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.defence_config import CLEAN_SHARE
from bedkd.core.files import write_json
from bedkd.data.readers import get_spec
from bedkd.data.splits import subsample
from bedkd.defences.proxies import load_proxy
from bedkd.defences.teacher import hidden_size, save_teacher, train_teacher
from bedkd.runs.folders import Run
from bedkd.runs.reading import SHARED_SEED, compute_of


def make(run: Run, stage: str, folder: Path) -> dict:
    c = run.config
    spec = get_spec(c.data)
    names = tuple(spec.label_names if spec else run.record("data")["label_names"])
    proxy = read_proxy(run, names)
    width = hidden_size(c.victim.model)
    options = {"compute": compute_of(run), "seed": SHARED_SEED}
    teacher, history = train_teacher(proxy, names, width, c.teacher, **options)
    save_teacher(teacher, folder / "model")
    write_json(folder / "history.json", history)
    return {"teacher": c.teacher.model, "proxy": c.teacher.proxy, "n_proxy": len(proxy)}


def read_proxy(run: Run, label_names: tuple[str, ...]) -> pd.DataFrame:
    """The rows that the teacher learnt: text, label."""
    c = run.config
    if c.teacher.proxy == CLEAN_SHARE:
        rows = pd.read_parquet(run.folder("data") / "clean_share.parquet")
        return subsample(rows, c.teacher.n_proxy, np.random.default_rng([c.seed, 60]))
    return load_proxy(c.teacher, label_names, SHARED_SEED)
