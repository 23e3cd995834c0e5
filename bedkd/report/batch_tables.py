"""All tables of a batch, made from whatever is finished; a cell that is not says so."""

from bedkd.report.loading import Batch, list_sweeps, load_losses, load_records, load_sweep
from bedkd.report.tables import Table, make_table, select_ablations

OURS = ("bedkd_plus", "bedkd")
# sweeps that are a table of the paper
PAPER_SWEEPS = {"n_clean": "table4", "victim": "table5"}


def make_tables(batch: Batch) -> dict[str, Table]:
    """`table1`, `robustness`, then whichever of `table2` to `table5` the profile has, `detection`,
    and `sweep_NAME` for each other sweep."""
    records, sweeps = load_records(batch), list_sweeps(batch)
    listed = {"none", *OURS, "never_poisoned", *batch.profile.list_defences(batch.overrides)}
    rows = {"table1": records[records.defence.isin(listed)]}
    if len(attacked := rows["table1"][rows["table1"].attack != "none"]):
        rows["robustness"] = attacked
    if len(parts := select_ablations(records)):
        rows |= {"table2": parts, "table3": load_losses(batch)}
    for study in (name for name in PAPER_SWEEPS if name in sweeps):
        stages = ("victim", "akd") if study == "victim" else ("akd",)
        rows[PAPER_SWEEPS[study]] = load_sweep(batch, study, stages)
    rows["detection"] = records[records.defence.isin(OURS)]
    for study in (name for name in sweeps if name not in PAPER_SWEEPS):
        rows[f"sweep_{study}"] = load_sweep(batch, study)
    return {name: make_table(name, part) for name, part in rows.items()}
