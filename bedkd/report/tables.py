"""Tables from records: cells laid out as in the paper, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bedkd.core.files import write_text
from bedkd.report.published import TOLERANCE, compare, describe_difference
from bedkd.report.table_cells import AVERAGE, average_attacks, make_cells

ATTACK_NAMES = {
    "none": "Clean",
    "badwords": "BadWords",
    "addsent": "AddSent",
    "synbkd": "SynBkd",
    AVERAGE: "Average",
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
METRIC_NAMES = {
    "asr": "ASR",
    "cacc": "CACC",
    "far_test": "FAR",
    "frr_test": "FRR",
    "far_train": "FAR D*",
    "frr_train": "FRR D*",
    "n_flagged": "Flagged rows",
    "poison_few_purity": "Purity of D_p^few*",
}
LOSS_NAMES = {"hard": "L_hard", "hard + soft": "L_hard + L_soft"}
NAMES = {
    "attack": ATTACK_NAMES,
    "defence": DEFENCE_NAMES,
    "metric": METRIC_NAMES,
    "loss": LOSS_NAMES,
}
MARKS = {"yes": "✓", "unclear": "~", "no": "✗"}
HEADS = {"dataset": "Dataset", "n_clean": "n_c", "n_poison": "n_p"}


@dataclass(frozen=True)
class Layout:
    """How a table lies on the page: which fields of a cell are its rows, which its columns."""

    title: str
    index: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("asr", "cacc")
    defences: dict[str, str] | None = None  # other names for them

    def names(self, field: str) -> dict[str, str]:
        return self.defences if field == "defence" and self.defences else NAMES.get(field, {})


LAYOUTS = {
    "table1": Layout(
        "ASR and CACC (%) of each defence", ("dataset", "attack"), ("defence", "metric")
    ),
    "table2": Layout(
        "ASR and CACC (%) of the parts",
        ("dataset", "defence"),
        ("attack", "metric"),
        defences=ABLATION_NAMES,
    ),
    "table3": Layout(
        "FAR and FRR (%) of the DMM by its losses",
        ("dataset", "attack", "loss"),
        ("metric",),
        ("far_test", "frr_test", "far_train", "frr_train"),
    ),
    "table4": Layout(
        "ASR and CACC (%) by the clean rows of each class, n_c",
        ("dataset", "n_clean"),
        ("attack", "metric"),
    ),
    "table5": Layout(
        "ASR and CACC (%) of BeDKD by victim model",
        ("dataset", "attack", "model"),
        ("defence", "metric"),
    ),
    "detection": Layout(
        "How well MEPD finds the poison at the run's γ (%)",
        ("dataset", "attack"),
        ("metric",),
        ("far_test", "frr_test", "far_train", "frr_train", "n_flagged", "poison_few_purity"),
    ),
}


def sweep_layout(study: str) -> Layout:
    """The table of a sweep that the paper does not have."""
    return Layout(f"ASR and CACC (%) of BeDKD by {study}", ("dataset", study), ("attack", "metric"))


@dataclass(frozen=True)
class Table:
    """cells: as `cells.make_cells`, with `published`, `difference`, `agreement` where the paper has
    the table."""

    layout: Layout
    cells: pd.DataFrame
    caption: str

    def lay_out(self, text: Callable[[pd.Series], object]) -> pd.DataFrame:
        """`text(cell)` of every cell in the table's form, with the names of the paper."""
        layout, cells = self.layout, self.cells
        fields = [*layout.index, *layout.columns]
        shown = cells[fields].copy()
        for field in fields:
            shown[field] = order(cells[field], layout.names(field))
        shown["text"] = [text(cell) for _, cell in cells.iterrows()]
        rows, columns = list(layout.index), list(layout.columns)
        wide = shown.pivot(index=rows, columns=columns, values="text")
        wide = wide.sort_index(axis=0).sort_index(axis=1)
        wide.index = rename(wide.index, layout, layout.index)
        wide.columns = rename(wide.columns, layout, layout.columns)
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
        flat = self.numbers()
        if isinstance(flat.columns, pd.MultiIndex):
            flat.columns = [" ".join(column) for column in flat.columns]
        write_text(path.with_suffix(".csv"), flat.round(4).to_csv())
        cells = self.cells.assign(sources=[" ".join(sources) for sources in self.cells.sources])
        write_text(path.with_name(f"{path.name}_cells.csv"), cells.round(4).to_csv(index=False))
        write_text(path.with_suffix(".md"), f"{self.caption}\n\n{to_markdown(self.texts())}\n")
        stacked = self.lay_out(stack_cell).fillna("--")
        write_text(path.with_suffix(".tex"), to_latex(stacked, self.caption))


def order(values: pd.Series, names: dict[str, str]) -> pd.Categorical:
    """Sorted as in `names`; what it does not know comes in the order of appearance."""
    known = [name for name in names if name in set(values)]
    return pd.Categorical(values, [*known, *(v for v in values.unique() if v not in names)])


def rename(index: pd.Index, layout: Layout, fields: tuple[str, ...]) -> pd.Index:
    heads = [HEADS.get(field, field.replace("_", " ").capitalize()) for field in fields]
    lists = [layout.names(field) for field in fields]
    if len(fields) == 1:
        return pd.Index([lists[0].get(value, value) for value in index], name=heads[0])
    rows = [[n.get(v, v) for n, v in zip(lists, key, strict=True)] for key in index]
    return pd.MultiIndex.from_tuples(map(tuple, rows), names=heads)


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


