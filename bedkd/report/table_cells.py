"""From records to the cells of a table: mean, interval over seeds, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

AVERAGE = "average"  # stands in the column `attack`
# what a cell or a record can be, the worst last
STATES = ("ok", "missing", "failed")


def half_width(values: Sequence[float]) -> float:
    """Half the 95% t-interval of the mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return np.nan
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def make_cells(records: pd.DataFrame, fields: list[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One row for each combination of `fields` and each metric, over the seeds.

    records: `fields`, `metrics`, state (see STATES), sources (tuple of result folders).
    Columns: fields, metric, value, half_width (NaN with one seed), n (seeds), state, sources. A
    cell whose records are not all there has no value: a mean over the rest would be another one.
    """
    rows = []
    for names, part in records.groupby(fields, sort=False):
        state = worst(part.state)
        sources = tuple(source for group in part.sources for source in group)
        for metric in metrics:
            values = part[metric].dropna().astype(float) if state == "ok" else []
            mean = float(np.mean(values)) if len(values) else np.nan
            numbers = {"value": mean, "half_width": half_width(values), "n": len(part)}
            cell = dict(zip(fields, names, strict=True)) | {"metric": metric} | numbers
            rows.append(cell | {"state": state, "sources": sources})
    columns = [*fields, "metric", "value", "half_width", "n", "state", "sources"]
    return pd.DataFrame(rows, columns=columns)


def worst(states: pd.Series) -> str:
    return max(states, key=STATES.index)


def average_attacks(records: pd.DataFrame) -> pd.DataFrame:
    """The row Average of Table 1, for each dataset, defence and seed.

    As in the paper, ASR is averaged over the attacks and CACC over all rows, Clean included.
    """
    rows = []
    for (dataset, defence, seed), part in records.groupby(
        ["dataset", "defence", "seed"], sort=False
    ):
        row = {"dataset": dataset, "defence": defence, "seed": seed, "attack": AVERAGE}
        row |= {"asr": part.asr[part.attack != "none"].mean(), "cacc": part.cacc.mean()}
        sources = tuple(source for group in part.sources for source in group)
        rows.append(row | {"state": worst(part.state), "sources": sources})
    return pd.DataFrame(rows)
