"""The rooms of the package: imports go one way, and every module is of use to another."""

import ast
import json
import re
from functools import cache
from graphlib import TopologicalSorter

import pytest

from bedkd.runs.profiles import PROJECT
from bedkd.runs.stages import STAGES, stage_modules

ROOMS = ("core", "nn", "data", "method", "evaluation", "defences", "runs", "report")
ROOMS += ("purification", "batch", "cli")
MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (PROJECT / "bedkd").rglob("*.py")
}


def imported(source: str) -> set[str]:
    """The package's modules that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


@cache
def arrows() -> dict[str, set[str]]:
    """Each module to those that it imports; a package's own text is a module of that name."""
    return {
        name: imported(path.read_text(encoding="utf-8")) - {name, "bedkd"}
        for name, path in MODULES.items()
    }


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", sorted(arrows()))
def test_no_arrow_runs_back(module):
    # the package itself: `bedkd.purify`
    before = ROOMS[: ROOMS.index(room_of(module)) + 1] if room_of(module) else ("purification",)
    if room_of(module) == "method":
        before = ("core", "nn", "method")
    assert {room_of(name) for name in arrows()[module]} <= set(before)


def test_no_circle():
    assert len(list(TopologicalSorter(arrows()).static_order())) == len(MODULES)


def test_every_module_is_of_use():
    """To another module or a notebook; those of the stages, nbconvert's, and what `make` runs, are
    found by their names."""
    used = set().union(*arrows().values()) | {"bedkd", "bedkd.cli"}
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                used |= imported("".join(cell["source"]))
    used |= {module for stage in STAGES for module in stage_modules(stage)}
    config = (PROJECT / "bedkd/report/jupyter_config.json").read_text(encoding="utf-8")
    used |= {
        name.rpartition(".")[0] for name in json.loads(config)["HTMLExporter"]["preprocessors"]
    }
    used |= set(re.findall(r"-m (bedkd[.\w]+)", (PROJECT / "Makefile").read_text(encoding="utf-8")))
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert MODULES.keys() - used - packages == set()


def test_a_way_back_would_be_seen():
    assert imported("def f():\n    from bedkd.batch import workflow\n") >= {"bedkd.batch.workflow"}
    assert ROOMS.index("batch") > ROOMS.index("core")
