"""What is left of a profile: stage results to make, the time and the disk that they will take."""

import json
import statistics
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bedkd.core import hub
from bedkd.core.errors import BedkdError
from bedkd.runs.folders import Run
from bedkd.runs.profiles import PROJECT, outputs_folder
from bedkd.runs.records import read_record
from bedkd.runs.stages import ABLATIONS, NEWER, STAGES

# what a stage's time hangs on, of its own sections of the configuration, and of all others
COSTLY = (
    *("model", "epochs", "cycles", "batch_size", "max_length"),
    *("n_train", "n_clean_per_class", "n_proxy", "n_groups"),
    *("n_folds", "n_readings", "n_scored", "n_counter"),
)
COSTLY_EVERYWHERE = ("data.n_train", "victim.model", "victim.max_length")
# fields that sum up to a stage's time; AKD's `seconds` are those of the whole defence
SECONDS = {"akd": ("seconds_akd",), "dmm": ("seconds", "seconds_scoring")}
KEEP_A_MODEL = ("victim", "dmm", "akd", "finetune", "w2s", *NEWER, *ABLATIONS)
WEIGHTS_FILE = "model/model.safetensors"
ASSUMED_BYTES = 440_000_000  # BERT-base in float32, where nothing tells
ASSUMED_TINY_BYTES = 3_000_000


def read_records() -> list[dict]:
    """Of this machine's outputs, and of the reference runs."""
    paths = outputs_folder().glob("runs/*/*/record.json")
    found = [record for path in sorted(paths) if (record := read_record(path.parent))]
    reference = PROJECT / "outputs" / "reference" / "records.jsonl"
    if reference.is_file():
        found += map(json.loads, reference.read_text(encoding="utf-8").splitlines())
    return found


def measured(records: Iterable[dict], device: str) -> Iterator[tuple[str, float, dict]]:
    """Stage, seconds, and the configuration that took them; a defence's record knows its DMM's."""
    for record in records:
        stage, config = record.get("stage"), record.get("config", {})
        if stage not in STAGES or record.get("device") != device:
            continue
        names = SECONDS.get(stage, ("seconds", "seconds_inference"))
        yield stage, sum(record.get(name, 0.0) for name in names), config
        if stage == "akd":
            names = ("seconds_dmm", "seconds_scoring")
            yield "dmm", sum(record.get(name, 0.0) for name in names), config


def expect_seconds(run: Run, stage: str, known: list[tuple[str, float, dict]]) -> float | None:
    """The median of the runs that cost the same: on this data set, else on any. None: there is
    none."""
    cost = costly_values(run, stage)
    same = [
        (seconds, config.get("data.name"))
        for name, seconds, config in known
        # an older record lacks a newer parameter
        if name == stage and all(config.get(key, value) == value for key, value in cost.items())
    ]
    here = [seconds for seconds, dataset in same if dataset == run.config.data.name]
    chosen = here or [seconds for seconds, _ in same]
    return statistics.median(chosen) if chosen else None


def costly_values(run: Run, stage: str) -> dict:
    spec, flat = STAGES[stage], run.config.flat()
    sections = {section.split(".")[0] for section in spec.sections}
    own = [key for key in flat if key.split(".")[0] in sections and key.split(".")[-1] in COSTLY]
    keys = own if spec.is_shared else {*own, *COSTLY_EVERYWHERE}
    return {key: flat[key] for key in keys}


def kept_model(run: Run, stage: str) -> str | None:
    """The name of the model whose weights a stage leaves on the disk, if it does."""
    c = run.config
    if stage == "language":
        return c.language.model if c.language.model == hub.TINY_LM else None
    if stage == "teacher":
        return c.teacher.model
    return c.victim.model if stage in KEEP_A_MODEL else None


def weights_bytes(model: str, records: Iterable[dict]) -> tuple[int, bool]:
    """Bytes of a model in float32, as it is saved; and False if that is only assumed."""
    for record in records:
        size = record.get("files", {}).get(WEIGHTS_FILE)
        if size and record.get("model") == model and record.get("stage") in KEEP_A_MODEL:
            return size, True
    if model in (*hub.TINY_MODELS, hub.TINY_LM):
        return ASSUMED_TINY_BYTES, False
    n_parameters = count_parameters(Path(hub.locate(model, "model").path))
    return (4 * n_parameters, True) if n_parameters else (ASSUMED_BYTES, False)


def count_parameters(folder: Path) -> int:
    """From the headers of the safetensors files in a folder; 0 if there are none.

    Raises BedkdError: a file that is none.
    """
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "np") as weights:
                names = list(weights.keys())
                total += sum(prod(weights.get_slice(name).get_shape()) for name in names)
        except (OSError, SafetensorError) as error:
            raise BedkdError(f"cannot read the weights {file}: {error}") from error
    return total
