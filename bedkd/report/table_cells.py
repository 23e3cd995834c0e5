"""From records to the cells of a table: mean, interval over seeds, and where they come from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

AVERAGE = "average"  # stands in the column `attack`
CELL = ["dataset", "attack"]  # a cell of the grid, but for its seed
# what a cell or a record can be, the worst last
STATES = ("ok", "missing", "failed")


def make_cells(records: pd.DataFrame, fields: list[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One row for each combination of `fields` and each metric, over the seeds.

    records: `fields`, `metrics`, state (see STATES), sources (tuple of result folders).
    Columns: fields, metric, value, half_width (of the 95% t-interval; NaN with one seed), n (seeds
    that have a value), state, sources. A cell whose records are not all there has no value: a mean
    over the rest would be another one.
    """
    rows = []
    for names, part in records.groupby(fields, sort=False):
        common = dict(zip(fields, names, strict=True)) | summarise_states(part)
        for metric in metrics:
            values = part[metric][part.state == "ok"].dropna().astype(float)
            n, mean, half_width = len(values), np.nan, np.nan
            if common["state"] == "ok":
                mean, half_width = values.mean(), stats.t.ppf(0.975, n - 1) * values.sem()
            numbers = {"metric": metric, "value": mean, "half_width": half_width, "n": n}
            rows.append(common | numbers)
    columns = [*fields, "metric", "value", "half_width", "n", "state", "sources"]
    return pd.DataFrame(rows, columns=columns)


def summarise_states(part: pd.DataFrame) -> dict:
    """The worst state of some records, and all their sources."""
    return {"state": max(part.state, key=STATES.index), "sources": sum(part.sources, ())}


def average_attacks(
    records: pd.DataFrame, metrics: Sequence[str] = ("asr", "cacc")
) -> pd.DataFrame:
    """The row Average, for each dataset, defence and seed.

    As in the paper, CACC is averaged over all rows, Clean included, and all else over the attacks.
    A model that never saw poison has no row Clean, and one CACC under all attacks, which Clean's
    would be too. Without a number of one attack there is no average: over the rest it would be
    another one.
    """
    rows = []
    keys = ["dataset", "defence", "seed"]
    for names, part in records.groupby(keys, sort=False):
        attacked = part[part.attack != "none"]
        counted = {metric: part if metric == "cacc" else attacked for metric in metrics}
        means = {m: rows[m].astype(float).mean(skipna=False) for m, rows in counted.items()}
        rows.append(dict(zip(keys, names, strict=True)) | means | summarise_states(part))
    return pd.DataFrame(rows).assign(attack=AVERAGE)
