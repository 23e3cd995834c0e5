"""The rows that RGA, GA and NPO forget, found once for the three."""

from pathlib import Path

import numpy as np

from bedkd.defences.forget_rows import find_forget_rows
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_view
from bedkd.runs.stages.flagged import rate


def make(run: Run, stage: str, folder: Path) -> dict:
    is_forgotten = find_forget_rows(read_view(run), run.config.forget, seed=run.config.seed)
    np.save(folder / "is_forgotten.npy", is_forgotten)
    return rate(run, is_forgotten)
