"""Tables from records: cells laid out as in the paper, as CSV, Markdown and LaTeX."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bedkd.core.files import write_text
from bedkd.report.latex import to_latex
from bedkd.report.layouts import (
    ABLATION_NAMES,
    DEFENCE_NAMES,
    NAMES,
    Layout,
    find_layout,
    head_of,
)
from bedkd.report.loading import Batch, load_losses, load_records, load_sweep
from bedkd.report.published import (
    TOLERANCE,
    compare,
    describe_difference,
    describe_generated,
    load_published,
)
from bedkd.report.table_cells import average_attacks, make_cells

MARKS = {"yes": "✓", "unclear": "~", "no": "✗"}
OURS = ("bedkd_plus", "bedkd")
AVERAGED = ("table1", "robustness")  # those with a row Average
HELD_AGAINST = (
    "Ours (± 95% interval over the seeds) / the paper's (difference; ✓: within "
    f"{TOLERANCE:g} points, ~: farther, but within our interval, ✗: neither)."
)
COUNTS = ("n_test_triggered", "n_test_triggered_target", "n_target_train")
COSTS = {
    "Seconds": ("seconds", "mean"),
    "Seconds on the tests": ("seconds_inference", "mean"),
    "Peak memory (MiB)": ("peak_memory_mb", "max"),
}


@dataclass(frozen=True)
class Table:
    """cells: as `table_cells.make_cells`, with `published`, `difference`, `agreement` where the
    paper has the table."""

    layout: Layout
    cells: pd.DataFrame
    caption: str

    def lay_out(self, text: Callable[[pd.Series], object]) -> pd.DataFrame:
        """`text(cell)` of every cell in the table's form, with the names of the paper."""
        layout, cells = self.layout, self.cells
        rows, columns = (list(map(head_of, f)) for f in (layout.index, layout.columns))
        shown = pd.DataFrame({"text": [text(cell) for _, cell in cells.iterrows()]})
        for field in (*layout.index, *layout.columns):
            shown[head_of(field)] = sort_names(cells[field], layout.names.get(field, {}))
        wide = shown.pivot(index=rows, columns=columns, values="text")
        # not `sort_index`, which takes some indices of categories for sorted
        wide = wide.loc[list_sorted(shown, rows), list_sorted(shown, columns)]
        wide.columns = wide.columns.astype(object)  # a category takes no other column beside it
        return wide

    def numbers(self) -> pd.DataFrame:
        """Our means; NaN where there is none."""
        return self.lay_out(lambda cell: cell.value).astype(float)

    def texts(self) -> pd.DataFrame:
        """Ours ± interval / the paper's (difference and mark)."""
        return self.lay_out(describe_cell).fillna("–")

    def save(self, path: Path) -> None:
        """`path` with .csv (our numbers), .md and .tex (with the paper's), _cells.csv (one row a
        cell, with where it comes from)."""
        write_text(path.with_suffix(".csv"), flatten(self.numbers()).round(4).to_csv())
        cells = self.cells.assign(sources=self.cells.sources.map(" ".join))
        write_text(path.with_name(f"{path.name}_cells.csv"), cells.round(4).to_csv(index=False))
        write_text(path.with_suffix(".md"), f"{self.caption}\n\n{to_markdown(self.texts())}\n")
        write_text(path.with_suffix(".tex"), to_latex(self.texts(), self.caption))


def list_sorted(shown: pd.DataFrame, fields: list[str]) -> list:
    """The values of categorical fields, each once, in the order of their categories."""
    found = shown[fields].drop_duplicates().sort_values(fields)
    return list(found.itertuples(index=False, name=None) if len(fields) > 1 else found[fields[0]])


def sort_names(values: pd.Series, names: dict[str, str]) -> pd.Categorical:
    """Renamed and sorted as in `names`; what it does not know, in the order of appearance."""
    shown = values.map(lambda value: names.get(value, value))
    return pd.Categorical(shown, list(dict.fromkeys([*names.values(), *shown])))


