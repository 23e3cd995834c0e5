"""Pictures of a profile's sweeps: curves with intervals, heat maps of its grids, the ranking of all
as a tornado plot. What is not finished is not drawn."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bedkd.report.figures import BLACK, ORANGE, PERCENT, draw_panels, new_axes, plain
from bedkd.report.layouts import DEFENCE_NAMES, head_of, name_method
from bedkd.report.overview import LOOKS
from bedkd.report.sensitivity import (
    MEASURES,
    PAIR,
    rank_parameters,
    select_studies,
    summarise,
)
from bedkd.report.table_cells import CELL
from bedkd.runs.sweeps import GRID

# behind a bar's values, so that no line runs through them
PATCH = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.2}
MARGIN = 3  # percentage points beyond the values, on an axis that does not show all of 0 to 100


def list_methods(rows: pd.DataFrame) -> list[tuple[str, str, dict, float]]:
    """BeDKD as printed first: each one's key, name, look, and how far its lane is from the middle,
    where all lanes are 1 wide."""
    methods = sorted(rows.defence.unique(), key=lambda name: (name != "bedkd", name))
    lanes = np.linspace(-0.5, 0.5, 2 * len(methods) + 1)[1::2]
    other = {"color": BLACK, "marker": "D"}  # parts of BeDKD+
    return [
        (m, name_method(m), LOOKS.get(m, other), x) for m, x in zip(methods, lanes, strict=True)
    ]


def list_cells(points: pd.DataFrame, *, is_grid: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of each data set and attack that has a finished point: its name in those of files, and its
    points of one parameter at a time, or of grids."""
    for (dataset, attack), part in select_studies(points, is_grid=is_grid).groupby(
        CELL, sort=False
    ):
        if (part.state == "ok").any():
            yield f"{Path(dataset).stem}-{attack}", part


