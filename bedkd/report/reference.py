"""Keep what was measured on real data: `bedkd reference PROFILE` fills outputs/reference/."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from bedkd.core.errors import BedkdError
from bedkd.core.files import write_text
from bedkd.report.loading import Batch, open_batch
from bedkd.runs.plan import with_hard_loss
from bedkd.runs.profiles import PROJECT, Profile
from bedkd.runs.records import collect
from bedkd.runs.sweeps import is_settled

WIDGET = "application/vnd.jupyter.widget-view+json"
MAX_BYTES = 1_000_000  # a code host shows no larger notebook


def keep_reference(profile: Profile, overrides: dict) -> Path:
    """Copy records, tables, figures and executed notebooks of a finished profile.

    Raises BedkdError: the profile is not finished, or a notebook is too large to show.
    """
    target = PROJECT / "outputs" / "reference"
    batch = open_batch(profile.path, overrides)
    check_finished(batch)
    records = [record | {"profile": profile.name} for record in list_records(batch)]
    collect(records, target / "records.jsonl")
    for kind in ("tables", "figures"):
        shutil.copytree(batch.folder / kind, target / kind / profile.name, dirs_exist_ok=True)
    for job in batch.jobs:
        name = f"{job.notebook}-{job.label.rsplit('-', 1)[0]}.ipynb"  # without the key
        kept = target / "notebooks" / profile.name / name
        keep_notebook(batch.job_file(job, "ipynb"), kept)
    return target


def check_finished(batch: Batch) -> None:
    """Raises BedkdError if a result is not there: what is kept must be whole."""
    for run, stage in (result for job in batch.jobs for result in job.results):
        if not is_settled(run, stage):
            raise BedkdError(
                f"{stage} of {run.folder(stage).name} is not done; run "
                f"`bedkd reproduce {batch.profile.name}` first"
            )


def list_records(batch: Batch) -> Iterator[dict]:
    """What the tables show: of each cell, and, with `study` and `value`, of each variation."""
    for run in batch.runs:
        for source, stage in batch.profile.results(run, batch.overrides):
            yield source.record(stage)
        studies = batch.profile.list_studies(run, batch.overrides)
        if "ablations" in studies:
            yield with_hard_loss(run).record("mepd") | {"study": "loss", "value": "hard"}
        if "tsne" in studies:
            yield run.record("tsne") | {"study": "tsne"}
    for study, points in batch.sweeps.items():
        for (value, point), stage in itertools.product(points, ("victim", "akd")):
            if record := point.record(stage):  # none where AKD diverged
                yield record | {"study": study, "value": value}


def keep_notebook(executed: Path, target: Path) -> None:
    """A copy without the paths and times that papermill notes."""
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    for part in (notebook, *notebook["cells"]):
        for name in ("papermill", "widgets", "execution"):
            part["metadata"].pop(name, None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":  # a progress bar is nothing without its widget
            cell["outputs"] = [o for o in cell["outputs"] if WIDGET not in o.get("data", {})]
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise BedkdError(f"{executed} has {len(text):,} bytes; a reference copy has at most 1 MB")
    write_text(target, text)
