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
DEFENCE_NAMES = {
    "none": "No defence",
    "finetune": "Fine-tuning",
    "onion": "ONION",
    "imbert": "IMBERT",
    "textguard": "TextGuard",
    "w2s": "W2SDefense",
    "bedkd": "BeDKD",
}
ABLATION_NAMES = {
    "finetune": "FT",
    "finetune_dmm": "FT+DMM",
    "kd": "KD",
    "kd_dmm": "KD+DMM",
    "bedkd": "DMM+AKD",
}
LOSS_NAMES = {"hard": "L_hard", "hard + soft": "L_hard + L_soft"}


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


def table2(records: pd.DataFrame) -> pd.DataFrame:
    """ASR and CACC (percent) of BeDKD and its parts, averaged over seeds (section 4.3).

    Rows: dataset, defence; columns: (attack, ASR or CACC). Only data sets with ablations.
    """
    ablated = records[records.defence == "kd"].dataset.unique()
    rows = records[records.defence.isin(ABLATION_NAMES) & records.dataset.isin(ablated)]
    rows = rows[rows.attack != "none"]
    means = rows.groupby(["dataset", "defence", "attack"], sort=False)[["asr", "cacc"]].mean()
    wide = means.unstack("attack").swaplevel(axis=1)
    columns = [(a, m) for a in ATTACK_NAMES for m in ("asr", "cacc") if (a, m) in wide.columns]
    order = [(d, part) for d in ablated for part in ABLATION_NAMES if (d, part) in wide.index]
    table = wide.loc[order, columns]
    index = [(dataset, ABLATION_NAMES[part]) for dataset, part in order]
    table.index = pd.MultiIndex.from_tuples(index, names=["Dataset", "Defence"])
    table.columns = pd.MultiIndex.from_tuples([(ATTACK_NAMES[a], m.upper()) for a, m in columns])
    return table


def table3(losses: pd.DataFrame) -> pd.DataFrame:
    """FAR and FRR (percent) of the DMM with and without L_soft, averaged over seeds.

    On the test sets, as in the paper, and on D*. Rows: dataset, attack, loss.
    """
    names = {"far_test": "FAR", "frr_test": "FRR", "far_train": "FAR D*", "frr_train": "FRR D*"}
    table = losses.groupby(["dataset", "attack", "loss"], sort=False)[list(names)].mean()
    index = [(d, ATTACK_NAMES.get(a, a), LOSS_NAMES[loss]) for d, a, loss in table.index]
    table.index = pd.MultiIndex.from_tuples(index, names=["Dataset", "Attack", "Loss"])
    return table.rename(columns=names)


def costs(records: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds and largest peak memory (MiB) of each defence, by data set.

    `seconds`: to make it; `seconds_inference`: to classify the test sets with it.
    """
    rows = records[records.defence.isin(DEFENCE_NAMES | ABLATION_NAMES)]
    names = {"seconds": "mean", "seconds_inference": "mean", "peak_memory_mb": "max"}
    rows = rows.reindex(columns=[*rows.columns, *(set(names) - set(rows.columns))])
    table = rows.groupby(["dataset", "defence"], sort=False).agg(names)
    shown = DEFENCE_NAMES | {k: v for k, v in ABLATION_NAMES.items() if k not in DEFENCE_NAMES}
    order = [(d, k) for d in table.index.levels[0] for k in shown if (d, k) in table.index]
    table = table.loc[order]
    index = [(dataset, shown[defence]) for dataset, defence in order]
    table.index = pd.MultiIndex.from_tuples(index, names=["Dataset", "Defence"])
    labels = {"seconds": "Seconds", "seconds_inference": "Seconds on the tests"}
    return table.rename(columns=labels | {"peak_memory_mb": "Peak memory (MiB)"})


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
