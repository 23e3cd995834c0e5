"""Figures. Each function takes a DataFrame, draws on `ax` (or a new one) and returns it."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bedkd.report.layouts import HEADS
from bedkd.report.show import visible

# Okabe and Ito's colours, told apart by colour-blind readers; line style says the same again
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
SOLID, DASHED = {"color": BLUE, "linestyle": "-"}, {"color": ORANGE, "linestyle": "--"}
HIGH, LOW = SOLID | {"marker": "s"}, DASHED | {"marker": "o"}  # where a metric should be
CYCLES = {  # of AKD
    **{"cacc": HIGH, "asr": LOW, "pacc": HIGH | {"color": GREEN}},
    "lfr_target": {"color": "#CC79A7", "linestyle": "-.", "marker": "^", "label": "LFR target"},
}
CLASS_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
TSNE_LOOKS = {
    "clean": {"s": 7, "alpha": 0.35, "linewidths": 0},
    "poisoned": {"s": 12, "edgecolors": BLACK, "linewidths": 0.4},
}
COLUMN = 3.3  # inches: one of two columns in print
PERCENT = {"ylabel": "%", "ylim": (-3, 103)}
# a legend right of the axes: curves over epochs and cycles can pass anywhere
BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
ABOVE = {"loc": "outside upper center", "ncols": 4}  # all panels of a figure
# of the axis, and of the threshold
SCORES = {"mepd": ("MEPD", "γ"), "p": ("p-value along the path, within the given label", "p")}


def set_style() -> None:
    """Legible at column width: 8 pt text, thin grid, vector fonts in PDF."""
    sns.set_theme(context="paper", style="whitegrid", font_scale=0.95)
    plt.rcParams |= {
        "figure.figsize": (COLUMN * 1.5, COLUMN),
        "figure.dpi": 110,
        "pdf.fonttype": 42,
        "grid.linewidth": 0.4,
        "lines.markersize": 3,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }


def new_axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax


def plain(text: object) -> str:
    """A name from data, as matplotlib shows it to the letter: it would read `$…$` as TeX."""
    return visible(str(text)).replace("$", r"\$")


def draw_lines(
    rows: pd.DataFrame, x: str, looks: dict[str, dict], *, ax: Axes | None, **labels
) -> Axes:
    """A line for each column in `looks` that has values: its mean over the rows (seeds) of equal
    `x`. `labels`: of the axes."""
    ax = new_axes(ax)
    for column, look in looks.items():
        if column in rows and len(known := rows.dropna(subset=[column])):
            ax.plot(known.groupby(x)[column].mean(), **{"label": column.upper()} | look)
    if x == "epoch":  # there is no epoch 2.5
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set(**labels)
    ax.legend(handles=ax.get_legend_handles_labels()[0])  # given, for of none it would warn
    return ax


def plot_phases(
    history: pd.DataFrame, quantity: str, *, phases: tuple[str, ...], ax: Axes | None = None
) -> Axes:
    """`loss` or `accuracy` (percent) of each phase's pass. history: epoch, PHASE_QUANTITY."""
    labels = {"ylabel": quantity}
    if quantity == "accuracy":
        labels = PERCENT | {"ylabel": "accuracy (%)"}
    looks = {
        f"{phase}_{quantity}": look | {"label": phase}
        for phase, look in zip(phases, (SOLID, DASHED), strict=False)
    }
    return draw_lines(history, "epoch", looks, ax=ax, xlabel="epoch", **labels)


def plot_parting(history: pd.DataFrame, *, gamma: float, ax: Axes | None = None) -> Axes:
    """Mean MEPD of clean and poisoned rows while the DMM trains. history: epoch, mepd_*."""
    kinds = (("clean", SOLID), ("poisoned", DASHED))
    looks = {f"mepd_{kind}": look | {"label": kind} for kind, look in kinds}
    ax = draw_lines(history, "epoch", looks, ax=ax, xlabel="DMM epoch", ylabel="mean MEPD")
    ax.axhline(gamma, color=BLACK, linewidth=0.8, linestyle=":", label=f"γ = {gamma}")
    ax.set_ylim(0, None)
    ax.legend(**BESIDE)
    return ax


