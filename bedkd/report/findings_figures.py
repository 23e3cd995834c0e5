"""Pictures of `09_findings`. Each function takes kept records (`findings.read_kept`)."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bedkd.report.figures import BLACK, CLASS_COLOURS, MARKERS, new_axes
from bedkd.report.findings import CLOSE, NOT_MEASURED
from bedkd.report.layouts import DEFENCE_NAMES, NAMES, name_method

GUIDE = {"color": BLACK, "linewidth": 0.6}
PALETTE = [*CLASS_COLOURS, "#7F7F7F", "#A65628", "#000000", "#999933", "#882255", "#44AA99"]


def name_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Attacked cells of the defences, parts of BeDKD+ apart, that are held against a model that
    never saw poison, with the names of defence and attack, and `asr_over` and `lfr_over`, the
    distance from that model (points)."""
    is_held = (records.attack != "none") & records.asr_never_poisoned.notna()
    is_whole = records.defence.isin(DEFENCE_NAMES) & (records.defence != "never_poisoned")
    rows = records[is_held & is_whole]
    return rows.assign(
        defence=rows.defence.map(name_method),
        attack=rows.attack.map(lambda name: NAMES["attack"].get(name, name)),
        asr_over=rows.asr - rows.asr_never_poisoned,
        lfr_over=rows.lfr_target - rows.lfr_target_never_poisoned,
    )


def say_nothing(ax: Axes) -> Axes:
    """In place of a picture of no cell."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, NOT_MEASURED, ha="center", va="center")
    return ax


def draw_shift(records: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Each cell: how far the ASR (up) and the LFR of the target class (right) end over a model that
    never saw poison. At the cross the trigger is forgotten, on the right it points the other way.
    """
    ax, rows = new_axes(ax), name_rows(records[records.study == ""])
    if rows.empty:
        return say_nothing(ax)
    marks = dict(zip(rows.attack.unique(), MARKERS, strict=False))
    colours = dict(zip(sorted(rows.defence.unique()), PALETTE, strict=False))
    looks = {"hue": "defence", "palette": colours, "style": "attack", "markers": marks}
    sns.scatterplot(rows, x="lfr_over", y="asr_over", **looks, s=36, alpha=0.8, ax=ax)
    ax.axhline(0, **GUIDE)
    ax.axvline(0, **GUIDE)
    ax.set(
        xlabel="LFR of the target class, over never poisoned (points)",
        ylabel="ASR, over never poisoned (points)",
    )
    sns.move_legend(ax, "center left", bbox_to_anchor=(1, 0.5), title=None)
    return ax


def draw_seeds(records: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ASR of each cell over that of the model that never saw poison, a line of dots a defence;
    dotted: CLOSE, up to which a cell counts as clean."""
    ax, rows = new_axes(ax), name_rows(records[records.study == ""])
    if rows.empty:
        return say_nothing(ax)
    order = rows.groupby("defence").asr_over.mean().sort_values().index
    looks = {"hue": "attack", "palette": list(CLASS_COLOURS[: rows.attack.nunique()])}
    sns.stripplot(rows, x="asr_over", y="defence", order=order, **looks, ax=ax, jitter=0.15)
    ax.axvline(0, **GUIDE)
    ax.axvline(CLOSE, **GUIDE, linestyle=":")
    ax.set(xlabel="ASR, over never poisoned (points)", ylabel="")
    sns.move_legend(ax, "center left", bbox_to_anchor=(1, 0.5), title=None)
    return ax


def draw_study(records: pd.DataFrame, study: str, *, ax: Axes | None = None) -> Axes:
    """ASR over that of the model that never saw poison at each value of a study, one line a
    defence: means with 95% intervals over the cells."""
    ax, rows = new_axes(ax), name_rows(records[records.study == study])
    if rows.value.nunique() < 2:
        return say_nothing(ax)
    if is_number := rows.value.str.fullmatch(r"[\d.]+").all():
        rows = rows.assign(value=rows.value.astype(float))
    looks = {"hue": "defence", "style": "defence", "markers": True, "err_style": "bars"}
    sns.lineplot(rows, x="value", y="asr_over", **looks, errorbar=("ci", 95), seed=0, ax=ax)
    ax.axhline(0, **GUIDE)
    ax.set(xlabel=study.replace("_", " "), ylabel="ASR, over never poisoned (points)")
    if is_number:
        ax.set_xticks(sorted(rows.value.unique()))
    return ax
