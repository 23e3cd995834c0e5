"""`outputs/<profile>/report.html`: all tables and figures in one file that needs no server.

Every number is a link to what it was computed from: records, executed notebooks, parameters, seed,
package versions, commit, device, seconds.
"""

import base64
import itertools
import re
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from bedkd.core.files import write_text
from bedkd.report.layouts import head_of
from bedkd.report.loading import Batch, load_records, open_batch
from bedkd.report.overview import compare_cells, describe_scope, describe_verdict
from bedkd.report.tables import Table, describe_cell, make_tables
from bedkd.runs.plan import Job
from bedkd.runs.records import read_record
from bedkd.runs.sweeps import is_settled

FIGURES = {
    "figure3": "Figure 3: ASR (dashed) and CACC (solid) over the AKD cycles, by n_p",
    "figure4": "Figure 4: FAR and FRR over γ, on the test sets",
    "figure4_train": "Figure 4 on D*: FAR and FRR over γ",
    "figure5": "Figure 5: t-SNE of the features, before and after BeDKD",
    "cycles": "ASR and CACC over the AKD cycles, every cell",
    "cycles_plus": "What BeDKD+ forgets, cycle by cycle: PACC, ASR and the target class's LFR",
    "tornado": "What moves most: smallest to largest mean over the seeds; ✗: AKD diverged",
    "curves": "One parameter: means over the seeds, 95% intervals; dots are seeds, the large mark "
    "the profile's own value",
    "heat": "Two parameters: means over the seeds; framed: the profile's own, ✗: AKD diverged",
}
OVERVIEW = {"overview": "Every attacked cell before and after"}  # above all else
SHOWN_FIRST = ("seed", "model", "device", "precision", "threads", "seconds", "commit", "started_at")


def write_report(profile: str, overrides: dict | None = None) -> Path:
    """Make the report of whatever is finished. Returns its path."""
    batch = open_batch(profile, overrides)
    tables, cells = make_tables(batch), compare_cells(load_records(batch))
    failures = list_failures(batch)
    done = [all(is_settled(run, stage) for run, stage in job.results) for job in batch.jobs]
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, autoescape=True, trim_blocks=True)
    text = page.get_template("page.html.j2").render(
        name=batch.profile.name,
        about=batch.profile.about,
        overrides=overrides or {},
        counts={"done": sum(done), "failed": len(failures), "all": len(done)},
        failures=failures,
        tables={name: describe_table(name, table) for name, table in tables.items()},
        verdict=describe_verdict(cells),
        scope=describe_scope(cells),
        overview=list_figures(batch.folder / "figures", OVERVIEW),
        figures=list_figures(batch.folder / "figures", FIGURES),
        records=list_records(batch, tables),
    )
    write_text(batch.folder / "report.html", text)
    return batch.folder / "report.html"


def list_failures(batch: Batch) -> list[dict]:
    """What failed, why, and the executed notebook with the traceback."""
    return [
        {"job": job.name, "message": path.read_text("utf-8").strip(), "notebook": link(batch, job)}
        for job in batch.jobs
        if (path := batch.job_file(job, "failed")).exists()
    ]


def link(batch: Batch, job: Job) -> str:
    """The executed notebook, from where the report lies."""
    return batch.job_file(job, "ipynb").relative_to(batch.folder).as_posix()


def describe_table(name: str, table: Table) -> dict:
    """Head rows of (text, columns it spans), body rows of names and cells, and `starts`: the
    columns that a group begins with."""
    numbers = table.lay_out(lambda cell: cell.name)  # the cell's own row
    columns = [c if isinstance(c, tuple) else (c,) for c in numbers.columns]
    head = []
    for level in range(1, len(columns[0]) + 1):
        groups = itertools.groupby(columns, key=lambda column: column[:level])
        head.append([(key[-1], len(list(group))) for key, group in groups])
    body = []
    for names, *row in numbers.itertuples(name=None):
        cells = [None if pd.isna(i) else describe_number(table.cells.loc[int(i)]) for i in row]
        body.append({"names": names, "cells": cells})
    spans = [span for _, span in head[0]] if len(head) > 1 else []
    return {
        "starts": list(itertools.accumulate([0, *spans]))[: len(spans)],
        "title": name_table(name),
        "caption": table.caption,
        "index": list(numbers.index.names),
        "head": head,
        "body": body,
    }


def name_table(name: str) -> str:
    """`Table 1`, `Robustness`, `By λ`."""
    if name.startswith("sweep_"):
        return f"By {head_of(name.removeprefix('sweep_'))}"
    return re.sub(r"(\D)(\d)$", r"\1 \2", name).capitalize()


def describe_number(cell: pd.Series) -> dict:
    """In lines, so that a column is no wider than one number: ours, the interval, the paper's."""
    own, _, theirs = describe_cell(cell).partition(" / ")
    own, _, half_width = own.partition(" ± ")
    paper, _, difference = theirs.removesuffix(")").partition(" (")
    kind = cell.state if cell.state != "ok" else f"agrees-{cell.get('agreement')}"
    lines = {"own": own, "half_width": half_width, "paper": paper, "difference": difference}
    return lines | {"kind": kind, "links": cell.sources}


def list_figures(folder: Path, titles: dict[str, str]) -> list[dict]:
    """Those that are there, as data that the page carries itself; what is behind the name in a
    file's, such as the cell, is in the title too."""
    figures = []
    for name, title in titles.items():
        head, colon, rest = title.partition(":")
        for path in sorted([*folder.glob(f"{name}.png"), *folder.glob(f"{name}-*.png")]):
            own = path.stem.removeprefix(name).replace("-", ", ", 1)
            data = base64.b64encode(path.read_bytes()).decode()
            figures.append({"name": path.stem, "title": head + own + colon + rest, "data": data})
    return figures


def list_records(batch: Batch, tables: dict[str, Table]) -> list[dict]:
    """Every result that a table shows, once, in the order of their names."""
    jobs = {f"{path.parent.name}/{path.name}": job for path, job in batch.makers.items()}
    named = {source for t in tables.values() for sources in t.cells.sources for source in sources}
    rows = []
    for source in sorted(named):
        record = read_record(batch.runs[0].root / "runs" / source) or {}
        job = jobs.get(source)
        failed = batch.find_failure(job) if job and not record else None
        row = {"source": source, "record": record, "failed": failed and failed.name}
        row["first"] = {name: record[name] for name in SHOWN_FIRST if name in record}
        row["notebook"] = link(batch, failed or job) if job else None
        rows.append(row)
    return rows