def plot_scores(
    scores: pd.DataFrame, *, threshold: float, score: str = "mepd", ax: Axes | None = None
) -> Axes:
    """Histogram of MEPD, or of the p-values along the DMM's path (`score`: p). scores: `score`,
    is_poisoned (bool). Rows left of the threshold are flagged."""
    ax = new_axes(ax)
    label, name = SCORES[score]
    bins = np.linspace(0, max(1e-6, scores[score].max()), 41)
    for is_poisoned, rows in scores.groupby("is_poisoned")[score]:
        kind, colour, hatch = ("poisoned", ORANGE, "///") if is_poisoned else ("clean", BLUE, None)
        look = {"color": colour, "alpha": 0.6, "hatch": hatch}
        ax.hist(rows, bins, label=f"{kind} ({len(rows):,})", **look)
    ax.axvline(threshold, color=BLACK, linewidth=0.8, linestyle=":", label=f"{name} = {threshold}")
    ax.set(xlabel=label, ylabel="rows of D*")
    ax.legend()
    return ax


def plot_gamma(curve: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """FAR and FRR over γ (Figure 4), mean over seeds. curve: gamma, far, frr (percent)."""
    looks = {"far": LOW, "frr": HIGH}
    return draw_lines(curve, "gamma", looks, ax=ax, xlabel="γ", title=title, **PERCENT)


def plot_cycles(
    history: pd.DataFrame, *, names: Sequence[str] = ("cacc", "asr"), ax: Axes | None = None
) -> Axes:
    """Metrics over the AKD cycles, mean over seeds. history: epoch, the metrics (percent), and with
    the ending `_never_poisoned` those of a model that never saw poison, as dotted lines."""
    looks = {name: CYCLES[name] for name in names}
    ax = draw_lines(history, "epoch", looks, ax=ax, xlabel="AKD cycle", **PERCENT)
    label = "never poisoned"
    for name, look in looks.items():
        never = history.get(f"{name}_never_poisoned")
        if never is not None and never.notna().any():
            dotted = {"color": look["color"], "linewidth": 0.8, "linestyle": ":"}
            ax.axhline(never.mean(), label=label, **dotted)
            label = "_the same"  # not in the legend
    ax.legend(handles=ax.get_legend_handles_labels()[0], **BESIDE)
    return ax


# what tells a trigger that is forgotten from one that is turned round: forgotten where all three
# reach those of the model that never saw poison
plot_forgetting = partial(plot_cycles, names=("pacc", "asr", "lfr_target"))


def plot_cycles_by(
    history: pd.DataFrame, *, by: str, unit: str = "AKD cycle", ax: Axes | None = None
) -> Axes:
    """The same for each value of the column `by`, as in Figure 3: CACC solid, ASR dashed. Where
    AKD of a seed diverged, the mean is over the others, and the legend says over how many."""
    ax = new_axes(ax)
    values = history[by].unique()
    seeds = history.assign(seed=history.get("seed")).groupby(by).seed.nunique()
    shades = sns.color_palette("viridis", len(values))  # told apart in grey too
    for value, colour, marker in zip(values, shades, MARKERS, strict=False):
        look = {"color": colour, "marker": marker, "markersize": 2.5}
        label = f"{HEADS.get(by, by)} = {value}"
        if seeds[value] < seeds.max():
            label += f" ({seeds[value]} of {seeds.max()} seeds)"
        looks = {"cacc": look | {"label": label}}
        looks["asr"] = look | {"linestyle": "--", "label": "_the same"}  # not in the legend
        draw_lines(history[history[by] == value], "epoch", looks, ax=ax)
    for name, style in (("CACC", "-"), ("ASR", "--")):
        ax.plot([], [], style, color=BLACK, label=name)
    ax.set(xlabel=unit, **PERCENT)
    ax.legend(fontsize="small", **BESIDE)
    return ax


def plot_tsne(
    points: pd.DataFrame,
    *,
    label_names: Sequence[str],
    target_label: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One model's features on a plane (a panel of Figure 5). points: x, y, kind, label.

    Colour and shape say the true class (`label`, -1 where nobody knows it); clean rows are pale,
    poisoned ones outlined and on top.
    """
    ax = new_axes(ax)
    for kind, look in TSNE_LOOKS.items():
        for label, rows in points[points.kind == kind].groupby("label"):
            name, colour, marker = "class unknown", BLACK, "X"
            if label >= 0:
                name = plain(label_names[label]) + " (target)" * (label == target_label)
                colour, marker = (cues[label % len(cues)] for cues in (CLASS_COLOURS, MARKERS))
            name = f"{kind}, {name}"
            ax.scatter(rows.x, rows.y, color=colour, marker=marker, label=name, **look)
    ax.set(xticks=[], yticks=[])
    ax.legend(fontsize="small", markerscale=1.5)
    return ax


def draw_panels(
    panels: list[tuple[str, Callable[..., Axes]]],
    n_columns: int,
    *,
    size: tuple[float, float] = (COLUMN * 0.75, COLUMN * 0.7),
    legend: dict | None = None,
    **shared,
) -> plt.Figure:
    """Panels of (title, plot), each drawn by `plot(ax=...)`, with one legend for all. `size`: of
    a panel, in inches."""
    n_rows = -(-len(panels) // n_columns)
    look = {"squeeze": False, "layout": "constrained"} | shared
    # 4: a legend's width, 0.4: its height
    figsize = (max(4, size[0] * n_columns), size[1] * n_rows + 0.4)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=figsize, **look)
    labelled = {}
    for ax, (title, plot) in zip(axes.flat, panels, strict=False):
        plot(ax=ax).set_title(plain(title))
        labelled |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if own := ax.get_legend():
            own.remove()
        ax.yaxis.label.set_visible(ax.get_subplotspec().is_first_col())
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    if labelled:
        figure.legend(labelled.values(), labelled.keys(), **(legend or ABOVE))
    return figure


def plot_tsne_grid(
    points: pd.DataFrame, *, label_names: Sequence[str], target_label: int | None = None
) -> plt.Figure:
    """Figure 5: `plot_tsne` before (top) and after, a column for each attack; with one attack side
    by side. points, of one data set: also attack, model (`before`, `after`)."""
    attacks = points.attack.unique()
    names = {"label_names": label_names, "target_label": target_label}
    panels = []
    for model, attack in itertools.product(("before", "after"), attacks):
        rows = points[(points.model == model) & (points.attack == attack)]
        panels.append((f"{attack}, {model}", partial(plot_tsne, rows, **names)))
    legend = {"loc": "outside lower center", "ncols": 2, "fontsize": "small", "markerscale": 1.5}
    return draw_panels(panels, max(2, len(attacks)), legend=legend)


def plot_grid(rows: pd.DataFrame, plot: Callable[..., Axes]) -> plt.Figure:
    """`plot(part, ax=...)` in one panel for each dataset (down) and attack (across) of `rows`."""
    attacks = rows.attack.unique()
    panels = []
    for dataset, attack in itertools.product(rows.dataset.unique(), attacks):
        part = rows[(rows.dataset == dataset) & (rows.attack == attack)]
        panels.append((f"{dataset}, {attack}", partial(plot, part)))
    legend = ABOVE | {"ncols": max(2, len(attacks) * 2)}
    figure = draw_panels(panels, len(attacks), legend=legend, sharex=True, sharey=True)
    for ax in figure.axes:
        ax.label_outer()
    return figure


def save_figure(figure: plt.Figure, path: Path) -> None:
    """`path` with the endings .png and .pdf."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=200)
    # without a date the same data gives the same bytes
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
