"""The paper's printed numbers (`params/paper_tables.yaml`), and ours held against them."""

import itertools
from functools import cache

import numpy as np
import pandas as pd
import yaml

from bedkd.data.readers import DATASETS
from bedkd.report.table_cells import AVERAGE
from bedkd.runs.profiles import PROJECT

TOLERANCE = 2.0  # percentage points: two runs of one setting with other seeds differ by as much

PAPER_NAMES = {"sst2-glue": "sst2"}  # of the paper's own data, where ours is another


@cache
def _read() -> dict:
    return yaml.safe_load((PROJECT / "params/paper_tables.yaml").read_text(encoding="utf-8"))


def load_published(table: str) -> pd.DataFrame:
    """One row a printed number: the table's own fields, metric, published (percent).

    Raises ValueError: a row of the file has more or fewer numbers than the table has columns.
    """
    spec = _read()[table]
    n, fields = len(spec["index"]), [*spec["index"], *spec["columns"], "published"]
    heads = list(itertools.product(*spec["columns"].values()))
    rows = [
        (*row[:n], *head, value)
        for row in spec["rows"]
        for head, value in zip(heads, row[n:], strict=True)
    ]
    return pd.DataFrame(rows, columns=fields).dropna().reset_index(drop=True)


def load_setting() -> dict:
    """The paper's: model, and `rows` of each data set, for training and for testing."""
    return _read()["setting"]


def compare(cells: pd.DataFrame, table: str) -> pd.DataFrame:
    """`cells` with published, difference (ours - published) and agreement: `yes` within TOLERANCE,
    `unclear` farther but within our 95% interval, else `no`; None: nothing to compare.

    Data that are not the paper's are held against nothing, nor is an average over other attacks.
    """
    published = load_published(table)
    fields = [name for name in published if name != "published"]
    keys = cells[fields].replace({"dataset": PAPER_NAMES})
    merged = keys.merge(published, on=fields, how="left", validate="many_to_one")
    own = cells.assign(published=merged.published.to_numpy())
    if table == "table1":
        whole = set(published.attack)
        is_whole = own.groupby("dataset").attack.transform(lambda names: whole <= set(names))
        own.loc[(own.attack == AVERAGE) & ~is_whole.astype(bool), "published"] = np.nan
    own["difference"] = own.value - own.published
    own["agreement"] = list(map(judge, own.difference, own.half_width))
    return own


def judge(difference: float, half_width: float) -> str | None:
    """How ours agrees with the paper's: see `compare`."""
    if np.isnan(difference):
        return None
    if abs(difference) <= TOLERANCE:
        return "yes"
    return "unclear" if abs(difference) <= half_width else "no"


def describe_difference(records: pd.DataFrame, table: str) -> str:
    """What in the setting is not the paper's, where the data are: model and rows. Empty if nothing
    is."""
    names = records.dataset.replace(PAPER_NAMES)
    is_known = names.isin(load_published(table).dataset)
    setting, done = load_setting(), records[is_known & (records.state == "ok")]
    parts = []
    if set(done.model.dropna()) - {setting["model"], *load_published("table5").model}:
        parts.append(f"victim {setting['model']}")
    for row in done.dropna(subset="n_train").drop_duplicates("dataset").itertuples():
        name = PAPER_NAMES.get(row.dataset, row.dataset)
        theirs = setting["rows"][name]
        if theirs != [row.n_train, row.n_test]:
            place = "" if name == row.dataset else f" (here {row.dataset})"
            parts.append(f"{name} {theirs[0]:,} / {theirs[1]:,} rows{place}")
    return f"The paper's setting is another: {'; '.join(parts)}." if parts else ""


def describe_generated(records: pd.DataFrame) -> str:
    """One sentence for a caption where there are texts that our grammar made; else empty."""
    made = [n for n in records.dataset.unique() if n in DATASETS and not DATASETS[n].hub_id]
    if not made:
        return ""
    return f"{', '.join(made)}: generated texts; no number of the paper is comparable."
