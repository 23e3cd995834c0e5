"""Keys: what a stage's result depends on, as 12 hex digits.

Its configuration, its code, the versions of the libraries that compute, the revisions of the data
and weights that it reads, device and precision, and the keys of the stages before it. A change of
any of them is another key, hence another folder, so that nothing stale can be read.
"""

import ast
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from bedkd import SourceKeeper
from bedkd.core.config import DataConfig, RunConfig
from bedkd.core.defence_config import CLEAN_SHARE
from bedkd.core.hub import model_revision
from bedkd.runs.records import library_versions
from bedkd.runs.stages import STAGES, needed_stages, stage_modules

PACKAGE = Path(__file__).parents[1]
# Loaded for every stage, and in no key: values of a configuration are in the key themselves,
# revisions pin what is found in the hub, and the rest says where results lie, not what is in them.
ENGINE = {
    *("bedkd", "bedkd.core.config", "bedkd.core.defence_config", "bedkd.core.errors"),
    *("bedkd.core.files", "bedkd.core.hub", "bedkd.core.settings"),
    *("bedkd.runs.ensure", "bedkd.runs.folders", "bedkd.runs.keys", "bedkd.runs.launch"),
    *("bedkd.runs.records", "bedkd.runs.stages"),
}
# How often a history is read steers nothing: it is no part of a result.
READINGS = ("evaluate_every",)
Libraries = tuple[tuple[str, str], ...]  # names of LIBRARIES and their versions


def stage_key(config: RunConfig, stage: str, libraries: Libraries = ()) -> str:
    """12 hex digits over everything that the stage's result depends on. `libraries`: another
    machine's, in place of those here.

    Raises BedkdError: data, weights or paraphrases cannot be found, or a name is unknown.
    """
    return _stage_key(config, stage, libraries, SourceKeeper.n_loaded)


@cache
def _stage_key(config: RunConfig, stage: str, libraries: Libraries, n_loaded: int) -> str:
    parts = {
        "stage": stage,
        "config": stage_values(config, stage),
        "code": digest_code((*stage_modules(stage), "bedkd.core.devices")),
        "libraries": dict(libraries) or library_versions(),
        "revisions": revisions(config, stage),
        "needs": [stage_key(*needed, libraries) for needed in needed_stages(config, stage)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def stage_values(config: RunConfig, stage: str) -> dict:
    """The stage's sections of the configuration; device and precision as `auto` turns out."""
    from bedkd.core.devices import resolve_compute

    device, precision = resolve_compute(config.device, config.precision)
    found = {}
    for name in STAGES[stage].sections:  # whole sections, `section.name` alone, device, precision
        section, _, part = name.partition(".")
        value = getattr(config, section)
        value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        found[name] = value[part] if part else value
    found |= {k: v for k, v in {"device": device, "precision": precision}.items() if k in found}
    if "attack" in found and config.attack.name == "none":  # how it would be poisoned is no matter
        found["attack"] = {"name": "none", "target_label": config.attack.target_label}
    return {
        name: {k: v for k, v in value.items() if k not in READINGS}
        if isinstance(value, dict)
        else value
        for name, value in found.items()
    }


def revisions(config: RunConfig, stage: str) -> list[str]:
    """What pins the files from outside that a stage reads."""
    if stage == "victim":
        return [model_revision(config.victim.model)]
    if stage == "language":
        return [model_revision(config.language.model)]
    if stage == "forget":
        return [version("umap-learn")]  # which no other stage computes with
    # imported here: only these stages read data, and a key loads no more than its stage
    if stage == "teacher":
        from bedkd.data.readers import dataset_revision

        # the encoder's width comes from the victim's own files
        found = [model_revision(config.teacher.model), model_revision(config.victim.model)]
        proxy = config.teacher.proxy
        return found + ([dataset_revision(DataConfig(name=proxy))] if proxy != CLEAN_SHARE else [])
    if stage == "continuations":
        from bedkd.data.readers import dataset_revision

        return [dataset_revision(config.data)]
    if stage == "data":
        from bedkd.data.attacks import check_attack, paraphrase_source
        from bedkd.data.paraphrases import paraphrases_revision
        from bedkd.data.readers import dataset_revision, get_spec

        check_attack(config.attack.name)
        found = [dataset_revision(config.data)]
        if source := paraphrase_source(config.attack, get_spec(config.data)):
            found.append(paraphrases_revision(source))
        return found
    return []


def digest_code(modules: tuple[str, ...]) -> str:
    """Digest of modules with all of the package that they import; docstrings and comments do not
    count."""
    return _digest_code(modules, SourceKeeper.n_loaded)


@cache
def _digest_code(modules: tuple[str, ...], n_loaded: int) -> str:
    sources = read_sources(modules)
    text = "".join(f"{name}\n{code_of(sources[name])}\n" for name in sorted(sources))
    return hashlib.sha256(text.encode()).hexdigest()


def read_sources(modules: Iterable[str]) -> dict[str, str]:
    """Module to source, of these modules and of all of the package that they import, directly or
    not, but for the ENGINE."""
    found: dict[str, str] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in found and name not in ENGINE:
            found[name] = read_source(name)
            todo += imported_modules(found[name])
    return found


def read_source(module: str) -> str:
    """What a module was loaded from; of one that is not loaded yet, its file."""
    loaded = getattr(sys.modules.get(module), "__source__", None)
    return module_file(module).read_text(encoding="utf-8") if loaded is None else loaded


@cache
def imported_modules(source: str) -> list[str]:
    """The package's modules that a source imports, with the packages that these are in."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = [name.split(".") for name in names if name.startswith("bedkd.") and module_file(name)]
    return sorted({".".join(parts[:n]) for parts in ours for n in range(1, len(parts) + 1)})


@cache
def module_file(module: str) -> Path | None:
    base = PACKAGE.joinpath(*module.split(".")[1:])
    files = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@cache
def code_of(source: str) -> str:
    """The syntax tree without docstrings: what a comment or a word does not change. The same of
    every Python that this runs on, else no machine could take another's records."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if is_documented and ast.get_docstring(node):
            node.body = node.body[1:]
        if isinstance(node, ast.JoinedStr):  # 3.12.1 ends some f-strings with an empty text
            node.values = [part for part in node.values if getattr(part, "value", None) != ""]
    return ast.dump(tree).replace(", type_params=[]", "")  # which 3.12 adds
