"""Pictures of a profile's sweeps: curves with intervals, heat maps of its grids, the ranking of all
as a tornado plot. What is not finished is not drawn."""

import itertools
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bedkd.report.figures import BLACK, ORANGE, draw_panels, new_axes
from bedkd.report.layouts import DEFENCE_NAMES
from bedkd.report.overview import LOOKS
from bedkd.report.sensitivity import (
    CELL,
    MEASURES,
    name_parameter,
    rank_parameters,
    select_studies,
    summarise,
)
from bedkd.runs.sweeps import GRID

MARGIN = 3  # percentage points beyond the values, on an axis that does not show all of 0 to 100


def list_methods(rows: pd.DataFrame) -> list[str]:
    return [name for name in ("bedkd", "bedkd_plus") if (rows.defence == name).any()]


def plot_tornado(
    ranking: pd.DataFrame, *, own: dict[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """One measure of `rank_parameters`: a row for each parameter, the longest bar on top, a bar for
    each method from its smallest to its largest mean, with the parameter's values there and, after
    ✗, those at which AKD diverged. own: each method's mean at the profile's own values, a line."""
    ax = new_axes(ax)
    ranking = ranking.sort_values("span", ascending=False, kind="stable")
    studies, methods = list(ranking.study.unique()), list_methods(ranking)
    height = 0.8 / max(1, len(methods))
    for number, method in enumerate(methods):
        look = {"color": LOOKS[method]["color"], "label": DEFENCE_NAMES[method]}
        rows = ranking[ranking.defence == method]
        y = rows.study.map(studies.index) + height * (number - (len(methods) - 1) / 2)
        ax.barh(y, rows.span, left=rows.low, height=height, **look)
        for place, row in zip(y, rows.itertuples(), strict=True):
            text = {"y": place, "va": "center", "size": 5.5}
            ax.text(row.low, s=f"{row.at_low} ", ha="right", **text)
            diverged = f"  ✗ {row.diverged}" if row.diverged else ""
            ax.text(row.high, s=f" {row.at_high}{diverged}", ha="left", **text)
        if method in (own or {}):
            ax.axvline(own[method], color=look["color"], linewidth=0.9, linestyle=":")
    ax.set_yticks(range(len(studies)), map(name_parameter, studies))
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
        size = (9.6, 1 + 0.36 * ranking.study.nunique())
        figure, axes = plt.subplots(1, len(MEASURES), figsize=size, layout="constrained")
        for ax, (metric, title) in zip(axes, MEASURES.items(), strict=True):
            means = own[metric].mean().dropna().to_dict()
            rows = ranking[ranking.metric == metric]
            plot_tornado(rows, own=means, ax=ax).set_title(f"{title} (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        figures[f"tornado-{name}"] = figure
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
    points: pd.DataFrame, *, metric: str, ylim: tuple = (-3, 103), ax: Axes | None = None
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
        draw_method(rows, seeds, rows.setting.map(settings.index) + lane, LOOKS[method], ax)
        places = seeds.setting.map(settings.index) + lane
        colour = LOOKS[method]["color"]
        ax.scatter(places, seeds[metric], s=6, alpha=0.4, color=colour)
    if (never := points.get(f"{metric}_never_poisoned")) is not None and never.notna().any():
        dotted = {"color": BLACK, "linewidth": 0.8, "linestyle": ":"}
        ax.axhline(never.mean(), label=DEFENCE_NAMES["never_poisoned"], **dotted)
    ax.set_xticks(range(len(settings)), settings)
    ax.set_xlim(-0.4, len(settings) - 0.6)
    ax.set(ylabel=f"{MEASURES[metric]} (%)", ylim=ylim)
    ax.legend()
    return ax


def draw_method(
    cells: pd.DataFrame, seeds: pd.DataFrame, x: pd.Series, look: dict, ax: Axes
) -> None:
    """One method's line of `plot_curve`; `x` of each of its cells."""
    name = DEFENCE_NAMES[seeds.defence.iloc[0]]
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
        values, ylim = part[metric].dropna(), (-3, 103)
        if metric == "cacc":
            ylim = (values.min() - MARGIN, min(103, values.max() + MARGIN))
        plot = partial(plot_curve, metric=metric, ylim=ylim)
        panels = [
            (name_parameter(study), rows) for study, rows in part.groupby("study", sort=False)
        ]
        how = {"legend": {"loc": "outside upper center", "ncols": 4}, "sharey": True}
        figures[f"curves-{metric}-{name}"] = draw_panels(panels, plot, min(5, len(panels)), **how)
    return figures


def plot_heat(points: pd.DataFrame, *, metric: str, ax: Axes | None = None) -> Axes:
    """One grid's `metric`, mean over the seeds: the first parameter down, the second across; ✗:
    AKD of a seed diverged. points: of one study, method, data set and attack."""
    ax = new_axes(ax)
    cells = summarise(points)
    cells = cells[cells.metric == metric]
    down, across = (list(dict.fromkeys(pair[i] for pair in points.setting)) for i in (0, 1))
    means = dict(zip(cells.setting, cells.value, strict=True))
    wide = pd.DataFrame([[means[y, x] for x in across] for y in down], down, across)
    sns.heatmap(wide, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", cbar=False, ax=ax)
    for y, x in cells.setting[cells.state == "failed"]:
        place = (across.index(x) + 0.5, down.index(y) + 0.5)
        ax.text(*place, "✗", ha="center", va="center", color=ORANGE)
    y, x = map(name_parameter, points.study.iloc[0].split(GRID))
    ax.set(xlabel=x, ylabel=y)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    return ax


def draw_heats(points: pd.DataFrame) -> dict[str, plt.Figure]:
    """`heat-GRID-CELL`: `plot_heat` of each grid, a row for each method, a column for each
    measure."""
    figures = {}
    for name, part in list_cells(points, is_grid=True):
        for study, rows in part.groupby("study", sort=False):
            methods = list_methods(rows)
            size = (9.6, 0.4 + 2.7 * len(methods))
            shape = {"nrows": len(methods), "ncols": len(MEASURES), "squeeze": False}
            figure, axes = plt.subplots(**shape, sharey=True, figsize=size, layout="constrained")
            panels = itertools.product(methods, MEASURES)
            for ax, (method, metric) in zip(axes.flat, panels, strict=True):
                plot_heat(rows[rows.defence == method], metric=metric, ax=ax)
                ax.set_title(f"{MEASURES[metric]} (%), {DEFENCE_NAMES[method]}")
                ax.label_outer()
            figures[f"heat-{study}-{name}"] = figure
    return figures
