"""What was found out: claims weighed against kept records, each with an interval and its size.

A claim is a sentence, written before it is weighed, and a number for each cell of the grid (data
set, attack, seed) that is above zero where the sentence holds. It *holds*, or its *opposite* does,
where the 95% t-interval of the mean lies on one side of zero; else it is *open*.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from scipy import stats

from bedkd.core.errors import BedkdError
from bedkd.report.layouts import name_method
from bedkd.report.show import show_table
from bedkd.report.tables import add_columns
from bedkd.runs.profiles import PROJECT
from bedkd.runs.records import to_frame

CELL = ["dataset", "attack", "seed"]
NOT_MEASURED = "not measured"
MEASURES = ("asr", "pacc", "lfr_target")
MEASURED = (
    *(*MEASURES, "cacc", "delta_pacc", "far_train", "poison_few_purity"),
    *(f"{name}_never_poisoned" for name in MEASURES),
)
SPREAD, ADAPTIVE = "spread", "An attacker who knows the DMM"  # an attack, and its topic
CLOSE = 5.0  # points over the model that never saw poison: what still counts as clean


def read_kept(profile: str) -> pd.DataFrame:
    """What `bedkd reference` keeps of a profile: a row for each record; `study` (empty: the main
    grid) and `value` are strings.

    Raises BedkdError: nothing is kept of it.
    """
    path = PROJECT / "outputs" / "reference" / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    own = [record for record in map(json.loads, lines) if record.get("profile") == profile]
    if not own:
        raise BedkdError(
            f"nothing is kept of profile {profile} in {path}; run `bedkd reproduce {profile}`, "
            f"then `bedkd reference {profile}`"
        )
    records = to_frame(own)
    records = add_columns(records, [*MEASURED, "study", "value"])
    return records.assign(
        **{name: records[name].astype(object).fillna("").map(str) for name in ("study", "value")}
    )


@dataclass(frozen=True)
class Claim:
    """`measure`: from records to the number of each cell (a Series, any index; NaN: none).
    `study`: whose records these are; empty: the main grid's."""

    topic: str
    says: str
    measure: Callable[[pd.DataFrame], pd.Series]
    study: str = ""
    unit: str = "points"


def weigh_claims(records: pd.DataFrame, claims: list[Claim]) -> pd.DataFrame:
    """A row for each claim and data set: topic, claim, dataset, mean, half_width, n, unit, verdict.

    records: `read_kept`. One cell alone has no interval: open.
    """
    rows = []
    for claim in claims:
        own = records[records.study == claim.study]
        if claim.topic != ADAPTIVE:  # who has a section of its own
            own = own[own.attack != SPREAD]
        for dataset in records.dataset.unique():
            values = claim.measure(own[own.dataset == dataset]).dropna().astype(float)
            about = {"topic": claim.topic, "claim": claim.says, "dataset": dataset}
            rows.append(about | summarise(values) | {"unit": claim.unit})
    columns = ["topic", "claim", "dataset", "mean", "half_width", "n", "verdict", "unit"]
    return pd.DataFrame(rows, columns=columns)


def summarise(values: pd.Series) -> dict:
    """Mean, half of the 95% t-interval, n, and whether it lies on one side of zero."""
    n, mean = len(values), values.mean() if len(values) else np.nan
    half = stats.t.ppf(0.975, n - 1) * values.sem() if n > 1 else np.nan
    verdict = NOT_MEASURED if n == 0 else "open"
    if abs(mean) > half:
        verdict = "holds" if mean > 0 else "opposite"
    return {"mean": mean, "half_width": half, "n": n, "verdict": verdict}


def of(records: pd.DataFrame, defence: str) -> pd.DataFrame:
    """Attacked cells of a defence, by CELL."""
    rows = records[(records.defence == defence) & (records.attack != "none")]
    return rows.set_index(CELL)


def lay_out_claims(weighed: pd.DataFrame) -> pd.DataFrame:
    """For a reader: claim by data set, such as `+34.2 ± 5.1 (n = 9): holds`."""
    texts = weighed.assign(
        text=[
            row.verdict if not row.n else f"{describe(row)} (n = {row.n}): {row.verdict}"
            for row in weighed.itertuples()
        ]
    )
    wide = texts.pivot(index=["topic", "claim"], columns="dataset", values="text")
    order = list(dict.fromkeys(zip(weighed.topic, weighed.claim, strict=True)))
    return wide.loc[order].fillna(NOT_MEASURED)


def show_topic(weighed: pd.DataFrame, *topics: str) -> Styler:
    """The claims of some topics that are measured somewhere, as a notebook shows them; how many of
    the others there are."""
    wide = lay_out_claims(weighed[weighed.topic.isin(topics)]).reset_index("topic", drop=True)
    is_measured = (wide != NOT_MEASURED).any(axis=1)
    table = show_table(wide[is_measured].reset_index())
    n = int((~is_measured).sum())
    if n == len(wide):  # nothing but the caption, which has no width to break lines at
        line = {"selector": "caption", "props": "white-space: nowrap"}
        table = table.hide(axis="columns").set_table_styles([line], overwrite=False)
    return table.set_caption(f"{n} of {len(wide)} sentences: {NOT_MEASURED}") if n else table


def describe(row) -> str:
    interval = "" if np.isnan(row.half_width) else f" ± {row.half_width:.1f}"
    return f"{row.mean:+.1f}{interval} {row.unit}"


def count_failures(records: pd.DataFrame) -> pd.DataFrame:
    """Of each defence and data set, but for the attack that knows the method: cells, those that end
    more than CLOSE points of ASR over the model that never saw poison, that share with its 95%
    Wilson interval (percent), and the standard deviation of the ASR over the seeds, mean of the
    attacks."""
    rows = records[(records.study == "") & ~records.attack.isin(["none", SPREAD])].copy()
    rows["over"] = rows.asr - rows.asr_never_poisoned
    found = []
    for (defence, dataset), part in rows.dropna(subset="over").groupby(
        ["defence", "dataset"], sort=False
    ):
        n_failed, n = int((part.over > CLOSE).sum()), len(part)
        interval = stats.binomtest(n_failed, n).proportion_ci(method="wilson")
        found.append(
            {
                "defence": name_method(defence),
                "dataset": dataset,
                "cells": n,
                "failed": n_failed,
                "share": 100 * n_failed / n,
                "low": 100 * interval.low,
                "high": 100 * interval.high,
                "deviation": part.groupby("attack").asr.std().mean(),
            }
        )
    return pd.DataFrame(found)


def describe_purity(records: pd.DataFrame, defence: str = "bedkd") -> str:
    """One sentence: Spearman's ρ of the purity of D_p^few* and the ASR left over that of the model
    that never saw poison, over all cells and studies of a defence."""
    rows = of(records, defence).dropna(subset=["poison_few_purity", "asr_never_poisoned"])
    about = "purity of D_p^few* against the ASR left over never poisoned"
    if len(rows) < 3:
        return f"{name_method(defence)}, {about}: {NOT_MEASURED} ({len(rows)} cells)"
    rho, p = stats.spearmanr(rows.poison_few_purity, rows.asr - rows.asr_never_poisoned)
    return (
        f"{name_method(defence)}, {about}: Spearman's ρ = {rho:.2f} (p = {p:.2g}, n = {len(rows)})"
    )
