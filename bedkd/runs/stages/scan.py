"""One shard of D*, scored by each DMM at each epoch that counts."""

import itertools
import time
from pathlib import Path

import numpy as np

from bedkd.core.errors import BedkdError
from bedkd.nn.classifier import load_classifier
from bedkd.nn.scan import scan_file
from bedkd.runs.folders import Run
from bedkd.runs.reading import compute_of
from bedkd.runs.stages.dmm import PATH, SHARD, kept_model


def make(run: Run, stage: str, folder: Path) -> dict:
    """Leaves train.npy: of the shard's part of the scored rows, what path.npz has without shards.

    Raises BedkdError: there are no shards.
    """
    if run.config.scan.shards == 1:
        raise BedkdError(
            "scan.shards is 1, so the DMM's own job scores all of D*; set it to 2 or more"
        )
    c, dmm, started = run.config.scan, run.folder("dmm"), time.perf_counter()
    with np.load(dmm / PATH) as path:
        rows = np.array_split(path["rows"], c.shards)[c.shard]
        n_folds, n_epochs = path["train"].shape[:2]
    table, found = run.folder("data") / "train.parquet", []
    for place in itertools.product(range(n_folds), range(n_epochs)):
        model = load_classifier(kept_model(dmm, *place), compute_of(run))
        found.append(scan_file(model, table, rows))
    np.save(folder / SHARD, np.stack(found).reshape(n_folds, n_epochs, *found[0].shape))
    return {"n_scored": len(rows), "seconds": time.perf_counter() - started}
