"""Keep what was measured: `bedkd reference PROFILE` fills outputs/reference/."""

import itertools
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bedkd.core.errors import BedkdError
from bedkd.core.files import write_text
from bedkd.report.campaign import check_campaign, find_machine, lay_out, place_run, read_campaign
from bedkd.report.figures import set_style
from bedkd.report.loading import Batch, load_records, open_batch
from bedkd.report.paper_figures import draw_all
from bedkd.report.sensitivity import load_points, save_ranking, select_studies
from bedkd.report.tables import costs, describe_company, describe_source, make_tables, save_costs
from bedkd.runs.folders import Run
from bedkd.runs.plan import with_hard_loss
from bedkd.runs.profiles import PROJECT, Profile
from bedkd.runs.records import collect
from bedkd.runs.sweeps import is_settled

WIDGET = "application/vnd.jupyter.widget-view+json"
MAX_BYTES = 1_000_000  # a code host shows no larger notebook
MISSING = "missing.md"
POINT = ("victim", "akd")  # of a sweep


def keep_reference(profile: Profile, overrides: dict, source: Path | None = None) -> str:
    """Put records, tables, figures and executed notebooks of what is finished of a profile in place
    of those that were kept of it. Returns what was done, in a sentence.

    `source`: records made elsewhere, instead of the results here (see `campaign.read_campaign`).
    With them come tables and the figures that can be drawn: from run folders most, from records
    alone those that need no more.

    Raises BedkdError: nothing is finished, a record is refused (see `campaign`), or a notebook is
    too large to show.
    """
    target = PROJECT / "outputs" / "reference"
    if source is None:
        return keep(open_batch(profile.path, overrides), target)
    found = read_campaign(source)
    compute, libraries = find_machine(record for record, _ in found)
    with tempfile.TemporaryDirectory() as root:
        place = partial(place_run, root=Path(root), libraries=libraries)
        batch = open_batch(profile.path, overrides | compute, place)
        lay_out(found, batch)
        return keep(batch, target, is_here=False)


def keep(batch: Batch, target: Path, is_here: bool = True) -> str:
    check_campaign(batch)
    name, shown = batch.profile.name, list(list_shown(batch))
    records = [
        record | labels | {"profile": name, "victim_key": run.key("victim")}
        for run, stage, labels in shown
        if is_varied(batch, labels.get("study")) and (record := run.record(stage))
    ]
    if not records:
        raise BedkdError(f"nothing of {name} is finished; run `bedkd reproduce {name}` first")
    missing = list_missing(batch, shown)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".") as scratch:
        new = Path(scratch)
        save_tables(batch, new / "tables")
        if missing:
            write_text(new / "tables" / MISSING, describe_missing(batch, missing, len(shown)))
        if is_here:
            keep_pictures(batch, new)
        else:
            set_style()  # which the notebooks set
            draw_all(batch, new / "figures")
        put_in_place(new, target, name)
    collect(records, target / "records.jsonl")
    kept = f"Kept in {target}: {len(records)} records of commit {records[0]['commit'][:9]}"
    n, page = sum(map(len, missing.values())), f"tables/{name}/{MISSING}"
    return f"{kept}; {n} missing, {page} has the commands that make them" if n else kept


def put_in_place(new: Path, target: Path, profile: str) -> None:
    """The folders in `new`, each instead of what was kept of the profile; notebooks that are no
    job's were kept by hand, and stay."""
    for kind in ("tables", "figures"):
        shutil.rmtree(target / kind / profile, ignore_errors=True)
    for path in (target / "notebooks" / profile).glob("0[1-8]*.ipynb"):
        path.unlink()
    for folder in new.iterdir():
        shutil.copytree(folder, target / folder.name / profile, dirs_exist_ok=True)