def describe_cell(cell: pd.Series) -> str:
    """Such as `0.23 ± 0.41 / 0.00 (+0.23 ✓)`, `–` (nothing to count) or `failed`."""
    if cell.state != "ok":
        return cell.state
    if pd.isna(cell.value):
        return "–"
    text = f"{cell.value:.2f}" + ("" if pd.isna(cell.half_width) else f" ± {cell.half_width:.2f}")
    if pd.isna(cell.get("published")):
        return text
    return f"{text} / {cell.published:.2f} ({cell.difference:+.2f} {MARKS[cell.agreement]})"


def flatten(wide: pd.DataFrame) -> pd.DataFrame:
    """One line of heads."""
    is_nested = wide.columns.nlevels > 1
    return wide.set_axis(wide.columns.map(" ".join), axis=1) if is_nested else wide


def to_markdown(texts: pd.DataFrame) -> str:
    aligned = ["left"] * texts.index.nlevels + ["right"] * len(texts.columns)
    shown = flatten(texts).reset_index()
    return shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)


def add_columns(records: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Where nothing is finished yet there is no record to bring the columns along."""
    return records.reindex(columns=records.columns.union(names, sort=False))


def make_table(name: str, records: pd.DataFrame) -> Table:
    """The table `name` (see `layouts.find_layout`), held against the paper's where it has one.

    records: the layout's fields and metrics, seed, state, sources (see `table_cells.make_cells`),
    and model, n_train, n_test, device, precision, for `robustness` COUNTS, for the caption.
    """
    layout = find_layout(name)
    about = ["n_train", "n_test", "device", "precision", *COUNTS]
    rows = records = add_columns(records, [*layout.metrics, *about])
    if name in AVERAGED:
        rows = pd.concat([records, average_attacks(records, layout.metrics)])
    fields = [f for f in (*layout.index, *layout.columns) if f != "metric"]
    cells = make_cells(rows, fields, layout.metrics)
    said = [f"{layout.title}.", layout.note, describe_source(records)]
    if name == "robustness":
        said.append(describe_triggered(records))
    if name == "table1":
        said.append(describe_newer(records))
    read = "± 95% interval over the seeds." if cells.half_width.notna().any() else ""
    if name.startswith("table"):
        cells = compare(cells, name)
        if cells.published.notna().any():
            read = f"{HELD_AGAINST} {describe_difference(records, name)}"
        read = f"{read} {describe_generated(records)}"
    caption = " ".join(" ".join([*said, read]).split())
    return Table(layout, cells, caption)


def describe_source(records: pd.DataFrame) -> str:
    """One sentence for the caption: model, seeds, rows, device."""
    done = records[records.state == "ok"]
    if not len(done):
        return "No run is finished."
    models, devices, kinds = (
        ", ".join(map(str, done[name].dropna().unique()))
        for name in ("model", "device", "precision")
    )
    sizes = "; ".join(
        f"{r.dataset} {r.n_train:,.0f} / {r.n_test:,.0f}"
        for r in done.dropna(subset="n_train").drop_duplicates("dataset").itertuples()
    )
    return (
        f"Victim{'s' * (',' in models)} {models}; "
        f"seeds {', '.join(map(str, sorted(records.seed.unique())))}; "
        f"train / test rows: {sizes}; computed on {devices} in {kinds}."
    )


def describe_triggered(records: pd.DataFrame) -> str:
    """One sentence for the caption: how many rows were triggered, and which are not test rows."""
    done = records[(records.state == "ok") & (records.n_test_triggered > 0)]
    done = done.drop_duplicates(["dataset", "attack", "seed"])
    sizes = [
        f"{dataset} {span(part.n_test_triggered)} + {span(part.n_test_triggered_target)}"
        for dataset, part in done.groupby("dataset", sort=False)
    ]
    lent = [
        f"{dataset}, {NAMES['attack'].get(attack, attack)}: {span(part.n_target_train)}"
        for (dataset, attack), part in done[done.n_target_train > 0].groupby(["dataset", "attack"])
    ]
    known = f"Triggered rows, of the other classes + of the target class: {'; '.join(sizes)}"
    own = f"; of the latter, rows of D* where no test row has a paraphrase ({'; '.join(lent)})"
    return f"{known}{own * bool(lent)}." if sizes else ""


def span(counts: pd.Series) -> str:
    """`285`, or `285–290`."""
    return "–".join(f"{n:,.0f}" for n in sorted({counts.min(), counts.max()}))


def describe_newer(records: pd.DataFrame) -> str:
    """One sentence for the caption of Table 1: the columns that the paper's does not have."""
    newer = set(records.defence) - set(load_published("table1").defence)
    named = ", ".join(title for name, title in DEFENCE_NAMES.items() if name in newer)
    return f"Not in the paper: {named}." if named else ""


def select_ablations(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of Table 2: only attacked ones of data sets with ablations."""
    ablated = records[records.defence == "kd"].dataset.unique()
    rows = records[records.defence.isin(ABLATION_NAMES) & records.dataset.isin(ablated)]
    return rows[rows.attack != "none"]


def costs(records: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds and largest peak memory (MiB) of each defence, by data set.

    `seconds`: to make it; `seconds_inference`: to classify the test sets with it.
    """
    names = DEFENCE_NAMES | ABLATION_NAMES | DEFENCE_NAMES  # Table 1's order, and names, first
    is_made = records.defence.isin(names) & (records.defence != "never_poisoned")  # a yardstick
    rows = records[is_made & (records.state == "ok")]
    rows = add_columns(rows, [column for column, _ in COSTS.values()])
    keys = {"Dataset": sort_names(rows.dataset, {}), "Defence": sort_names(rows.defence, names)}
    return rows.assign(**keys).groupby(list(keys), observed=True).agg(**COSTS)


def describe_company(records: pd.DataFrame) -> str:
    """One sentence for the caption: how many results were made at the same time, at most and to a
    second, for what shares a device takes longer."""
    done = add_columns(records, ["key", "started_at", "seconds", "seconds_akd", "seconds_finding"])
    done = done[done.state == "ok"].dropna(subset=["started_at", "seconds"])
    done = done.drop_duplicates("key")
    if not len(done):
        return ""
    # of the record's own stage, without those before it
    own = done.seconds_akd.fillna(done.seconds - done.seconds_finding.fillna(0)).astype(float)
    begun = pd.to_datetime(done.started_at)
    times = pd.concat([begun, begun + pd.to_timedelta(own, unit="s")])
    changes = pd.Series([1] * len(begun) + [-1] * len(begun), times.to_numpy())
    n = changes.sort_index(kind="stable").cumsum().max()
    return f"About {n} results were made at the same time." if n > 1 else ""


def save_costs(table: pd.DataFrame, path: Path, source: str) -> None:
    """`path` with .csv and .md."""
    write_text(path.with_suffix(".csv"), table.round(2).to_csv())
    shown = table.map(lambda value: "–" if pd.isna(value) else f"{value:.1f}")
    write_text(path.with_suffix(".md"), f"Seconds and memory. {source}\n\n{to_markdown(shown)}\n")


def make_tables(batch: Batch) -> dict[str, Table]:
    """Of whatever is finished: `table1`, `robustness`, then whichever of `table2` to `table5` the
    profile has, `detection`, and `sweep_NAME` for each other sweep."""
    records, profile = load_records(batch), batch.profile
    listed = {"none", *OURS, "never_poisoned", *profile.list_defences(batch.overrides)}
    rows = {"table1": records[records.defence.isin(listed)]}
    if len(attacked := rows["table1"][rows["table1"].attack != "none"]):
        rows["robustness"] = attacked
    if len(parts := select_ablations(records)):
        rows |= {"table2": parts, "table3": load_losses(batch)}
    if "n_clean" in batch.sweeps:
        rows["table4"] = load_sweep(batch, "n_clean")
    if "victim" in batch.sweeps:
        rows["table5"] = load_sweep(batch, "victim", ("victim", "akd"))
    rows["detection"] = records[records.defence.isin(OURS)]
    for study in (name for name in batch.sweeps if name not in ("n_clean", "victim")):
        rows[f"sweep_{study}"] = load_sweep(batch, study)
    return {name: make_table(name, part) for name, part in rows.items()}
