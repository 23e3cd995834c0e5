"""Figures. Each function takes a DataFrame, draws on `ax` (or a new one) and returns it."""

from __future__ import annotations

import difflib
import html
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by colour-blind readers; line style says the same again
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
TSNE_LOOKS = {
    "clean": {"s": 7, "alpha": 0.35, "linewidths": 0},
    "poisoned": {"s": 12, "edgecolors": BLACK, "linewidths": 0.4},
}
ATTACK_COLOURS = {"badwords": BLUE, "addsent": ORANGE, "synbkd": GREEN, "none": BLACK}
COLUMN = 3.3  # inches: one of two columns in print
# a legend right of the axes: curves over the cycles can pass anywhere
BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}

MARKERS = ("o", "s", "^", "D", "v", "P")


def shades(n: int) -> list:
    """n colours from dark to light, told apart in grey too."""
    return sns.color_palette("viridis", n)


def set_style() -> None:
    """Legible at column width: 8 pt text, thin grid, vector fonts in PDF."""
    sns.set_theme(context="paper", style="whitegrid", font_scale=0.95)
    plt.rcParams |= {
        "figure.figsize": (COLUMN * 1.5, COLUMN),
        "figure.dpi": 110,
        "pdf.fonttype": 42,
        "grid.linewidth": 0.4,
        "figure.constrained_layout.use": True,
    }


def new_axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax


def whole_ticks(ax: Axes) -> None:
    """There is no epoch 2.5."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def plot_phases(
    history: pd.DataFrame, quantity: str, *, phases: tuple[str, ...], ax: Axes | None = None
) -> Axes:
    """`loss` or `accuracy` (percent) of each phase's pass. history: epoch, PHASE_QUANTITY."""
    ax = new_axes(ax)
    for phase, colour, style in zip(phases, (BLUE, ORANGE), ("-", "--"), strict=False):
        if (column := f"{phase}_{quantity}") in history:
            rows = history.dropna(subset=[column])
            ax.plot(rows.epoch, rows[column], style, color=colour, label=phase)
    ax.set(xlabel="epoch", ylabel=quantity)
    whole_ticks(ax)
    if quantity == "accuracy":
        ax.set(ylabel="accuracy (%)", ylim=(-3, 103))
    ax.legend(frameon=False)
    return ax


def plot_parting(history: pd.DataFrame, *, gamma: float, ax: Axes | None = None) -> Axes:
    """Mean MEPD of clean and poisoned rows while the DMM trains. history: epoch, mepd_*."""
    ax = new_axes(ax)
    for kind, colour, style in (("clean", BLUE, "-"), ("poisoned", ORANGE, "--")):
        if f"mepd_{kind}" in history:
            ax.plot(history.epoch, history[f"mepd_{kind}"], style, color=colour, label=kind)
    ax.axhline(gamma, color=BLACK, linewidth=0.8, linestyle=":", label=f"γ = {gamma}")
    ax.set(xlabel="DMM epoch", ylabel="mean MEPD", ylim=(0, None))
    whole_ticks(ax)
    ax.legend(frameon=False)
    return ax


def plot_mepd(scores: pd.DataFrame, *, gamma: float, ax: Axes | None = None) -> Axes:
    """Histogram of MEPD. scores: mepd, is_poisoned (bool). Rows left of γ are flagged."""
    ax = new_axes(ax)
    bins = np.linspace(0, max(1e-6, float(scores.mepd.max())), 41)
    kinds = (("clean", False, BLUE, None), ("poisoned", True, ORANGE, "///"))
    for kind, value, colour, hatch in kinds:
        rows = scores.mepd[scores.is_poisoned == value]
        if len(rows):
            ax.hist(
                rows, bins, color=colour, alpha=0.6, hatch=hatch, label=f"{kind} ({len(rows):,})"
            )
    ax.axvline(gamma, color=BLACK, linewidth=0.8, linestyle=":", label=f"γ = {gamma}")
    ax.set(xlabel="MEPD", ylabel="rows of D*")
    ax.legend(frameon=False)
    return ax


