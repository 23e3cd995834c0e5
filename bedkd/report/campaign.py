"""What is kept as a reference is one campaign: whole records of one clean commit, each with the key
that this code, these data and these settings give it, wherever it was made."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bedkd.core.devices import FUSED
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.report.loading import Batch
from bedkd.runs.folders import Run
from bedkd.runs.keys import Libraries
from bedkd.runs.plan import list_results
from bedkd.runs.records import LIBRARIES, environment
from bedkd.runs.stages import MEASURED, STAGES

ABOUT = ("stage", "key", "dataset", "attack", "model", "seed", "config", "device", "precision")
ABOUT += ("versions", "seconds", "peak_memory_mb", "started_at")
SCORES = ("defence", "asr", "cacc", "pacc", "lfr_target", "n_train", "n_test")
WEIGHTS = "model"  # a folder of its own in a run's
Found = tuple[dict, Path | None]
PRECISIONS = {"bfloat16": "bf16", "float32": "fp32"}


def read_campaign(source: Path) -> list[Found]:
    """The records in a JSON Lines file, or in the run folders anywhere under a folder, each with
    its run folder, or None.

    Raises BedkdError: there are none, or one cannot be read, or lacks a field.
    """
    paths: list[Path] = []
    if source.is_dir():
        paths = sorted(source.rglob("record.json"))
        texts = {str(path): path.read_text(encoding="utf-8") for path in paths}
    elif source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        texts = {f"{source}, line {n}": line for n, line in enumerate(lines, 1) if line.strip()}
    else:
        texts = {}
    if not texts:
        raise BedkdError(f"{source} holds no records; give a JSON Lines file, or a folder of runs")
    folders = {str(path): path.parent for path in paths}
    return [(read_whole(name, text), folders.get(name)) for name, text in texts.items()]


def read_whole(name: str, text: str) -> dict:
    """One record. Raises BedkdError: it is no JSON object, or lacks what every record has."""
    try:
        record = json.loads(text)
    except ValueError as error:
        raise BedkdError(f"{name} is no record: {error}") from error
    if not isinstance(record, dict):
        raise BedkdError(f"{name} is no record: it must be a JSON object")
    needed = ABOUT + SCORES * is_scored(record.get("stage"))
    if lost := [field for field in needed if field not in record]:
        raise BedkdError(f"{name} is no whole record: it has no {', '.join(lost)}")
    return record


def is_scored(stage: str | None) -> bool:
    """Whether a stage's record has the numbers of a model on the tests."""
    also = STAGES[stage].also if stage in STAGES else ()
    return stage in ("victim", *MEASURED) or not {*MEASURED}.isdisjoint(also)


def find_machine(records: Iterable[dict]) -> tuple[dict, Libraries]:
    """Device and precision, as overrides, and library versions of the machine that made them.

    Raises BedkdError: they are of several, so that one victim would have several keys.
    """
    found: dict[tuple, dict] = {}
    for record in records:
        device = record["config"]["device"]
        if device == "auto":  # a record has a type's name, or a GPU's own
            device = record["device"] if record["device"] in FUSED else "cuda"
        precision = PRECISIONS.get(record["precision"], record["precision"])
        versions = tuple((name, record["versions"].get(name, "none")) for name in LIBRARIES)
        found.setdefault((device, precision, versions), record)
    if len(found) > 1:
        kinds = [
            f"{device} {precision} {' '.join(map(' '.join, versions))} ({name_record(record)})"
            for (device, precision, versions), record in found.items()
        ]
        raise BedkdError(
            f"one victim would have several keys, for the records are of {len(kinds)} machines: "
            f"{'; '.join(kinds)}; keep those of one"
        )
    ((device, precision, versions),) = found
    return {"device": device, "precision": precision}, versions


def place_run(run: Run, root: Path, libraries: Libraries) -> Run:
    return replace(run, root=root, libraries=libraries)


def lay_out(found: Iterable[Found], batch: Batch) -> None:
    """Write each record where the batch looks for it, with the small files beside it, from which
    figures are drawn. One that was made outside a checkout gets the commit of this one, whose code
    its key is of.

    Raises BedkdError: this code and these settings give no result its key.
    """
    expected = {(stage, run.key(stage)): run for run, stage in list_results(batch.jobs)}
    ignored = shutil.ignore_patterns(WEIGHTS)
    for record, folder in found:
        place = (record["stage"], record["key"])
        if place not in expected:
            raise BedkdError(
                f"{name_record(record)} has the key {record['key']}, "
                f"{describe_expected(record, expected)}: other settings, data or code than those "
                "here made it; run it again, or leave it out"
            )
        own = {"commit": record.get("commit") or environment()["commit"]}
        target = expected[place].folder(record["stage"])
        if folder:
            shutil.copytree(folder, target, ignore=ignored, dirs_exist_ok=True)
        write_json(target / "record.json", record | own)


def describe_expected(record: dict, expected: dict[tuple[str, str], Run]) -> str:
    """Which keys the same stage of the same cell has here."""
    cell = tuple(record[name] for name in ("stage", "dataset", "attack", "seed"))
    keys = [
        key
        for (stage, key), run in expected.items()
        if (stage, run.config.data.name, run.config.attack.name, run.config.seed) == cell
    ]
    return f"but here it is {' or '.join(keys)}" if keys else "and the profile has no such cell"


def name_record(record: dict) -> str:
    return "{stage} of {dataset} {attack} seed {seed}".format_map(record)


def check_campaign(batch: Batch) -> None:
    """Raises BedkdError: a record that is there, of what the tables show or of what that needs, is
    of a tree with changes or of no commit, or they are of several commits."""
    found = {}
    for run, stage in list_results(batch.jobs):
        if record := run.record(stage):
            found[f"{stage}/{run.folder(stage).name}"] = record.get("commit")
    dirty = [name for name, commit in found.items() if not commit or commit.endswith("+")]
    again = f"remove {{}}, and run `bedkd reproduce {batch.profile.name}` again from a clean commit"
    if dirty:
        more = f" and {len(dirty) - 1} more" * (len(dirty) > 1)
        commit = found[dirty[0]] or "none"
        raise BedkdError(
            f"runs/{dirty[0]}{more}: made from a tree with changes that are in no commit (its "
            f"commit: {commit}); {again.format('these folders')}"
        )
    commits = Counter(found.values())
    if len(commits) > 1:
        first = {commit: name for name, commit in reversed(found.items())}
        said = [f"{n} of {commit[:9]} (runs/{first[commit]}, …)" for commit, n in commits.items()]
        raise BedkdError(
            f"results of {len(commits)} commits: {', '.join(said)}; a reference is of one: "
            f"{again.format('all but one')}"
        )
