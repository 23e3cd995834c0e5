"""Where results lie, and what they depend on.

A stage's folder name ends in a key: a digest of its configuration, its source code, the revision of
its data and weights, and the key of the stage before it. A change of any of them is another folder,
so that nothing stale can be read; what did not change is found again.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bedkd.core.config import DataConfig, RunConfig
from bedkd.core.defence_config import CLEAN_SHARE
from bedkd.core.hub import TINY_LM, TINY_MODELS, model_revision
from bedkd.data.attacks import check_attack
from bedkd.data.paraphrases import paraphrases_revision
from bedkd.data.readers import dataset_revision, get_spec
from bedkd.runs.records import read_record

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Stage:
    """`modules`: what computes it (with all that they import); `sections`: its configuration.

    A defence's own module and section come first. `also`: shared stages that it needs.
    """

    upstream: str | None
    modules: tuple[str, ...]
    sections: tuple[str, ...]
    notebook: str
    also: tuple[str, ...] = ()
    is_shared: bool = False  # by all cells with the same configuration of it
    maker: str | None = None  # the function of `makers`, where it is not named for the stage


def _defence(upstream: str, module: str, section: str, also: tuple[str, ...] = ()) -> Stage:
    notebook = "06_ablations" if upstream == "mepd" or module == "distill" else "05_defences"
    modules = (f"defences.{module}", "evaluation.sides")
    return Stage(upstream, modules, (section,), notebook, also, maker="make_defence")


STAGES: dict[str, Stage] = {
    "data": Stage(None, ("data.attacks",), ("data", "attack", "seed"), "01_poisoning"),
    "victim": Stage(
        "data",
        ("nn.classifier", "evaluation.sides"),
        ("victim", "device", "precision"),
        "01_poisoning",
    ),
    "dmm": Stage(
        "victim", ("method.dmm", "evaluation.sides", "evaluation.watchers"), ("dmm",), "02_dmm"
    ),
    "mepd": Stage("dmm", ("method.mepd", "evaluation.sides"), ("mepd",), "03_mepd"),
    "akd": Stage(
        "mepd", ("method.akd", "evaluation.sides", "evaluation.watchers"), ("akd",), "04_akd"
    ),
    "tsne": Stage("akd", ("evaluation.tsne", "evaluation.sides"), ("tsne",), "08_tsne"),
    "language": Stage(
        None,
        ("defences.language.model", "data.generated"),
        ("language", "device"),
        "05_defences",
        is_shared=True,
    ),
    "teacher": Stage(
        None,
        ("defences.teacher",),
        ("teacher", "data.name", "victim.model", "device", "precision"),
        "05_defences",
        is_shared=True,
    ),
    "finetune": _defence("victim", "finetune", "finetune"),
    "onion": _defence("victim", "onion", "onion", ("language",)),
    "imbert": _defence("victim", "imbert", "imbert"),
    "textguard": _defence("victim", "textguard", "textguard"),
    "w2s": _defence("victim", "w2s", "w2s", ("teacher",)),
    "finetune_dmm": _defence("mepd", "finetune", "finetune"),
    "kd": _defence("victim", "distill", "akd"),
    "kd_dmm": _defence("mepd", "distill", "akd"),
}
CHAIN = ("victim", "dmm", "mepd", "akd")  # one notebook each; `data` is made in the victim's
RIVALS = ("finetune", "onion", "imbert", "textguard", "w2s")  # Table 1
ABLATIONS = ("finetune_dmm", "kd", "kd_dmm")  # Table 2
# These read, check or write values without changing one; the values themselves are in the key.
NOT_HASHED = {
    *("core.checks", "core.config", "core.defence_config", "core.errors", "core.files"),
    *("runs.records", "core.hub", "runs.folders"),
}


@dataclass(frozen=True)
class Run:
    """One cell of the grid and the folder that all its results lie under."""

    config: RunConfig
    root: Path

    def key(self, stage: str) -> str:
        return stage_key(self.config, stage)

    def folder(self, stage: str) -> Path:
        c = self.config
        label = f"{Path(c.data.name).stem}-{c.attack.name}-s{c.seed}"
        if STAGES[stage].is_shared:
            label = "shared"
        return self.root / "runs" / stage / f"{label}-{self.key(stage)}"

    def record(self, stage: str) -> dict | None:
        """The record of a finished and complete stage, else None."""
        folder = self.folder(stage)
        record = read_record(folder)
        return record if record and is_complete(folder, record) else None


@cache
def stage_key(config: RunConfig, stage: str) -> str:
    """12 hex digits over everything that the stage's result depends on.

    Raises:
        BedkdError: data, weights or paraphrases cannot be found, or a name is unknown.
    """
    spec, flat = STAGES[stage], config.flat()
    values = dataclasses.asdict(config) | flat  # whole sections, and `section.name` alone
    upstream, *also = [stage_key(config, name) for name in needed_stages(config, stage)] or [None]
    parts = {
        "stage": stage,
        "config": {section: values[section] for section in spec.sections},
        "source": stage_digests(stage, unused_modules(config, stage)),
        "revisions": revisions(config, stage),
        "upstream": upstream,
    }
    if also:
        parts["also"] = also
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def stage_digests(stage: str, unused: frozenset[str] = frozenset()) -> list[str]:
    """Digests of the modules behind a stage, and of its own function in `makers`."""
    spec = STAGES[stage]
    modules = [source_digest(module, unused) for module in spec.modules]
    return [*modules, maker_digest(spec.maker or f"make_{stage}")]


def needed_stages(config: RunConfig, stage: str) -> list[str]:
    """The stages that must be there before this one can be made."""
    spec = STAGES[stage]
    needed = [*([spec.upstream] if spec.upstream else []), *spec.also]
    if stage == "teacher" and (config.teacher.proxy == CLEAN_SHARE or not get_spec(config.data)):
        needed.append("data")  # its rows, or the names of its classes
    return needed


def revisions(config: RunConfig, stage: str) -> list[str]:
    """What pins the files from outside that a stage reads."""
    if stage == "victim":
        return [model_revision(config.victim.model)]
    if stage == "language":
        return [model_revision(config.language.model)]
    if stage == "teacher":
        return [model_revision(config.teacher.model), *proxy_revision(config)]
    if stage != "data":
        return []
    check_attack(config.attack.name)
    found = [dataset_revision(config.data)]
    if config.attack.name == "synbkd":
        found.append(paraphrases_revision(paraphrase_source(config)))
    return found


def paraphrase_source(config: RunConfig) -> str:
    """Where SynBkd's paraphrases come from."""
    spec = get_spec(config.data)
    return config.attack.paraphrases or (spec.paraphrases if spec else "rules")


