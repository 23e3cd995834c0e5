"""Tables from records: data in, a DataFrame out, CSV and Markdown on disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bedkd.records import write_text

ATTACK_NAMES = {
    "none": "Clean",
    "badwords": "BadWords",
    "addsent": "AddSent",
    "synbkd": "SynBkd",
}
DEFENCE_NAMES = {"none": "No defence", "bedkd": "BeDKD"}


def table1(records: pd.DataFrame) -> pd.DataFrame:
    """ASR and CACC (percent) of each dataset, attack and defence, averaged over seeds.

    Rows: dataset, attack; as in the paper, the row Average takes ASR over the attacks and CACC over
    all rows, Clean included. Columns: (defence, ASR or CACC).
    """
    rows = records[records.defence.isin(DEFENCE_NAMES)]
    means = rows.groupby(["dataset", "attack", "defence"], sort=False)[["asr", "cacc"]].mean()
    wide = means.unstack("defence").swaplevel(axis=1)
    columns = [(d, m) for d in DEFENCE_NAMES for m in ("asr", "cacc") if (d, m) in wide.columns]
    parts = []
    for dataset, part in wide[columns].groupby(level="dataset", sort=False):
        part = part.loc[[(dataset, a) for a in ATTACK_NAMES if (dataset, a) in part.index]]
        average = part.mean().to_frame((dataset, "Average")).T  # a Clean row has no ASR to count
        parts += [part, average]
    table = pd.concat(parts)
    table.index = pd.MultiIndex.from_tuples(
        [(dataset, ATTACK_NAMES.get(attack, attack)) for dataset, attack in table.index],
        names=["Dataset", "Attack"],
    )
    table.columns = pd.MultiIndex.from_tuples(
        [(DEFENCE_NAMES[defence], metric.upper()) for defence, metric in columns]
    )
    return table


def detection_table(records: pd.DataFrame) -> pd.DataFrame:
    """How well MEPD finds the poison at the run's γ, on D* and on the test sets (percent)."""
    names = {
        "far_train": "FAR D*",
        "frr_train": "FRR D*",
        "far_test": "FAR test",
        "frr_test": "FRR test",
        "n_flagged": "Flagged rows",
        "poison_few_purity": "Purity of D_p^few*",
    }
    rows = records[records.defence == "bedkd"]
    table = rows.groupby(["dataset", "attack"], sort=False)[list(names)].mean()
    table.index = table.index.map(lambda cell: (cell[0], ATTACK_NAMES.get(cell[1], cell[1])))
    return table.rename(columns=names).rename_axis(["Dataset", "Attack"])


def describe_source(records: pd.DataFrame) -> str:
    """One sentence for the caption: model, seeds, rows, device."""
    first = records.iloc[0]
    seeds = ", ".join(map(str, sorted(records.seed.unique())))
    rows = records.drop_duplicates("dataset")
    sizes = "; ".join(f"{r.dataset} {r.n_train:,} / {r.n_test:,}" for r in rows.itertuples())
    return (
        f"Victim {first.model}; seeds {seeds}; train / test rows: {sizes}; computed on "
        f"{first.device} in {first.precision}."
    )


def save_table(table: pd.DataFrame, path: Path, caption: str) -> None:
    """`path` with the endings .csv and .md; percentages with two digits, nothing as a dash."""
    flat = table.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        flat.columns = [" ".join(column) for column in flat.columns]
    write_text(path.with_suffix(".csv"), flat.round(4).to_csv())
    shown = flat.reset_index()
    shown = shown.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value)
    shown = shown.replace("nan", "–")
    aligned = ["left"] * table.index.nlevels + ["right"] * len(flat.columns)
    markdown = shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)
    write_text(path.with_suffix(".md"), f"{caption}\n\n{markdown}\n")
