"""The studies of a profile beyond Table 1: one parameter at a time, or several that go together."""

from dataclasses import asdict, dataclass, replace

from bedkd.core.config import build
from bedkd.core.errors import BedkdError
from bedkd.runs.folders import Run

# study -> the parameters that it sets, all to the same value
SWEEPS: dict[str, tuple[str, ...]] = {
    "n_clean": ("dmm.n_clean_per_class", "akd.n_clean_per_class"),  # Table 4
    "victim": ("victim.model",),  # Table 5
    "n_poison": ("mepd.n_poison",),  # Figure 3
    "selection": ("mepd.selection",),
    "alpha": ("dmm.alpha",),
    "temperature_dmm": ("dmm.temperature",),
    "lambda": ("akd.lambda_",),
    "temperature_akd": ("akd.temperature",),
    "poison_rate": ("attack.poison_rate",),
}
# what is no sweep: Tables 2 and 3, and Figure 5
STUDIES = ("ablations", "tsne", *SWEEPS)


@dataclass(frozen=True)
class Sweep:
    """A study's values, and the attacks under which they are tried (None: all of the grid)."""

    name: str
    values: tuple
    attacks: tuple[str, ...] | None = None

    def points(self, run: Run) -> list[tuple[object, Run]]:
        """Each value, and the cell with it. Raises BedkdError: a value out of range."""
        return [
            (value, vary(run, {key: value for key in SWEEPS[self.name]})) for value in self.values
        ]


def read_sweep(name: str, values) -> Sweep:
    """From a profile: a list of values, or `{values: […], attack: […]}`.

    Raises BedkdError: no sweep of this name, or no values.
    """
    if name not in SWEEPS:
        raise BedkdError(f"unknown sweep {name!r}; known: {', '.join(SWEEPS)}")
    spec = values if isinstance(values, dict) else {"values": values}
    if unknown := set(spec) - {"values", "attack"}:
        raise BedkdError(f"sweep {name}: unknown key {sorted(unknown)[0]!r}; known: values, attack")
    points, attacks = (tuple(as_list(spec.get(key))) for key in ("values", "attack"))
    if not points:
        raise BedkdError(f"sweep {name} has no values; give a list, such as [80, 160]")
    return Sweep(name, points, attacks or None)


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def vary(run: Run, changes: dict[str, object]) -> Run:
    """The same cell with other values of `section.name`.

    Raises BedkdError: a value of the wrong type or out of range.
    """
    values = asdict(run.config)
    for key, value in changes.items():
        section, name = key.split(".")
        values.setdefault(section, {})[name] = value
    return replace(run, config=build(values))