def to_markdown(texts: pd.DataFrame) -> str:
    flat = texts.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        flat.columns = [" ".join(column) for column in flat.columns]
    aligned = ["left"] * flat.index.nlevels + ["right"] * len(flat.columns)
    shown = flat.reset_index()
    return shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "%_#&${}"},
    "^": r"\^{}",
    "±": r"$\pm$",
    "✓": r"\checkmark",
    "✗": r"$\times$",
    "~": r"$\sim$",
    "–": "--",
    "γ": r"$\gamma$",
}


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def stack_cell(cell: pd.Series) -> str:
    """What `describe_cell` says, in lines: ours, the paper's, the difference with its mark."""
    lines = describe_cell(cell).removesuffix(")").replace(" (", " / ").split(" / ")
    ours, *others = map(escape_latex, lines)
    if not others:
        return ours
    small = (rf"\scriptsize {line}".replace("-", "$-$") for line in others)
    return r"\begin{tabular}[t]{@{}c@{}}" + r"\\".join([ours, *small]) + r"\end{tabular}"


def to_latex(stacked: pd.DataFrame, caption: str) -> str:
    """Across both columns of a page, made smaller only if it is wider. stacked: see `stack_cell`.

    It needs the packages booktabs, multirow, amssymb and graphicx.
    """
    n_index, n_columns = stacked.index.nlevels, len(stacked.columns)
    tabular = (
        stacked.rename(index=escape_names, columns=escape_names)
        .rename_axis(index=escape_names, columns=escape_names)
        .to_latex(
            escape=False, multicolumn_format="c", column_format="l" * n_index + "c" * n_columns
        )
    )
    tabular = re.sub(r"\\cline{[-\d]+}\n\\bottomrule", r"\\bottomrule", tabular)
    tabular = tabular.replace(r"\cline", r"\cmidrule")
    return (
        "% needs booktabs, multirow, amssymb, graphicx\n"
        "\\begin{table*}\n\\centering\n\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{escape_latex(caption)}}}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"{tabular}}}\n\\end{{table*}}\n"
    )


def escape_names(name: object) -> str:
    return escape_latex(str(name))


def make_table(name: str, records: pd.DataFrame, layout: Layout | None = None) -> Table:
    """The table `name` of `records`, held against the paper's where it has one.

    records: the layout's fields and metrics, seed, state, sources (see `cells.make_cells`), and
    model, n_train, n_test, device, precision for the caption.
    """
    layout = layout or LAYOUTS[name]
    # where nothing is finished yet there is no record to bring the columns along
    needed = (*layout.metrics, "n_train", "n_test", "device", "precision")
    records = records.reindex(columns=[*records, *(n for n in needed if n not in records)])
    rows = pd.concat([records, average_attacks(records)]) if name == "table1" else records
    fields = [f for f in (*layout.index, *layout.columns) if f != "metric"]
    cells = make_cells(rows, fields, layout.metrics)
    caption = f"{layout.title}. {describe_source(records)}"
    if name in LAYOUTS and name.startswith("table"):
        cells = compare(cells, name)
        caption += (
            " Ours (± 95% interval over the seeds) / the paper's (difference; ✓: within "
            f"{TOLERANCE:g} points, ~: farther, but within our interval, ✗: neither). "
            f"{describe_difference(records, name)}"
        )
    return Table(layout, cells, caption.strip())


def select_ablations(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of Table 2: only attacked ones of data sets with ablations."""
    ablated = records[records.defence == "kd"].dataset.unique()
    rows = records[records.defence.isin(ABLATION_NAMES) & records.dataset.isin(ablated)]
    return rows[rows.attack != "none"]


def costs(records: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds and largest peak memory (MiB) of each defence, by data set.

    `seconds`: to make it; `seconds_inference`: to classify the test sets with it.
    """
    rows = records[records.defence.isin(DEFENCE_NAMES | ABLATION_NAMES) & (records.state == "ok")]
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


def describe_source(records: pd.DataFrame) -> str:
    """One sentence for the caption: model, seeds, rows, device."""
    done = records[records.state == "ok"]
    if not len(done):
        return "No run is finished."
    seeds = ", ".join(map(str, sorted(records.seed.unique())))
    sizes = "; ".join(
        f"{r.dataset} {r.n_train:,.0f} / {r.n_test:,.0f}"
        for r in done.dropna(subset="n_train").drop_duplicates("dataset").itertuples()
    )
    models, devices, kinds = (
        ", ".join(map(str, done[name].dropna().unique()))
        for name in ("model", "device", "precision")
    )
    noun = "Victims" if "," in models else "Victim"
    return (
        f"{noun} {models}; seeds {seeds}; train / test rows: {sizes}; computed on {devices} in "
        f"{kinds}."
    )


def save_costs(table: pd.DataFrame, path: Path, source: str) -> None:
    """`path` with .csv and .md."""
    write_text(path.with_suffix(".csv"), table.round(2).to_csv())
    shown = table.map(lambda value: "–" if pd.isna(value) else f"{value:.1f}")
    write_text(path.with_suffix(".md"), f"Seconds and memory. {source}\n\n{to_markdown(shown)}\n")