def plot_tornado(
    ranking: pd.DataFrame, *, own: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """One measure of `rank_parameters`: a row for each parameter, the longest bar on top, a bar for
    each method from its smallest to its largest mean, pale where the difference may be chance, with
    the parameter's values there and, after ✗, those at which AKD diverged. own: each method's mean
    at the profile's own values, a line."""
    ax, methods = new_axes(ax), list_methods(ranking)
    ranking = ranking.sort_values("span", ascending=False, kind="stable")
    studies = list(ranking.study.unique())
    text = {"va": "center", "size": 5.5, "bbox": PATCH}
    for method, name, look, lane in methods:
        rows = ranking[ranking.defence == method]
        rows = rows.assign(y=rows.study.map(studies.index) + 0.8 * lane)
        bars = {"color": look["color"], "height": 0.8 / len(methods)}
        for is_sure, part in rows.groupby("is_sure"):
            pale = {} if is_sure else {"alpha": 0.35, "label": f"{name}, may be chance"}
            ax.barh(part.y, part.span, left=part.low, **{"label": name} | bars | pale)
        for row in rows.itertuples():
            diverged = f"  ✗ {row.diverged}" if row.diverged else ""
            ax.text(row.low, row.y, f"{row.at_low} ", ha="right", **text)
            ax.text(row.high, row.y, f" {row.at_high}{diverged}", ha="left", **text)
        if method in (own or {}):
            line = {"color": look["color"], "linewidth": 0.9, "linestyle": ":", "zorder": 0.9}
            ax.axvline(own[method], label=f"{name}, own values", **line)
    ax.set_yticks(range(len(studies)), map(head_of, studies))
    ax.set_ylim(len(studies) - 0.5, -0.5)
    ax.use_sticky_edges = False
    ax.margins(x=0.18)  # room for the values
    low, high = ax.get_xlim()
    if high - low < 1:  # where nothing moves by a point, rounding is all that could be seen
        ax.set_xlim((low + high - 1) / 2, (low + high + 1) / 2)
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


def plot_curve(
    points: pd.DataFrame, *, metric: str, ylim: tuple = PERCENT["ylim"], ax: Axes | None = None
) -> Axes:
    """One study's `metric` at each setting, at equal distances: each method's means with 95%
    intervals, each seed a pale dot, the larger mark the profile's own value, a cross where AKD of a
    seed diverged; dotted a model that never saw poison. points: of one data set and attack."""
    ax, cells = new_axes(ax), summarise(points)
    settings = list(points.setting.unique())
    for method, name, look, lane in list_methods(points):
        seeds = points[points.defence == method]
        rows = cells[(cells.defence == method) & (cells.metric == metric)]
        x = rows.setting.map(settings.index) + 0.32 * lane
        style = look | {"markersize": 3, "linewidth": 1, "elinewidth": 0.7, "capsize": 2}
        ax.errorbar(x, rows.value, rows.half_width.fillna(0), label=name, **style)
        own = rows.setting.isin(seeds.setting[seeds.is_own])
        ax.plot(x[own], rows.value[own], **look, markersize=6, linestyle="")
        places = seeds.setting.map(settings.index) + 0.32 * lane
        ax.scatter(places, seeds[metric], s=6, alpha=0.4, color=look["color"])
        if len(lost := x[rows.state == "failed"]):
            cross = look | {"marker": "x", "linestyle": "", "markersize": 5}
            cross |= {"transform": ax.get_xaxis_transform(), "label": f"{name} diverged"}
            ax.plot(lost, [0.96] * len(lost), **cross)  # of the axes' height
    if (never := points.get(f"{metric}_never_poisoned")) is not None and never.notna().any():
        dotted = {"color": BLACK, "linewidth": 0.8, "linestyle": ":"}
        ax.axhline(never.mean(), label=DEFENCE_NAMES["never_poisoned"], **dotted)
    is_long = max(map(len, settings)) > 5
    look = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    ax.set_xticks(range(len(settings)), map(plain, settings), **look)
    ax.set(ylabel=f"{MEASURES[metric]} (%)", ylim=ylim, xlim=(-0.4, len(settings) - 0.6))
    ax.legend()
    return ax


def draw_curves(points: pd.DataFrame) -> dict[str, plt.Figure]:
    """`curves-METRIC-CELL`: `plot_curve` in one panel for each parameter. CACC, which moves little,
    has an axis of its own."""
    figures = {}
    for (name, part), metric in itertools.product(list_cells(points, is_grid=False), MEASURES):
        look = {"metric": metric}
        if metric == "cacc":
            look["ylim"] = part[metric].min() - MARGIN, min(103, part[metric].max() + MARGIN)
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
    ax, cells = new_axes(ax), summarise(points).query("metric == @metric").copy()
    cells[["down", "across"]] = cells.setting.str.split(PAIR, expand=True)
    down, across = (list(cells[side].unique()) for side in ("down", "across"))
    wide = cells.pivot(index="down", columns="across", values="value").loc[down, across]
    look = {"cmap": "viridis", "annot": True, "fmt": ".0f", "cbar": False, "vmin": 0, "vmax": 100}
    sns.heatmap(wide, **look, ax=ax)
    own = set(points.setting[points.is_own])
    for cell in cells.itertuples():
        x, y = across.index(cell.across), down.index(cell.down)
        if cell.state == "failed":
            ax.text(x + 0.5, y + 0.5, "✗", ha="center", va="center", color=ORANGE)
        if cell.setting in own:
            ax.add_patch(plt.Rectangle((x, y), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2))
    first, second = map(head_of, points.study.iloc[0].split(GRID))
    ax.set(xlabel=second, ylabel=first)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    return ax


def draw_study(points: pd.DataFrame) -> plt.Figure:
    """ASR, PACC and CACC of one study side by side: `plot_curve`, or of a grid `plot_heat`, a row
    for each method. points: of one data set and attack."""
    study, plot, parts = points.study.iloc[0], plot_curve, [("", points)]
    if GRID in study:
        plot, methods = plot_heat, list_methods(points)
        parts = [(f", {name}", points[points.defence == method]) for method, name, *_ in methods]
    panels = [
        (f"{title} (%){method}", partial(plot, rows, metric=metric))
        for (method, rows), (metric, title) in itertools.product(parts, MEASURES.items())
    ]
    figure = draw_panels(panels, len(MEASURES), size=(3.2, 2.5))
    if plot is plot_curve:
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