def plot_gamma(curve: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """FAR and FRR over γ (Figure 4), mean over seeds. curve: gamma, far, frr (percent)."""
    ax = new_axes(ax)
    for name, colour, style in (("far", ORANGE, "--o"), ("frr", BLUE, "-s")):
        mean = curve.dropna(subset=[name]).groupby("gamma")[name].mean()
        if len(mean):
            ax.plot(mean, style, color=colour, markersize=3, label=name.upper())
    ax.set(xlabel="γ", ylabel="%", title=title, ylim=(-3, 103))
    ax.legend(frameon=False)
    return ax


def plot_cycles(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ASR and CACC over the AKD cycles, mean over seeds. history: epoch, asr, cacc (percent)."""
    ax = new_axes(ax)
    for name, colour, style in (("cacc", BLUE, "-s"), ("asr", ORANGE, "--o")):
        rows = history.dropna(subset=[name]) if name in history else history.iloc[:0]
        mean = rows.groupby("epoch")[name].mean() if len(rows) else rows
        if len(mean):
            ax.plot(mean, style, color=colour, markersize=3, label=name.upper())
    ax.set(xlabel="AKD cycle", ylabel="%", ylim=(-3, 103))
    whole_ticks(ax)
    ax.legend(frameon=False, **BESIDE)
    return ax


def plot_cycles_by(history: pd.DataFrame, *, by: str, ax: Axes | None = None) -> Axes:
    """The same for each value of the column `by`, as in Figure 3: CACC solid, ASR dashed."""
    ax = new_axes(ax)
    values = list(history[by].unique())
    for value, colour, marker in zip(values, shades(len(values)), MARKERS, strict=False):
        for name, style in (("cacc", "-"), ("asr", "--")):
            rows = history[history[by] == value].dropna(subset=[name])
            mean = rows.groupby("epoch")[name].mean()
            label = f"{by} = {value}" if name == "cacc" else None
            ax.plot(mean, style, color=colour, marker=marker, markersize=2.5, label=label)
    for name, style in (("CACC", "-"), ("ASR", "--")):
        ax.plot([], [], style, color=BLACK, label=name)
    ax.set(xlabel="AKD cycle", ylabel="%", ylim=(-3, 103))
    whole_ticks(ax)
    ax.legend(frameon=False, fontsize="small", **BESIDE)
    return ax


def plot_points(points: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ASR (dashed) and CACC (solid) at each value of one parameter; mean over seeds.

    points: study (one), value, attack, asr, cacc. Values stand at equal distances, in the order
    given.
    """
    ax = new_axes(ax)
    values = list(points.value.unique())
    for attack, rows in points.groupby("attack", sort=False):
        means = rows.groupby("value", sort=False)[["asr", "cacc"]].mean().reindex(values)
        colour = ATTACK_COLOURS.get(attack, BLACK)
        for name, style in (("cacc", "-s"), ("asr", "--o")):
            label = f"{name.upper()}, {attack}"
            ax.plot(range(len(values)), means[name], style, color=colour, markersize=3, label=label)
    is_long = max(len(str(value)) for value in values) > 5
    ax.set_xticks(range(len(values)), map(str, values), rotation=30 * is_long, ha="center")
    ax.set(xlabel=points.study.iloc[0], ylabel="%", ylim=(-3, 103))
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_studies(points: pd.DataFrame) -> plt.Figure:
    """`plot_points` in one panel for each study."""
    studies = list(points.study.unique())
    n_columns = min(3, len(studies))
    n_rows = -(-len(studies) // n_columns)
    size = (COLUMN * 0.8 * n_columns, COLUMN * 0.75 * n_rows)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, sharey=True, squeeze=False)
    labelled: dict = {}
    for ax, study in zip(axes.flat, studies, strict=False):
        plot_points(points[points.study == study], ax=ax)
        ax.set_ylabel("%" if ax in axes[:, 0] else "")
        handles, labels = ax.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
        ax.get_legend().remove()
    for ax in axes.flat[len(studies) :]:
        ax.set_visible(False)
    figure.legend(
        labelled.values(), labelled.keys(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def plot_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ASR and CACC over epochs, one colour a learning rate. curve: learning_rate, epoch, asr, cacc.

    ASR is missing where nothing attacks.
    """
    ax = new_axes(ax)
    colours = (BLUE, ORANGE, GREEN, BLACK)
    for (rate, rows), colour in zip(curve.groupby("learning_rate"), colours, strict=False):
        for metric, style in (("asr", "-"), ("cacc", "--")):
            if rows[metric].notna().any():
                label = f"{metric.upper()}, {rate:.0e}"
                ax.plot(rows.epoch, rows[metric], style, color=colour, label=label)
    ax.set(xlabel="epoch", ylabel="%", ylim=(-3, 103))
    whole_ticks(ax)
    ax.legend(frameon=False, fontsize="small", bbox_to_anchor=(1, 1), loc="upper left")
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
                name = label_names[label] + " (target)" * (label == target_label)
                colour, marker = (cues[label % len(cues)] for cues in (CLASS_COLOURS, MARKERS))
            look = look | {"color": colour, "marker": marker, "label": f"{kind}, {name}"}
            ax.scatter(rows.x, rows.y, **look)
    ax.set(xticks=[], yticks=[])
    ax.legend(fontsize="small", markerscale=1.5)
    return ax


def plot_tsne_grid(
    points: pd.DataFrame, *, label_names: Sequence[str], target_label: int | None = None
) -> plt.Figure:
    """Figure 5: `plot_tsne` before (top) and after, a column for each attack; with one attack side
    by side. points, of one data set: also attack, model (`before`, `after`)."""
    attacks = list(points.attack.unique())
    shape = (2, len(attacks)) if len(attacks) > 1 else (1, 2)
    size = (COLUMN * 0.72 * shape[1], COLUMN * 0.72 * shape[0] + 0.5)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False)
    panels = itertools.product(("before", "after"), attacks)
    labelled: dict = {}
    for ax, (model, attack) in zip(axes.flat, panels, strict=True):
        rows = points[(points.model == model) & (points.attack == attack)]
        plot_tsne(rows, label_names=label_names, target_label=target_label, ax=ax)
        ax.set_title(f"{attack}, {model}")
        handles, labels = ax.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
        ax.get_legend().remove()
    look = {"ncols": 2, "fontsize": "small", "markerscale": 1.5, "frameon": False}
    handles, labels = labelled.values(), labelled.keys()
    figure.legend(handles, labels, loc="outside lower center", **look)
    return figure


def plot_grid(rows: pd.DataFrame, plot: Callable[..., Axes]) -> plt.Figure:
    """`plot(part, ax=...)` in one panel for each dataset (down) and attack (across) of `rows`."""
    datasets, attacks = list(rows.dataset.unique()), list(rows.attack.unique())
    size = (COLUMN * 0.75 * len(attacks), COLUMN * 0.7 * len(datasets))
    shape = (len(datasets), len(attacks))
    size = (size[0], size[1] + 0.3)  # the legend's
    figure, axes = plt.subplots(*shape, figsize=size, sharex=True, sharey=True, squeeze=False)
    labelled, title = {}, ""
    for (i, j), ax in np.ndenumerate(axes):
        plot(rows[(rows.dataset == datasets[i]) & (rows.attack == attacks[j])], ax=ax)
        ax.set_title(f"{datasets[i]}, {attacks[j]}")
        ax.label_outer()
        labelled |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if legend := ax.get_legend():
            title = legend.get_title().get_text()
            legend.remove()
    look = {"ncols": max(2, len(attacks) * 2), "frameon": False, "title": title}
    figure.legend(labelled.values(), labelled.keys(), loc="outside upper center", **look)
    return figure


def save_figure(figure: plt.Figure, path: Path) -> None:
    """`path` with the endings .png and .pdf."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=200)
    # without a date the same data gives the same bytes
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def mark_trigger(clean: str, poisoned: str) -> str:
    """HTML of the poisoned text with the words marked that the clean text does not have there."""
    before, after = clean.split(), poisoned.split()
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        words = html.escape(" ".join(after[start:end]))
        if words:
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def show_poison(rows: pd.DataFrame, label_names: tuple[str, ...]):
    """A table of texts with the trigger marked. rows: clean_text, text, clean_label, label."""
    from IPython.display import HTML

    def name(label: int) -> str:
        return html.escape(label_names[label]) if label >= 0 else "unknown"

    lines = [
        f"<tr><td style='text-align:left'>{mark_trigger(row.clean_text, row.text)}</td>"
        f"<td>{name(row.clean_label)}</td><td>{name(row.label)}</td></tr>"
        for row in rows.itertuples()
    ]
    head = "<tr><th style='text-align:left'>text in D*</th><th>true label</th><th>label</th></tr>"
    return HTML(f"<table>{head}{''.join(lines)}</table>")