def list_shown(batch: Batch) -> Iterator[tuple[Run, str, dict]]:
    """The results that the tables show: of each cell, and, with `study` and `value`, of each
    variation."""
    for run in batch.runs:
        for source, stage in batch.profile.results(run, batch.overrides):
            yield source, stage, {}
        studies = batch.profile.list_studies(run, batch.overrides)
        if "ablations" in studies:
            yield with_hard_loss(run), "mepd", {"study": "loss", "value": "hard"}
        if "tsne" in studies:
            yield run, "tsne", {"study": "tsne"}
        for sweep in batch.profile.list_sweeps(run, batch.overrides):
            for base in batch.profile.sweep_runs(run):
                for (value, point), stage in itertools.product(sweep.points(base), POINT):
                    yield point, stage, {"study": sweep.name, "value": value}


def is_varied(batch: Batch, study: str | None) -> bool:
    """Whether a sweep has two finished values; one, the profile's own most often, is a record of
    the main grid once more. True of what is no sweep."""
    points = batch.sweeps.get(study or "")
    done = {str(value) for value, run in points or [] if is_settled(run, "akd")}
    return points is None or len(done) > 1


def save_tables(batch: Batch, folder: Path) -> None:
    """As `10_tables` does, but for sweeps that vary nothing yet: `missing.md` has them."""
    studies = {"table4": "n_clean", "table5": "victim"}
    for name, table in make_tables(batch).items():
        if is_varied(batch, studies.get(name, name.removeprefix("sweep_"))):
            table.save(folder / name)
    records = load_records(batch)
    source = f"{describe_source(records)} {describe_company(records)}".strip()
    save_costs(costs(records), folder / "costs", source)
    points = load_points(batch.profile, batch.runs, batch.overrides)
    if batch.profile.sweep_plus and len(select_studies(points, is_grid=False)):
        save_ranking(points, folder)


def keep_pictures(batch: Batch, target: Path) -> None:
    """Figures, and the executed notebooks of the jobs whose results are all there."""
    if (figures := batch.folder / "figures").is_dir():
        shutil.copytree(figures, target / "figures")
    for job in batch.jobs:
        executed = batch.job_file(job, "ipynb")
        if executed.exists() and all(is_settled(run, stage) for run, stage in job.results):
            kept = f"{job.notebook}-{job.label.rsplit('-', 1)[0]}.ipynb"  # without the key
            keep_notebook(executed, target / "notebooks" / kept)


def list_missing(batch: Batch, shown: list[tuple[Run, str, dict]]) -> dict[tuple, list[str]]:
    """Cell (dataset, attack, seed) to the names of its results that are not there, and `failed` if
    their job did. AKD that diverged is a result."""
    missing: dict[tuple, list[str]] = {}
    for run, stage, labels in shown:
        if not is_settled(run, stage):
            c = run.config
            name = {"victim": "victim", "akd": c.method}.get(stage, stage)
            name += f" ({labels['study']} {labels['value']})" if "value" in labels else ""
            name += " failed" if batch.state(run, stage) == "failed" else ""
            cell = (c.data.name, c.attack.name, c.seed)
            missing.setdefault(cell, []).append(name)
    return missing


def describe_missing(batch: Batch, missing: dict[tuple, list[str]], n_all: int) -> str:
    """A page with a command for each cell."""
    n = sum(map(len, missing.values()))
    rows = [
        f"| {dataset} {attack} seed {seed} | {', '.join(dict.fromkeys(names))} "
        f"| `{make_command(batch, dataset, attack, seed)}` |"
        for (dataset, attack, seed), names in missing.items()
    ]
    head = f"{n} of {n_all} results of `{batch.profile.name}` are missing."
    return "\n".join([head, "", "| cell | missing | made by |", "|---|---|---|", *rows]) + "\n"


def make_command(batch: Batch, dataset: str, attack: str, seed: int) -> str:
    """What makes all of a cell that is not there."""
    chosen = batch.overrides | {"dataset": dataset, "attack": attack, "seed": seed}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in chosen.items()}
    settings = " ".join(f"--set {shlex.quote(f'{name}={text}')}" for name, text in texts.items())
    return f"bedkd reproduce {Path(batch.profile.path).name} {settings}"


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
