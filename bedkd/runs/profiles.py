"""`params/<profile>.yaml`: a grid of cells and the parameters that they share."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from bedkd.core.config import RunConfig, build, coerce
from bedkd.core.errors import BedkdError
from bedkd.data.attacks import check_attack
from bedkd.data.readers import get_spec
from bedkd.runs.folders import ABLATIONS, RIVALS, Run
from bedkd.runs.sweeps import STUDIES, SWEEPS, Sweep, read_sweep

PROJECT = Path(__file__).parents[2]
GRID_KEYS = ("dataset", "attack", "seed")
LIST_KEYS = ("defences", "studies", "focus")
PROFILE_KEYS = ("about", "extends", "grid", *LIST_KEYS, "sweeps", "config", "datasets")


@dataclass(frozen=True)
class Profile:
    """`grid`: lists of dataset, attack, seed. `datasets`: what differs for one data set.

    `defences`: the rivals of Table 1. `studies`: Tables 2 to 5, Figures 3 and 5 and more (see
    `sweeps.STUDIES`), made of the data sets in `focus`; `sweeps`: the values of those that are one.
    """

    name: str
    path: str  # what `load_profile` took
    about: str
    grid: dict[str, list]
    defences: list[str]
    studies: list[str]
    focus: list[str]
    sweeps: dict
    config: dict
    datasets: dict[str, dict]

    def run(self, dataset: str, attack: str, seed: int, overrides: dict | None = None) -> Run:
        """One cell. `overrides` maps `section.name` to a value and wins over the file.

        Raises:
            BedkdError: an unknown data set, attack or parameter, or a value out of range.
        """
        for name, key in (("data.name", "dataset"), ("attack.name", "attack")):
            if name in (overrides or {}):
                raise BedkdError(f"{name} is set by the grid; set {key} instead")
        values = merge(self.config, self.datasets.get(dataset, {}))
        values = merge(values, nest(overrides or {}))
        cell = {"data": {"name": dataset}, "attack": {"name": attack}, "seed": seed}
        config = build(RunConfig, merge(values, cell))
        get_spec(config.data)
        check_attack(attack)
        return Run(config, outputs_folder())

    def runs(self, overrides: dict | None = None) -> list[Run]:
        """All cells of the grid. In `overrides`, dataset, attack and seed replace a grid's list."""
        overrides = dict(overrides or {})
        self.list_defences(overrides)
        grid = dict(self.grid)
        for name in overrides:
            if name.startswith(("dataset.", "seed.")):
                raise BedkdError(f"unknown parameter {name!r}; {name.split('.')[0]} has no parts")
        for key in GRID_KEYS:
            if key in overrides:
                grid[key] = _as_list(overrides.pop(key))
            if not grid[key]:
                raise BedkdError(f"{key} is empty; name at least one")
        cells = itertools.product(*(grid[key] for key in GRID_KEYS))
        return [self.run(*cell, self.cell_overrides(overrides)) for cell in cells]

    def cell_overrides(self, overrides: dict) -> dict:
        """Those that are parameters of a cell, not lists of the profile."""
        return {k: v for k, v in overrides.items() if k not in (*GRID_KEYS, *LIST_KEYS)}

    def list_defences(self, overrides: dict | None = None) -> list[str]:
        """The rivals to run.

        Raises:
            BedkdError: an unknown one.
        """
        chosen = _as_list((overrides or {}).get("defences", self.defences))
        if unknown := [name for name in chosen if name not in RIVALS]:
            raise BedkdError(f"unknown defence {unknown[0]!r}; known: {', '.join(RIVALS)}")
        return chosen

    def list_studies(self, run: Run, overrides: dict | None = None) -> list[str]:
        """The studies of a cell: none without an attack, or if its data set is not in `focus`.

        Raises:
            BedkdError: an unknown one.
        """
        chosen = _as_list((overrides or {}).get("studies", self.studies))
        focus = _as_list((overrides or {}).get("focus", self.focus))
        if unknown := [name for name in chosen if name not in STUDIES]:
            raise BedkdError(f"unknown study {unknown[0]!r}; known: {', '.join(STUDIES)}")
        c = run.config
        return chosen if c.data.name in focus and c.attack.name != "none" else []

    def list_sweeps(self, run: Run, overrides: dict | None = None) -> list[Sweep]:
        """Those of the cell's studies that try several values.

        Raises:
            BedkdError: an unknown study, or one whose values the profile does not give.
        """
        sweeps = []
        for name in self.list_studies(run, overrides):
            if name in SWEEPS:
                sweep = self.sweep(name)
                if sweep.attacks is None or run.config.attack.name in sweep.attacks:
                    sweeps.append(sweep)
        return sweeps

    def sweep(self, name: str) -> Sweep:
        """A sweep with its values.

        Raises:
            BedkdError: the profile does not give them.
        """
        if name in SWEEPS and name not in self.sweeps:
            raise BedkdError(f"profile {self.name} gives no values for sweep {name!r}")
        return read_sweep(name, self.sweeps.get(name))

    def result_stages(self, run: Run, overrides: dict | None = None) -> list[str]:
        """The stages whose records are rows of Tables 1 and 2."""
        stages = ["victim", "akd", *self.list_defences(overrides)]
        if "ablations" in self.list_studies(run, overrides):
            stages += [s for s in ("finetune", *ABLATIONS) if s not in stages]
        return stages


