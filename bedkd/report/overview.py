"""The first screen of the report, does it work: one sentence and one picture."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bedkd.report.figures import BLACK, BLUE, GREEN, ORANGE, draw_panels, new_axes
from bedkd.report.layouts import DEFENCE_NAMES, NAMES
from bedkd.report.show import format_fact
from bedkd.report.table_cells import CELL, make_cells

NEVER = "never_poisoned"
LOOKS = {  # from the top of a cell to its bottom
    "none": {"color": ORANGE, "marker": "o"},
    "bedkd_plus": {"color": BLUE, "marker": "s"},
    "bedkd": {"color": GREEN, "marker": "^"},
}
PANELS = {
    "asr": "ASR (%): the attack succeeds",
    "pacc": "PACC (%): accuracy with the trigger",
    "cacc": "CACC (%): accuracy without it",
}
WIDTH, HEAD, ROW = 9.6, 0.4, 0.27  # inches: of the figure, of its titles and axes, of a cell


def compare_cells(records: pd.DataFrame) -> pd.DataFrame:
    """Each attacked cell before and after, and never poisoned; means over the seeds.

    Columns dataset, attack, defence, metric (of PANELS), value (percent), state, as `make_cells`.
    """
    records = records.reindex(columns=records.columns.union(list(PANELS), sort=False))
    is_compared = records.defence.isin([*LOOKS, NEVER]) & (records.attack != "none")
    return make_cells(records[is_compared], [*CELL, "defence"], list(PANELS))


def average_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a metric: the mean of each defence over the cells where all of them have a value,
    `n` of these cells, and `n_all`. A mean over other cells would compare nothing."""
    rows = {}
    for metric, part in cells.groupby("metric", sort=False):
        wide = part.pivot(index=CELL, columns="defence", values="value")
        whole = wide.dropna()
        rows[metric] = whole.mean().to_dict() | {"n": len(whole), "n_all": len(wide)}
    return pd.DataFrame.from_dict(rows, orient="index")


def describe_verdict(cells: pd.DataFrame) -> str:
    """What the numbers say, in one sentence."""
    if cells.empty:
        return "No cell of this profile is attacked: there is no backdoor to take out."
    means = average_cells(cells)
    n_cells = means.n["asr"]
    if not n_cells:
        return f"Nothing to compare yet: {describe_lost(cells)}."
    ours = "bedkd_plus" if "bedkd_plus" in means else "bedkd"
    changes = []
    for metric, mean in means.iterrows():
        before, after, never = (format_fact(metric, mean[name]) for name in ("none", ours, NEVER))
        fewer = "" if mean.n == n_cells else f"; {mean.n:.0f} cells"
        changes.append(
            f"{metric.upper()} from {before} to {after} (never poisoned: {never}{fewer})"
        )
    text = f"{DEFENCE_NAMES[ours]} takes the mean {changes[0]}, {changes[1]} and {changes[2]}"
    if ours != "bedkd":
        printed = (f"{name.upper()} {format_fact(name, means.bedkd[name])}" for name in PANELS)
        text += f"; BeDKD as printed: {', '.join(printed)}"
    return f"{text}."


def describe_scope(cells: pd.DataFrame) -> str:
    """Which cells the means are of, and why not all; empty without any."""
    if cells.empty:
        return ""
    n, n_all = average_cells(cells).loc["asr", ["n", "n_all"]].astype(int)
    counted = f"{n} cell" if n == n_all else f"{n} of {n_all} cell"
    lost = "" if n == n_all else f" ({describe_lost(cells)})"
    attacks = ", ".join(NAMES["attack"].get(name, name) for name in cells.attack.unique())
    datasets = ", ".join(cells.dataset.unique())
    return f"Means over {counted}{'s' * (n_all != 1)}{lost}: {datasets} × {attacks}"


def describe_lost(cells: pd.DataFrame) -> str:
    """`BeDKD+ 3 missing, BeDKD 1 failed`: what keeps cells from being compared."""
    lost = cells[cells.state != "ok"].drop_duplicates([*CELL, "defence"])
    counts = lost.groupby(["defence", "state"], sort=False).size()
    return ", ".join(f"{DEFENCE_NAMES[name]} {n} {state}" for (name, state), n in counts.items())


def plot_cells(cells: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """One metric of `compare_cells`: a row for each cell, the first on top, a mark for each defence
    (see LOOKS), the model that never saw poison as a line across. `failed` or `missing` stands in a
    mark's place."""
    ax = new_axes(ax)
    cells = cells.assign(y=cells.groupby(CELL, sort=False).ngroup())
    drawn = [name for name in LOOKS if (cells.defence == name).any()]
    for name, lane in zip(drawn, np.linspace(-0.27, 0.27, len(drawn)), strict=True):
        rows, label = cells[cells.defence == name], DEFENCE_NAMES[name]
        ax.plot(rows.value, rows.y + lane, label=label, linestyle="", markersize=5, **LOOKS[name])
        said = {"color": LOOKS[name]["color"], "ha": "center", "va": "center", "size": 6}
        for row in rows[rows.value.isna()].itertuples():
            state = "–" if row.state == "ok" else row.state
            ax.text(50, row.y + lane, f"{label}: {state}", **said)
    never = cells[cells.defence == NEVER].dropna(subset="value")
    look = {"color": BLACK, "linewidth": 1.4, "label": DEFENCE_NAMES[NEVER]}
    ax.vlines(never.value, never.y - 0.42, never.y + 0.42, **look)
    rows = cells.drop_duplicates("y")
    ax.set_yticks(rows.y, rows.dataset + "  " + rows.attack.replace(NAMES["attack"]))
    is_new = rows.dataset != rows.dataset.shift()  # a thicker line between data sets
    for y, width in zip(rows.y[1:], np.where(is_new, 0.8, 0.2)[1:], strict=True):
        ax.axhline(y - 0.5, color=BLACK, linewidth=width)
    ax.set(xlim=(-3, 103), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    return ax


def draw_overview(cells: pd.DataFrame) -> plt.Figure:
    """ASR, PACC and CACC side by side, the means of `average_cells` below the cells. cells: of
    `compare_cells`, at least one."""
    panels = [
        (title, partial(plot_cells, add_means(cells[cells.metric == metric])))
        for metric, title in PANELS.items()
    ]
    size = (WIDTH / len(panels), HEAD + ROW * (len(cells.drop_duplicates(CELL)) + 1))
    return draw_panels(panels, len(panels), size=size, sharey=True)


def add_means(cells: pd.DataFrame) -> pd.DataFrame:
    """One metric's cells, and one more for their means; with no mean, its marks are absent."""
    means = average_cells(cells).iloc[0]
    of = "" if means.n == means.n_all else f" of {means.n:.0f}"
    names = cells.defence.unique()
    more = {"dataset": f"mean{of}", "attack": "", "state": "ok", "defence": names}
    return pd.concat([cells, pd.DataFrame(more | {"value": [means.get(n) for n in names]})])
