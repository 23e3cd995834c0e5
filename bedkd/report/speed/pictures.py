"""The bars beside the floor, and the growth."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from bedkd.report.figures import BLACK, BLUE, ORANGE, new_axes
from bedkd.report.speed.stages import Stage

NAMES = {"dmm_akd": "DMM + AKD", "scan": "scan of D*", "victim": "victim", "onion": "ONION"}
LOOPS = {"bedkd": BLUE, "textbook": ORANGE, "trainer": "#E69F00"}


def bar_table(stages: Mapping[str, Stage], rate: float) -> pd.DataFrame:
    """Rows stage, loop, seconds (medians), floor (seconds at `rate` operations a second; NaN: not
    counted)."""
    rows = []
    for name, stage in stages.items():
        medians = stage.times.groupby("loop", sort=False).seconds.median()
        floor = stage.flops / rate
        rows += [
            {"stage": name, "loop": loop, "seconds": seconds, "floor": floor}
            for loop, seconds in medians.items()
        ]
    return pd.DataFrame(rows)


def bars(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How many times as long as the kit each loop takes; black: the floor."""
    ax = new_axes(ax)
    places, names, seen = 0.0, [], set()
    for stage, of in table.groupby("stage", sort=False):
        mine = of[of.loop == "bedkd"].seconds.iloc[0]
        for row in of.itertuples():
            value, label = row.seconds / mine, None if row.loop in seen else row.loop
            ax.barh(places, value, color=LOOPS[row.loop], label=label)
            ax.annotate(f" {value:.1f}×", (value, places), va="center")
            seen.add(row.loop)
            places += 1
        floor = of.floor.iloc[0] / mine
        names += [(places - 1.5, NAMES.get(stage, stage))]
        if floor == floor:
            label = None if "floor" in seen else "floor"
            ax.vlines(floor, places - 2.5, places - 0.5, color=BLACK, label=label)
            seen.add("floor")
        places += 0.7
    ax.set_yticks([place for place, _ in names], [name for _, name in names])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel("seconds, over the kit's")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def growth_curves(growth: pd.DataFrame, column: str, *, ax: Axes | None = None) -> Axes:
    """`column` (seconds or peak_mb) over the tokens; solid with more rows, dashed with longer
    ones."""
    ax = new_axes(ax)
    styles = {"scan": {"color": BLUE, "marker": "o"}, "dmm": {"color": ORANGE, "marker": "s"}}
    for (stage, is_rows), of in growth.groupby(["stage", growth.rows.notna()], sort=False):
        what = "rows" if is_rows else "length"
        line = "-" if is_rows else "--"
        ax.plot(of.tokens, of[column], linestyle=line, label=f"{stage}, {what}", **styles[stage])
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("tokens")
    ax.set_ylabel({"seconds": "seconds", "peak_mb": "peak memory, MiB"}[column])
    ax.legend()
    return ax