def outputs_folder() -> Path:
    """`outputs/` of the project, or the folder named by BEDKD_OUTPUTS (a scratch disk, say)."""
    return Path(os.environ.get("BEDKD_OUTPUTS") or PROJECT / "outputs").expanduser().resolve()


def load_profile(name: str) -> Profile:
    """`params/<name>.yaml`, or the YAML file at the path `name`.

    Raises:
        BedkdError: no such profile, no YAML, or a key that a profile does not have.
    """
    values = {key: value for key, value in _read(name).items() if value is not None}
    for key in ("grid", "sweeps", "config", "datasets"):
        if not isinstance(values.get(key, {}), dict):
            raise BedkdError(f"profile {name}: {key} is {values[key]!r}; give `key: value` lines")
    grid = {key: _as_list(values.get("grid", {}).get(key)) for key in GRID_KEYS}
    if unknown := set(values.get("grid", {})) - set(GRID_KEYS):
        raise BedkdError(
            f"profile {name}: unknown grid key {sorted(unknown)[0]!r}; "
            f"known: {', '.join(GRID_KEYS)}"
        )
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    path = str(Path(name).resolve()) if stem != name else name
    lists = (_as_list(values.get(key)) for key in LIST_KEYS)
    rest = (values.get(key) or {} for key in ("sweeps", "config", "datasets"))
    return Profile(stem, path, values.get("about", ""), grid, *lists, *rest)


def _read(name: str) -> dict:
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else PROJECT / "params" / f"{name}.yaml"
    if not path.is_file():
        files = (PROJECT / "params").glob("*.yaml")  # the published numbers lie there too
        known = sorted(p.stem for p in files if p.read_text(encoding="utf-8").startswith("about:"))
        raise BedkdError(f"unknown profile {name!r}; known: {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BedkdError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BedkdError(f"{path} must hold `key: value` lines")
    if unknown := set(values) - set(PROFILE_KEYS):
        raise BedkdError(
            f"{path}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(PROFILE_KEYS)}"
        )
    return merge(_read(values["extends"]), values) if "extends" in values else values


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def merge(base: dict, changes: dict) -> dict:
    """`base` with `changes`, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if is_section else value
    return merged


def nest(flat: dict) -> dict:
    """`{"dmm.alpha": 0.5}` as `{"dmm": {"alpha": 0.5}}`."""
    nested: dict = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        at = nested
        for section in sections:
            at = at.setdefault(section, {})
            if not isinstance(at, dict):
                raise BedkdError(f"{name} is set, and {section} as a whole too; set one of them")
        at[last] = value
    return nested


def parse_setting(text: str) -> tuple[str, object]:
    """`dmm.alpha=0.5` or `seed=[0,1]`; the value is read as YAML.

    Raises:
        BedkdError: no `=`, or a value that is no YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BedkdError(f"--set takes KEY=VALUE, such as dmm.alpha=0.5; it got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BedkdError(f"--set {name}: {value!r} is no valid YAML value") from error


def open_run(
    profile: str, dataset: str, attack: str, seed: int, overrides: dict | None = None
) -> Run:
    """What a notebook's parameters cell names (see `Profile.run`)."""
    return load_profile(profile).run(dataset, attack, coerce(seed, "int", "seed"), overrides)
