"""How many training steps a whole profile takes, and how long that is by a measured step."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from bedkd.core.config import RunConfig
from bedkd.data.readers import get_spec
from bedkd.method.akd import LATER, MAX_ROUNDS
from bedkd.method.counter import MAX_TAUGHT
from bedkd.report.published import PAPER_NAMES, load_setting
from bedkd.runs.profiles import Profile

BATCH = 16  # rows; a batch of more counts as so many of these
SECTIONS = {  # that a result of the method depends on
    "victim": ("data", "attack", "victim", "seed"),
    "dmm": ("data", "attack", "victim", "seed", "dmm"),
    "akd": ("data", "attack", "victim", "seed", "dmm", "mepd", "akd"),
}


def paper_rows() -> dict[str, int]:
    """How many rows the paper trains on, by the names of our data sets."""
    setting = load_setting()["rows"]
    names = {theirs: ours for ours, theirs in PAPER_NAMES.items()}
    return {names.get(name, name): n for name, (n, _) in setting.items()}


def list_configs(profile: Profile) -> list[RunConfig]:
    """Every cell's, as printed and with BeDKD+, and every point's of its sweeps."""
    found = []
    for run in profile.runs():
        bases = [run, profile.plus_run(run)]
        points = [
            point
            for sweep in profile.list_sweeps(run)
            for base in profile.sweep_runs(run)
            for _, point in sweep.points(base)
        ]
        found += [r.config for r in (*bases, *points)]
    return found


def count_steps(profile: Profile, rows: Mapping[str, int]) -> pd.DataFrame:
    """A row for each stage of training and model: stage, model, n (trainings), steps (of BATCH
    rows, in thousands). `rows`: of each data set, for training.

    What two results share is counted once. Of BeDKD the three stages that train, of the rivals
    those that do; of RGA, GA, NPO and DUP with the truly poisoned rows found, of BeDKD+ with half
    of these taught in all its rounds. What only reads (the scan, ONION, IMBERT, evaluation) is not
    counted.
    """
    found, own = [], list_configs(profile)
    yardsticks = [config.without_attack() for config in own]
    for stage, sections in SECTIONS.items():
        configs = own + yardsticks * (stage == "victim")
        parts = {tuple(getattr(c, name) for name in sections): c for c in configs}
        found += [(stage, c, steps_of(stage, c, rows[c.data.name])) for c in parts.values()]
    rivals = profile.list_defences()
    found += [
        (rival, run.config, steps_of(rival, run.config, rows[run.config.data.name]))
        for run in profile.runs()
        for rival in rivals
    ]
    table = pd.DataFrame(
        [(stage, c.victim.model, steps / 1000) for stage, c, steps in found if steps],
        columns=["stage", "model", "steps"],
    )
    grouped = table.groupby(["stage", "model"], sort=False).steps
    return grouped.agg(n="size", steps="sum").reset_index()


def steps_of(stage: str, c: RunConfig, n: int) -> int:
    """Steps of one training on a data set of `n` rows; 0 of what does not train."""
    poisoned = round(c.attack.poison_rate * n)
    n_classes = len(get_spec(c.data).label_names)
    if stage == "akd":
        return akd_steps(c, c.akd.n_clean_per_class * n_classes, poisoned)
    own = {
        "victim": (c.victim.epochs, [n]),
        "dmm": (c.dmm.epochs, [c.dmm.n_clean_per_class * n_classes]),
        "finetune": (c.finetune.epochs, [c.data.clean_share * n]),
        "textguard": (c.textguard.epochs, [n] * c.textguard.n_groups),
        "w2s": (c.w2s.epochs, [c.teacher.n_proxy or c.data.clean_share * n]),
        **dict.fromkeys(("rga", "ga", "npo"), (c.ascent.epochs, [2 * poisoned])),
        "dup": (c.dup.epochs, [2 * poisoned]),
    }
    epochs, passes = own.get(stage, (0, []))
    return epochs * in_batches(passes)


def akd_steps(c: RunConfig, few: int, poisoned: int) -> int:
    """Of AKD, with `few` clean rows; of counter-poison with all rounds, half of the `poisoned` rows
    taught in them."""
    if not c.akd.n_counter:
        return c.akd.cycles * in_batches([few, c.mepd.n_poison])
    trusted, n_later = few * (1 + c.akd.n_counter), c.akd.cycles // LATER
    later = MAX_ROUNDS * n_later * in_batches([trusted + MAX_TAUGHT * poisoned])
    return (c.akd.cycles - n_later) * in_batches([trusted]) + later


def in_batches(passes: list[float]) -> int:
    """Steps of some passes, each over so many rows."""
    return sum(math.ceil(rows / BATCH) for rows in passes)


def estimate(steps: pd.DataFrame, record: dict, apart: Iterable[str] = ()) -> pd.DataFrame:
    """`count_steps` with `hours`: victims and rivals by the record's step of a victim, DMM and AKD
    by its step of these, in one process. The last row is the sum, without the stages `apart`."""
    own = {name: record["seconds"][name]["bedkd"] / n for name, n in record["steps"].items()}
    step = steps.stage.map(dict.fromkeys(("dmm", "akd"), own["dmm_akd"])).fillna(own["victim"])
    table = steps.assign(hours=steps.steps * 1000 * step / 3600)
    counted = table[~table.stage.isin(apart)]
    whole = {"stage": "all" + "".join(f" but {name}" for name in apart), "model": "", "n": 0}
    whole |= {name: counted[name].sum() for name in ("n", "steps", "hours")}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)
