"""Sweeps that finished runs make up, whatever profile they are of."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pandas as pd

from bedkd.report.explore import name_run
from bedkd.report.sensitivity import describe_point, to_points
from bedkd.report.show import visible
from bedkd.runs.folders import Run
from bedkd.runs.keys import READINGS
from bedkd.runs.sweeps import GRID, SWEEPS


def find_sweeps(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """Runs of one cell that differ in one parameter alone, or in those that a sweep sets together,
    or in two such at once (a grid), but for their seeds. Label to points, sorted, as those of
    `sensitivity.load_points`, but for `is_own`. Labels say what else differs between two sweeps."""
    flats = {run: list_settings(run) for run in runs if run.record("akd")}
    first = next(iter(flats.values()), {})
    varied = {key for flat in flats.values() for key in flat if flat[key] != first[key]}
    studies = {name: keys for name, keys in SWEEPS.items() if set(keys) <= varied}
    alone = {keys[0] for keys in studies.values() if len(keys) == 1}
    studies |= {key: (key,) for key in sorted(varied - alone - {"data.name", "attack.name"})}
    sweeps: dict[str, pd.DataFrame] = {}
    for parts in [*((name,) for name in studies), *itertools.combinations(studies, 2)]:
        keys, study = [studies[part] for part in parts], GRID.join(parts)
        rest = sorted(varied.difference(*keys))
        groups = group_runs(flats, keys, rest)
        firsts = [next(iter(group.values()))[0] for group in groups]
        for run, group in zip(firsts, groups, strict=True):
            alike = [flats[first] for first in firsts if name_run(first) == name_run(run)]
            apart = [key for key in rest if len({flat[key] for flat in alike}) > 1]
            told = [study, name_run(run), *(f"{key} {flats[run][key]}" for key in apart)]
            label = visible(" · ".join([*told, f"{len(group)} values"]))
            sweeps[label] = to_points(describe_settings(study, group))
    return sweeps


def group_runs(
    flats: dict[Run, dict], keys: list[tuple[str, ...]], rest: list[str]
) -> list[dict[tuple, list[Run]]]:
    """Runs that are equal in the `rest`, by their values of a study's `keys`, those of each
    parameter. Not where one value is all there is, nor, as a grid, where two parameters are varied
    in turn."""
    groups: dict[str, dict] = {}
    for run, flat in flats.items():
        own = [{flat[key] for key in part} for part in keys]
        if all(len(values) == 1 for values in own):  # what is set together is equal
            group = groups.setdefault(str([flat[key] for key in rest]), {})
            group.setdefault(tuple(value for (value,) in own), []).append(run)
    found = []
    for group in groups.values():
        n_each = [len(set(values)) for values in zip(*group, strict=True)]
        if len(group) > (sum(n_each) - 1 if len(keys) > 1 else 1):
            found.append(group)
    return found


def describe_settings(study: str, group: dict[tuple, list[Run]]) -> Iterator[dict]:
    """Points of every value and seed. Of some there is no run, be it that AKD diverged: a mean over
    the other seeds alone would be another one."""
    seeds = sorted({run.config.seed for runs in group.values() for run in runs})
    for setting in sorted(group, key=lambda setting: [*map(rank, setting)]):
        value, run = setting if len(setting) > 1 else setting[0], group[setting][0]
        for seed in seeds:
            point = replace(run, config=replace(run.config, seed=seed))
            yield describe_point(study, value, point)


def list_settings(run: Run) -> dict[str, object]:
    """What AKD's result depends on, but for the seed; how often a history is read is no matter."""
    sections = {"data", "attack", "victim", "dmm", "mepd", "akd"}
    ignored = {f"{section}.{name}" for section in sections for name in READINGS}
    flat = run.config.flat()
    return {k: v for k, v in flat.items() if k.split(".")[0] in sections and k not in ignored}


def rank(value) -> tuple:
    """Numbers in their order, then None, then words."""
    return isinstance(value, str), value is None, value or 0
