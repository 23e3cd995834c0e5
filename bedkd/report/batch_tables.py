"""All tables of a batch, made from whatever is finished; a cell that is not says so."""

from __future__ import annotations

import pandas as pd

from bedkd.report.loading import Batch, list_sweeps, load_losses, load_records, load_sweep
from bedkd.report.tables import DEFENCE_NAMES, Table, make_table, select_ablations, sweep_layout

# sweeps that are a table of the paper
PAPER_SWEEPS = {"n_clean": "table4", "victim": "table5"}


def make_tables(batch: Batch) -> dict[str, Table]:
    """`table1`, then whichever of `table2` to `table5` the profile has, `detection`, and
    `sweep_NAME` for each other sweep."""
    records = load_records(batch)
    rivals = records[records.defence.isin(DEFENCE_NAMES)]
    listed = {"none", "bedkd", *batch.profile.list_defences(batch.overrides)}
    tables = {"table1": make_table("table1", rivals[rivals.defence.isin(listed)])}
    if len(parts := select_ablations(records)):
        tables["table2"] = make_table("table2", parts)
        tables["table3"] = make_table("table3", load_losses(batch))
    sweeps = list_sweeps(batch)
    for study in (name for name in PAPER_SWEEPS if name in sweeps):
        stages = ("victim", "akd") if study == "victim" else ("akd",)
        tables[PAPER_SWEEPS[study]] = make_table(
            PAPER_SWEEPS[study], load_sweep(batch, study, stages)
        )
    tables["detection"] = make_table("detection", records[records.defence == "bedkd"])
    for study in (name for name in sweeps if name not in PAPER_SWEEPS):
        rows = load_sweep(batch, study)
        tables[f"sweep_{study}"] = make_table(f"sweep_{study}", rows, sweep_layout(study))
    return tables


def load_points(batch: Batch) -> pd.DataFrame:
    """Every sweep's points for the sensitivity figure: study, value, attack, seed, asr, cacc."""
    parts = [
        load_sweep(batch, study)
        .assign(study=study)
        .rename(columns={study: "value"})
        .astype({"value": str})
        for study in list_sweeps(batch)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
