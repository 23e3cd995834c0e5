"""`params/<profile>.yaml`: a grid of cells and the parameters that they share."""

import itertools
import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from bedkd.core.config import build
from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here
from bedkd.core.settings import Flag, explain, settings
from bedkd.data.attacks import check_attack
from bedkd.data.readers import get_spec
from bedkd.runs.folders import Run
from bedkd.runs.nested import flatten, merge, nest, read_yaml
from bedkd.runs.stages import ABLATIONS, NEWER, RIVALS
from bedkd.runs.sweeps import GRID, STUDIES, Sweep, as_list, cross, is_sweep, read_sweep, vary

PROJECT = Path(__file__).parents[2]
GRID_KEYS = ("dataset", "attack", "seed")
LIST_KEYS = ("defences", "studies", "focus", "focus_attacks", "focus_seeds")
OWN_KEYS = ("plus", "seed")  # of a data set, beside sections of its configuration
Items = Annotated[list, BeforeValidator(as_list)]
# BeDKD+: what it sets over BeDKD's parameters, wherever a profile does not say otherwise
PLUS = {
    "dmm": {"n_folds": 2, "epochs": 12, "n_readings": 3},
    "mepd": {"gamma": "auto", "selection": "lean", "n_poison": 256, "max_candidates": None},
    "akd": {"penalty": "margin", "n_counter": 2, "cycles": 12, "schedule": "linear"},
}
# the parts of BeDKD+ alone (see `RunConfig.method`): whether a parameter of it belongs to one
PARTS = {
    "scores": lambda name: name.startswith("dmm.") or name in ("mepd.gamma", "mepd.selection"),
    "margin": lambda name: name == "akd.penalty",
    "counter": lambda name: name.startswith("akd.") and name != "akd.penalty",
}


@settings
class Grid:
    """The cells are all combinations."""

    dataset: Items = Field(default_factory=list)
    attack: Items = Field(default_factory=list)
    seed: Items = Field(default_factory=list)


