"""Pictures of a profile's sweeps: curves with intervals, heat maps of its grids, the ranking of all
as a tornado plot. What is not finished is not drawn."""

import itertools
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bedkd.report.figures import BLACK, ORANGE, PERCENT, draw_panels, new_axes, plain
from bedkd.report.layouts import DEFENCE_NAMES, head_of, name_method
from bedkd.report.overview import LOOKS
from bedkd.report.sensitivity import (
    CELL,
    MEASURES,
    rank_parameters,
    select_studies,
    summarise,
)
from bedkd.runs.sweeps import GRID

# behind a bar's values, so that no line runs through them
PATCH = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.2}
MARGIN = 3  # percentage points beyond the values, on an axis that does not show all of 0 to 100


def list_methods(rows: pd.DataFrame) -> list[str]:
    """BeDKD as printed first."""
    return sorted(rows.defence.unique(), key=lambda name: (name != "bedkd", name))


def look_of(method: str) -> dict:
    return LOOKS.get(method, {"color": BLACK, "marker": "D"})  # parts of BeDKD+


def plot_tornado(
    ranking: pd.DataFrame, *, own: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """One measure of `rank_parameters`: a row for each parameter, the longest bar on top, a bar for
    each method from its smallest to its largest mean, pale where the difference may be chance, with
    the parameter's values there and, after ✗, those at which AKD diverged. own: each method's mean
    at the profile's own values, a line."""
    ax = new_axes(ax)
    ranking = ranking.sort_values("span", ascending=False, kind="stable")
    studies, methods = list(ranking.study.unique()), list_methods(ranking)
    height = 0.8 / max(1, len(methods))
    for number, method in enumerate(methods):
        name, colour = name_method(method), look_of(method)["color"]
        rows = ranking[ranking.defence == method]
        y = rows.study.map(studies.index) + height * (number - (len(methods) - 1) / 2)
        for is_sure, label, alpha in ((True, name, 1), (False, f"{name}, may be chance", 0.35)):
            if len(some := rows[rows.is_sure == is_sure]):
                look = {"color": colour, "label": label, "alpha": alpha, "height": height}
                ax.barh(y[some.index], some.span, left=some.low, **look)
        for place, row in zip(y, rows.itertuples(), strict=True):
            text = {"y": place, "va": "center", "size": 5.5, "bbox": PATCH}
            ax.text(row.low, s=f"{row.at_low} ", ha="right", **text)
            diverged = f"  ✗ {row.diverged}" if row.diverged else ""
            ax.text(row.high, s=f" {row.at_high}{diverged}", ha="left", **text)
        if method in (own or {}):
            line = {"color": colour, "linewidth": 0.9, "linestyle": ":", "zorder": 0.9}
            ax.axvline(own[method], label=f"{name}, own values", **line)
    ax.set_yticks(range(len(studies)), map(head_of, studies))
    ax.set_ylim(len(studies) - 0.5, -0.5)
    ax.use_sticky_edges = False
    ax.margins(x=0.18)  # room for the values
    ax.grid(axis="y", visible=False)
    return ax


def draw_tornados(points: pd.DataFrame) -> dict[str, plt.Figure]:
    """`tornado-CELL`: `plot_tornado` of ASR, PACC and CACC side by side, for each data set and
    attack that has a finished point."""
    figures = {}
    for name, part in list_cells(points, is_grid=False):
        ranking, own = rank_parameters(part), part[part.is_own].groupby("defence")
        panels = []
        for metric, title in MEASURES.items():
            means = own[metric].mean().dropna().to_dict()
            rows = ranking[ranking.metric == metric]
            panels.append((f"{title} (%)", partial(plot_tornado, rows, own=means)))
        size = (3.2, 0.6 + 0.36 * ranking.study.nunique())
        figures[f"tornado-{name}"] = draw_panels(panels, len(panels), size=size)
    return figures


def list_cells(points: pd.DataFrame, *, is_grid: bool) -> list[tuple[str, pd.DataFrame]]:
    """Of each data set and attack that has a finished point: its name in those of files, and its
    points of one parameter at a time, or of grids."""
    groups = select_studies(points, is_grid=is_grid).groupby(CELL, sort=False)
    return [
        (f"{Path(dataset).stem}-{attack}", part)
        for (dataset, attack), part in groups
        if (part.state == "ok").any()
    ]


def plot_curve(
    points: pd.DataFrame, *, metric: str, ylim: tuple = PERCENT["ylim"], ax: Axes | None = None
) -> Axes:
    """One study's `metric` at each setting, at equal distances: each method's means with 95%
    intervals, each seed a pale dot, the larger mark the profile's own value, a cross where AKD of a
    seed diverged; dotted a model that never saw poison. points: of one data set and attack."""
    ax = new_axes(ax)
    settings, methods = list(points.setting.unique()), list_methods(points)
    cells = summarise(points)
    for number, method in enumerate(methods):
        lane = 0.16 * (number - (len(methods) - 1) / 2)
        rows = cells[(cells.defence == method) & (cells.metric == metric)]
        seeds = points[points.defence == method]
        draw_method(rows, seeds, rows.setting.map(settings.index) + lane, ax)
        places = seeds.setting.map(settings.index) + lane
        ax.scatter(places, seeds[metric], s=6, alpha=0.4, color=look_of(method)["color"])
    if (never := points.get(f"{metric}_never_poisoned")) is not None and never.notna().any():
        dotted = {"color": BLACK, "linewidth": 0.8, "linestyle": ":"}
        ax.axhline(never.mean(), label=DEFENCE_NAMES["never_poisoned"], **dotted)
    is_long = max(len(setting) for setting in settings) > 5
    look = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    ax.set_xticks(range(len(settings)), map(plain, settings), **look)
    ax.set_xlim(-0.4, len(settings) - 0.6)
    ax.set(ylabel=f"{MEASURES[metric]} (%)", ylim=ylim)
    ax.legend()
    return ax


def draw_method(cells: pd.DataFrame, seeds: pd.DataFrame, x: pd.Series, ax: Axes) -> None:
    """One method's line of `plot_curve`; `x` of each of its cells."""
    method = seeds.defence.iloc[0]
    name, look = name_method(method), look_of(method)
    style = look | {"markersize": 3, "linewidth": 1, "elinewidth": 0.7, "capsize": 2}
    ax.errorbar(x, cells.value, cells.half_width.fillna(0), label=name, **style)
    is_own = cells.setting.isin(seeds.setting[seeds.is_own])
    ax.plot(x[is_own], cells.value[is_own], **look, markersize=6, linestyle="")
    if (is_lost := cells.state == "failed").any():
        top = [0.96] * is_lost.sum()  # of the axes' height
        cross = look | {"marker": "x", "linestyle": "", "markersize": 5}
        place = {"transform": ax.get_xaxis_transform(), "label": f"{name} diverged"}
        ax.plot(x[is_lost], top, **cross, **place)


def draw_curves(points: pd.DataFrame) -> dict[str, plt.Figure]:
    """`curves-METRIC-CELL`: `plot_curve` in one panel for each parameter. CACC, which moves little,
    has an axis of its own."""
    figures = {}
    for (name, part), metric in itertools.product(list_cells(points, is_grid=False), MEASURES):
        values, look = part[metric].dropna(), {"metric": metric}
        if metric == "cacc":
            look["ylim"] = (values.min() - MARGIN, min(103, values.max() + MARGIN))
        panels = [
            (head_of(study), partial(plot_curve, rows, **look))
            for study, rows in part.groupby("study", sort=False)
        ]
        figure = draw_panels(panels, min(5, len(panels)), sharey=True)
        figures[f"curves-{metric}-{name}"] = figure
    return figures


def plot_heat(points: pd.DataFrame, *, metric: str, ax: Axes | None = None) -> Axes:
    """One grid's `metric`, mean over the seeds: the first parameter down, the second across; ✗:
    AKD of a seed diverged; framed: the profile's own values. points: of one study, method, data set
    and attack."""
    ax = new_axes(ax)
    cells = summarise(points)
    cells = cells[cells.metric == metric]
    down, across = (list(dict.fromkeys(pair[i] for pair in points.setting)) for i in (0, 1))
    means = dict(zip(cells.setting, cells.value, strict=True))
    wide = pd.DataFrame([[means.get((y, x)) for x in across] for y in down], down, across)
    look = {"cmap": "viridis", "annot": True, "fmt": ".0f", "cbar": False, "vmin": 0, "vmax": 100}
    sns.heatmap(wide.astype(float), **look, ax=ax)
    for y, x in cells.setting[cells.state == "failed"]:
        place = (across.index(x) + 0.5, down.index(y) + 0.5)
        ax.text(*place, "✗", ha="center", va="center", color=ORANGE)
    for y, x in points.setting[points.is_own].unique():
        frame = {"fill": False, "edgecolor": ORANGE, "linewidth": 2}
        ax.add_patch(plt.Rectangle((across.index(x), down.index(y)), 1, 1, **frame))
    y, x = map(head_of, points.study.iloc[0].split(GRID))
    ax.set(xlabel=x, ylabel=y)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    return ax


def draw_study(points: pd.DataFrame) -> plt.Figure:
    """ASR, PACC and CACC of one study side by side: `plot_curve`, or of a grid `plot_heat`, a row
    for each method. points: of one data set and attack."""
    (study,) = points.study.unique()
    is_grid, parts = GRID in study, [("", points)]
    if is_grid:
        methods = list_methods(points)
        parts = [(f", {name_method(name)}", points[points.defence == name]) for name in methods]
    plot = plot_heat if is_grid else plot_curve
    panels = [
        (f"{title} (%){method}", partial(plot, rows, metric=metric))
        for (method, rows), (metric, title) in itertools.product(parts, MEASURES.items())
    ]
    figure = draw_panels(panels, len(MEASURES), size=(3.2, 2.5))
    if not is_grid:
        figure.axes[0].yaxis.label.set_visible(False)  # it is each panel's title
        figure.supxlabel(head_of(study), fontsize="medium")
    return figure


def draw_heats(points: pd.DataFrame) -> dict[str, plt.Figure]:
    """`heat-GRID-CELL`: `draw_study` of each grid."""
    return {
        f"heat-{study}-{name}": draw_study(rows)
        for name, part in list_cells(points, is_grid=True)
        for study, rows in part.groupby("study", sort=False)
    }
