"""What a profile reads from outside, and where each of it is found."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bedkd.batch.estimate import count_parameters
from bedkd.core import hub
from bedkd.core.config import DataConfig
from bedkd.core.defence_config import CLEAN_SHARE
from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here
from bedkd.data.attacks import paraphrase_source
from bedkd.data.paraphrases import paraphrases_revision
from bedkd.data.readers import FILE_READERS, check_file, dataset_revision, get_spec
from bedkd.runs.folders import Run
from bedkd.runs.profiles import Profile

KINDS = ("data", "paraphrases", "model", "language model", "teacher", "proxy")
# kind and name, to a function that says where it is
Sources = dict[tuple[str, str], Callable[[], str]]


def list_runs(profile: Profile, overrides: dict) -> list[Run]:
    """The cells, and their variations in sweeps."""
    runs = profile.runs(overrides)
    sweeps = [(run, sweep) for run in runs for sweep in profile.list_sweeps(run, overrides)]
    return runs + [point for run, sweep in sweeps for _, point in sweep.points(run)]


def check_files(profile: Profile, overrides: dict) -> None:
    """Open each local data file of a profile, before any job does.

    Raises BedkdError: it cannot be read, a column is missing, or there is one class.
    """
    for config in {run.config.data for run in profile.runs(overrides)}:
        if Path(config.name).suffix in FILE_READERS:
            check_file(config)


def list_sources(runs: Iterable[Run], defences: list[str]) -> Sources:
    found: Sources = {}
    for c in (run.config for run in runs):
        found["data", c.data.name] = partial(find_dataset, c.data)
        if name := paraphrase_source(c.attack, get_spec(c.data)):
            found["paraphrases", name] = partial(find_paraphrases, name)
        if c.is_written:
            found["language model", c.generator.model] = partial(find_model, c.generator.model)
        found["model", c.victim.model] = partial(find_model, c.victim.model)
        if "onion" in defences:
            found["language model", c.language.model] = partial(find_model, c.language.model)
        if "w2s" in defences:
            found["teacher", c.teacher.model] = partial(find_model, c.teacher.model)
            proxy = DataConfig(name=c.teacher.proxy)
            if proxy.name != CLEAN_SHARE:
                found["proxy", proxy.name] = partial(find_dataset, proxy)
    return dict(sorted(found.items(), key=lambda item: KINDS.index(item[0][0])))


def look_for(sources: Sources) -> list[tuple[str, str, str, str]]:
    """Kind, name, where it is found, and what to provide if it is not (one of the two is empty).

    All at once: hashing, and a hub that does not answer, take their time.
    """
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(try_find, sources.values())
        return [(*key, *answer) for key, answer in zip(sources, answers, strict=True)]


def try_find(find: Callable[[], str]) -> tuple[str, str]:
    try:
        return find(), ""
    except BedkdError as error:
        return "", str(error)


def find_dataset(config: DataConfig) -> str:
    spec, revision = get_spec(config), dataset_revision(config)
    if spec and not spec.hub_id:
        return "generated"
    if Path(config.name).suffix in FILE_READERS:
        check_file(config)
        return f"file, {revision[:16]}"
    return show_location(hub.locate(spec.hub_id if spec else config.name, "dataset"))


def find_paraphrases(source: str) -> str:
    revision = paraphrases_revision(source)
    if source == "rules":
        return "written by rule"
    is_local = from_here(source).is_dir()  # perhaps a checkout of HiddenKiller
    return f"local, {revision}" if is_local else show_location(hub.locate(source, "dataset"))


def find_model(name: str) -> str:
    if hub.model_revision(name) == "scratch":
        return "made from scratch"
    location = hub.locate(name, "model")
    if location.origin in ("local", "mirror") and not count_parameters(Path(location.path)):
        raise BedkdError(f"{location.path} holds no safetensors file: the weights of {name!r}")
    return show_location(location)


def show_location(location: hub.Location) -> str:
    is_there = "" if location.origin != "hub" else " (to be downloaded)"
    return f"{location.origin}, {location.revision[:16]}{is_there}"