@settings
class Profile:
    """`datasets`: what differs for one data set; its `plus`, for BeDKD+ there; its `seed`, in the
    grid's place.

    `plus`: the parameters of BeDKD+, over PLUS and BeDKD's.
    `defences`: the rivals of Table 1, and newer ones. `studies`: Tables 2 to 5, Figures 3 and 5 and
    more (see `sweeps.STUDIES`), made of the data sets in `focus` and, if there are any, the attacks
    in `focus_attacks` and the seeds in `focus_seeds`; `sweeps`: the values of those that are one,
    and of both sides of a grid such as `gamma_x_n_poison`; `sweep_plus`: of BeDKD+ too.
    `few_jobs`: one kernel for all notebooks of a cell, one notebook for all its rivals, one for its
    sweeps and, outside `focus`, one for BeDKD's stages, since to start them takes longer than a
    stage of a toy.
    """

    name: str
    path: str  # what `load_profile` took
    about: str = ""
    grid: Grid = Field(default_factory=Grid)
    defences: Items = Field(default_factory=list)
    studies: Items = Field(default_factory=list)
    focus: Items = Field(default_factory=list)
    focus_attacks: Items = Field(default_factory=list)
    focus_seeds: Items = Field(default_factory=list)
    few_jobs: Flag = False
    sweeps: dict = Field(default_factory=dict)
    sweep_plus: Flag = False
    config: dict = Field(default_factory=dict)
    plus: dict[str, dict] = Field(default_factory=dict)
    datasets: dict[str, dict] = Field(default_factory=dict)

    def run(self, dataset: str, attack: str, seed: int, overrides: dict | None = None) -> Run:
        """One cell. `overrides` maps `section.name` to a value and wins over the file.

        Raises BedkdError: an unknown data set, attack or parameter, or a value out of range.
        """
        for name, key in (("data.name", "dataset"), ("attack.name", "attack")):
            if name in (overrides or {}):
                raise BedkdError(f"{name} is set by the grid; set {key} instead")
        own = {k: v for k, v in self.datasets.get(dataset, {}).items() if k not in OWN_KEYS}
        values = merge(merge(self.config, own), nest(overrides or {}))
        cell = {"data": {"name": dataset}, "attack": {"name": attack}, "seed": seed}
        config = build(merge(values, cell))
        get_spec(config.data)
        check_attack(attack)
        return Run(config, outputs_folder())

    def runs(self, overrides: dict | None = None) -> list[Run]:
        """All cells of the grid. In `overrides`, dataset, attack and seed replace a grid's list."""
        overrides = dict(overrides or {})
        self.list_defences(overrides)
        for name in overrides:
            if name.startswith(("dataset.", "seed.")):
                raise BedkdError(f"unknown parameter {name!r}; {name.split('.')[0]} has no parts")
        grid = {key: as_list(overrides.get(key, vars(self.grid)[key])) for key in GRID_KEYS}
        if empty := [key for key in GRID_KEYS if not grid[key]]:
            raise BedkdError(f"{empty[0]} is empty; name at least one")
        cells = [
            (dataset, *rest)
            for dataset in grid["dataset"]
            for rest in itertools.product(grid["attack"], self.list_seeds(dataset, overrides))
        ]
        return [self.run(*cell, self.cell_overrides(overrides)) for cell in cells]

    def list_seeds(self, dataset: str, overrides: dict) -> list:
        """A data set's own, or the grid's."""
        own = self.datasets.get(dataset, {}).get("seed", self.grid.seed)
        return as_list(overrides.get("seed", own))

    def cell_overrides(self, overrides: dict) -> dict:
        """Those that are parameters of a cell, not lists of the profile."""
        return {k: v for k, v in overrides.items() if k not in (*GRID_KEYS, *LIST_KEYS)}

    def list_defences(self, overrides: dict | None = None) -> list[str]:
        """The rivals to run. Raises BedkdError: an unknown one."""
        chosen = as_list((overrides or {}).get("defences", self.defences))
        known = (*RIVALS, *NEWER)
        if unknown := [name for name in chosen if name not in known]:
            raise BedkdError(f"unknown defence {unknown[0]!r}; known: {', '.join(known)}")
        return chosen

    def list_studies(self, run: Run, overrides: dict | None = None) -> list[str]:
        """The studies of a cell: none without an attack, or if it is not in focus.

        Raises BedkdError: an unknown one.
        """
        chosen = as_list((overrides or {}).get("studies", self.studies))
        if unknown := [name for name in chosen if not (name in STUDIES or is_sweep(name))]:
            raise BedkdError(f"unknown study {unknown[0]!r}; known: {', '.join(STUDIES)}")
        c = run.config
        is_studied = c.attack.name != "none" and c.data.name in self.list_focus(overrides)
        for key, own in {"focus_attacks": c.attack.name, "focus_seeds": c.seed}.items():
            some = as_list((overrides or {}).get(key, getattr(self, key)))
            is_studied &= not some or own in some
        return chosen if is_studied else []

    def list_focus(self, overrides: dict | None = None) -> list[str]:
        """The data sets of the studies."""
        return as_list((overrides or {}).get("focus", self.focus))

    def list_sweeps(self, run: Run, overrides: dict | None = None) -> list[Sweep]:
        """Those of the cell's studies that try several values. Raises BedkdError: an unknown study,
        or as `sweep`."""
        sweeps = map(self.sweep, filter(is_sweep, self.list_studies(run, overrides)))
        attack = run.config.attack.name
        return [sweep for sweep in sweeps if sweep.attacks is None or attack in sweep.attacks]

    def sweep(self, name: str) -> Sweep:
        """A sweep with its values. Raises BedkdError: the profile does not give them."""
        if is_sweep(name) and GRID in name:
            return cross(*map(self.sweep, name.split(GRID)))
        if is_sweep(name) and name not in self.sweeps:
            raise BedkdError(f"profile {self.name} gives no values for sweep {name!r}")
        return read_sweep(name, self.sweeps.get(name))

    def sweep_runs(self, run: Run) -> list[Run]:
        """What a sweep varies: the cell and, with `sweep_plus`, the same with BeDKD+."""
        return [run, self.plus_run(run)] if self.sweep_plus else [run]

    def plus_run(self, run: Run, part: str | None = None) -> Run:
        """The same cell with BeDKD+, or with one part of it alone (see PARTS)."""
        own = self.datasets.get(run.config.data.name, {}).get("plus", {})
        values = flatten(merge(self.plus, own))
        return vary(run, {k: v for k, v in values.items() if part is None or PARTS[part](k)})

    def plus_parts(self, run: Run) -> list[Run]:
        return [self.plus_run(run, part) for part in PARTS]

    def results(self, run: Run, overrides: dict | None = None) -> list[tuple[Run, str]]:
        """The results whose records are rows of Tables 1 and 2."""
        found = [(run, "victim"), (run, "akd"), (self.plus_run(run), "akd")]
        if run.config.attack.name != "none":
            found.append((run, "never_poisoned"))
        stages = list(self.list_defences(overrides))
        if "ablations" in self.list_studies(run, overrides):
            stages += [s for s in ("finetune", *ABLATIONS) if s not in stages]
            found += [(part, "akd") for part in self.plus_parts(run)]
        return found + [(run, stage) for stage in stages]


def outputs_folder() -> Path:
    """`outputs/` of the project, or the folder named by BEDKD_OUTPUTS (a scratch disk, say)."""
    return Path(os.environ.get("BEDKD_OUTPUTS") or PROJECT / "outputs").expanduser().resolve()


def load_profile(name: str) -> Profile:
    """`params/<name>.yaml`, or the YAML file at the path `name`.

    Raises BedkdError: no such profile, no YAML, or a key that a profile does not have.
    """
    is_path = name.endswith((".yaml", ".yml"))
    about = {"name": Path(name).stem, "path": str(from_here(name).resolve()) if is_path else name}
    values = {key: value for key, value in read_values(name).items() if value is not None}
    if isinstance(values.setdefault("plus", {}), dict):
        values["plus"] = merge(PLUS, values["plus"])
    try:
        return Profile(**about, **values)
    except ValidationError as error:
        known = {"": list(Profile.__dataclass_fields__)[2:], "grid": list(GRID_KEYS)}
        raise BedkdError(f"profile {name}: {explain(error, known)}") from error


def read_values(name: str) -> dict:
    """What a profile says, over what the one says that it `extends`."""
    is_path = name.endswith((".yaml", ".yml"))
    path = from_here(name) if is_path else PROJECT / "params" / f"{name}.yaml"
    if not path.is_file():
        files = (PROJECT / "params").glob("*.yaml")  # the published numbers lie there too
        known = sorted(p.stem for p in files if p.read_text(encoding="utf-8").startswith("about:"))
        raise BedkdError(f"unknown profile {name!r}; known: {', '.join(known)}")
    values = read_yaml(path)
    return merge(read_values(values.pop("extends")), values) if "extends" in values else values


def open_run(
    profile: str, dataset: str, attack: str, seed: int, overrides: dict | None = None
) -> Run:
    """What a notebook's parameters cell names (see `Profile.run`)."""
    return load_profile(profile).run(dataset, attack, seed, overrides)
