"""How right a defence is in the rows of D* that it takes for poisoned."""

import numpy as np

from bedkd.evaluation.metrics import far, frr
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_truth


def rate(run: Run, is_flagged: np.ndarray) -> dict:
    """bool [N] -> far_train, frr_train (percent) and n_flagged, as of MEPD."""
    is_poisoned, is_passed = read_truth(run).train.is_poisoned.to_numpy(), ~is_flagged
    rates = {
        "far_train": far(is_passed, is_poisoned, 1),
        "frr_train": frr(is_passed, is_poisoned, 1),
    }
    return rates | {"n_flagged": int(is_flagged.sum())}
