"""The studies of a profile beyond Table 1: one parameter at a time, or several that go together."""

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bedkd.core.config import build
from bedkd.core.errors import BedkdError, DivergenceError
from bedkd.core.files import write_text
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
    "label_mode": ("attack.label_mode",),
    "resistance": ("victim.resist_epochs",),  # of an attacker who knows the DMM
    "choices": (),  # several parameters at once: each value is a name, and what it sets
    "gamma": ("mepd.gamma",),
    "cycles": ("akd.cycles",),
    "epochs_dmm": ("dmm.epochs",),
}
CHOICES = "choices"
RULES = ("auto", "lean")
GRID = "_x_"  # between two sweeps' names: every value of the one with every value of the other
# what is no sweep: Tables 2 and 3, and Figure 5
STUDIES = ("ablations", "tsne", *SWEEPS)


@dataclass(frozen=True)
class Sweep:
    """A study's settings: each value, of a grid a pair, with what `section.name` then is. attacks:
    under which they are tried (None: all of the profile's)."""

    name: str
    settings: tuple[tuple[object, dict[str, object]], ...]
    attacks: tuple[str, ...] | None = None

    def points(self, run: Run) -> list[tuple[object, Run]]:
        """Each value, and the cell with it. None where the cell has a rule in a parameter's place
        (RULES, as γ and the selection of BeDKD+): there is nothing to vary then.

        Raises BedkdError: a value out of range.
        """
        own = run.config.flat()
        if unknown := [key for _, changes in self.settings for key in changes if key not in own]:
            raise BedkdError(f"sweep {self.name}: unknown parameter {unknown[0]!r}")
        if any(own[key] in RULES for _, changes in self.settings for key in changes):
            return []
        return [(value, vary(run, changes)) for value, changes in self.settings]


def is_sweep(name: str) -> bool:
    """A name of SWEEPS, or two of them: `gamma_x_n_poison`."""
    parts = name.split(GRID)
    return set(parts) <= set(SWEEPS) and len(parts) == len(set(parts)) <= 2


def read_sweep(name: str, values) -> Sweep:
    """From a profile: a list of values, or `{values: […], attack: […]}`.

    Raises BedkdError: no sweep of this name, or no values.
    """
    if name not in SWEEPS:
        raise BedkdError(f"unknown sweep {name!r}; known: {', '.join(SWEEPS)}")
    spec = values if isinstance(values, dict) else {"values": values}
    if unknown := set(spec) - {"values", "attack"}:
        raise BedkdError(f"sweep {name}: unknown key {sorted(unknown)[0]!r}; known: values, attack")
    if name == CHOICES:
        settings = read_choices(spec.get("values"))
    else:
        settings = tuple((v, dict.fromkeys(SWEEPS[name], v)) for v in as_list(spec.get("values")))
    if not settings:
        raise BedkdError(f"sweep {name} has no values; give a list, such as [80, 160]")
    return Sweep(name, settings, tuple(as_list(spec.get("attack"))) or None)


def read_choices(values) -> tuple[tuple[str, dict[str, object]], ...]:
    """Raises BedkdError: not a name for each choice, with the parameters that it sets."""
    if not (isinstance(values, dict) and all(isinstance(v, dict) for v in values.values())):
        raise BedkdError(
            f"sweep {CHOICES} takes a name for each choice with what it sets, such as "
            "values: {text: {}, code: {dmm.flip: next}}"
        )
    return tuple(values.items())


def cross(first: Sweep, second: Sweep) -> Sweep:
    """Both parameters at once, under the attacks under which both are tried."""
    attacks = first.attacks or second.attacks
    if first.attacks and second.attacks:
        attacks = tuple(name for name in first.attacks if name in second.attacks)
    pairs = itertools.product(first.settings, second.settings)
    settings = tuple(((a, b), ours | theirs) for (a, ours), (b, theirs) in pairs)
    return Sweep(f"{first.name}{GRID}{second.name}", settings, attacks)


def make_points(runs: Iterable[Run], sweeps: Iterable[Sweep]) -> None:
    """Make every point that is not there. One whose AKD diverges is a result too: that it did is
    kept beside where its clean model would lie (see `read_divergence`)."""
    from bedkd.runs.ensure import ensure  # with torch: not before it is needed

    for sweep, run in itertools.product(sweeps, runs):
        for value, point in sweep.points(run):
            if not is_settled(point, "akd"):
                try:
                    ensure(point, "akd")
                except DivergenceError as error:
                    write_text(divergence_file(point), f"{error}\n")
            said = read_divergence(point)
            print(f"{run.config.method}: {sweep.name} = {value}{': ' * bool(said)}{said}")


def divergence_file(run: Run) -> Path:
    folder = run.folder("akd")
    return folder.with_name(f"{folder.name}.diverged")


def read_divergence(run: Run) -> str:
    """Why a point of a sweep has no clean model: the sentence of a DivergenceError, or empty."""
    path = divergence_file(run)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def is_settled(run: Run, stage: str) -> bool:
    """Whether a result is there, or known to come to nothing."""
    return bool(run.record(stage) or (stage == "akd" and read_divergence(run)))


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