def proxy_revision(config: RunConfig) -> list[str]:
    proxy = config.teacher.proxy
    return [] if proxy == CLEAN_SHARE else [dataset_revision(DataConfig(name=proxy))]


def unused_modules(config: RunConfig, stage: str) -> frozenset[str]:
    """What only generated text and models from scratch need, where a stage has neither."""
    data, model = config.data, config.victim.model
    if stage == "language":
        is_tiny = is_generated = config.language.model == TINY_LM
    else:
        if stage == "teacher":
            model = config.teacher.model
            if config.teacher.proxy != CLEAN_SHARE:
                data = DataConfig(name=config.teacher.proxy)
        is_tiny, is_generated = model in TINY_MODELS, is_toy(data)
    return frozenset(["data.generated"] * (not is_generated) + ["nn.tiny"] * (not is_tiny))


def is_toy(data: DataConfig) -> bool:
    spec = get_spec(data)
    return spec is not None and not spec.hub_id


@cache
def source_digest(module: str, unused: frozenset[str] = frozenset()) -> str:
    """Digest of a module of this package and all that it imports from it, comments left out."""
    digest = hashlib.sha256()
    for name in sorted(import_closure(module) - unused):
        digest.update(_code(name).encode())
    return digest.hexdigest()


def import_closure(module: str) -> set[str]:
    """`module` and the package's modules that it imports, directly or not, less NOT_HASHED."""
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in found or name in NOT_HASHED:
            continue
        found.add(name)
        todo += _imports(name)
    return found


def _imports(module: str) -> list[str]:
    names = []
    for node in ast.walk(_syntax(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bedkd."):
            names.append(node.module.removeprefix("bedkd."))
            names += [f"{names[-1]}.{alias.name}" for alias in node.names]
    return [name for name in names if module_file(name).is_file()]


def module_file(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


@cache
def maker_digest(function: str) -> str:
    """Digest of a function of `makers` and all that it uses from there."""
    tree = _syntax("runs.makers")
    defined = {name: node for node in tree.body for name in _defines(node)}
    found, todo = set(), [function]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            uses = {node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)}
            todo += sorted(uses & defined.keys())
    code = "".join(ast.dump(defined[name]) for name in sorted(found))
    return hashlib.sha256(code.encode()).hexdigest()


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _code(module: str) -> str:
    return _dump(_source(module))


def _syntax(module: str) -> ast.Module:
    return _parse(_source(module))


def _source(module: str) -> str:
    return module_file(module).read_text(encoding="utf-8")


@cache
def _parse(source: str) -> ast.Module:
    """The syntax tree without docstrings: what a comment or a word does not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if is_documented and ast.get_docstring(node):
            node.body = node.body[1:]
    return tree


@cache
def _dump(source: str) -> str:
    return ast.dump(_parse(source))


@contextlib.contextmanager
def hold_alone(folder: Path) -> Iterator[None]:
    """One process at a time makes a result, others wait: two cells may need the same teacher."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    with open(path, "w") as lock:
        try:  # a lock ends with its process, however that ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process makes {folder.parent.name}/{folder.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def publish(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends well, and vanishes when not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield scratch
        scratch.chmod(0o755)
        for path in scratch.rglob("*"):  # libraries write weights for their owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        if (record := read_record(folder)) and is_complete(folder, record):
            shutil.rmtree(scratch)  # made by a process that does not see our locks
            return
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def list_files(folder: Path) -> dict[str, int]:
    """Size in bytes of every file of a finished stage, as the record keeps them."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "record.json")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def is_complete(folder: Path, record: dict) -> bool:
    """True if every file that the record lists is there in its full size."""
    for name, size in record.get("files", {}).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return False
    return True
