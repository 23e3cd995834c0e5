"""The stages of a run: what each needs, and the module here that makes it.

Such a module has `make(run, stage, folder) -> dict`: it reads what came before, leaves its files in
`folder` and returns its part of the record. What it imports is its code, so it imports that alone:
a changed line of ONION retrains no TextGuard.

Files under `truth/` say which rows are poisoned: no function of a defender is given them.
"""

from dataclasses import dataclass

from bedkd.core.config import RunConfig
from bedkd.core.defence_config import CLEAN_SHARE


@dataclass(frozen=True)
class Stage:
    """`upstream`: the stage before it; `also`: others that it needs; `clean`: those that it needs
    of the same cell without an attack; `sections`: what of the configuration it depends on;
    `defence`: the module of `defences` that `defended` runs, for a stage without a module of its
    own name here; `module`: the one here, if its name is another than the stage's; `is_spread`:
    several devices make it together, if there are."""

    upstream: str | None
    sections: tuple[str, ...]
    notebook: str
    defence: str = ""
    module: str = ""
    also: tuple[str, ...] = ()
    clean: tuple[str, ...] = ()
    is_shared: bool = False  # by all cells with the same configuration of it
    is_spread: bool = False


MEASURED = ("never_poisoned",)  # what a defence's numbers are held against
ASCENT = ("forget", *MEASURED)

STAGES: dict[str, Stage] = {
    "data": Stage(None, ("data", "attack", "seed"), "01_poisoning"),
    "continuations": Stage(  # of AIText alone, before `data`
        None, ("data", "generator", "seed", "device", "precision"), "01_poisoning"
    ),
    "victim": Stage(
        "data",
        ("victim", "device", "precision", "devices", "parallel"),
        "01_poisoning",
        is_spread=True,
    ),
    "never_poisoned": Stage("data", (), "04_akd", clean=("victim",)),
    "dmm": Stage("victim", ("dmm", "scan.shards"), "02_dmm", is_spread=True),
    "scan": Stage("dmm", ("scan",), "13_scan", is_spread=True),  # where D* is scored in shards
    "mepd": Stage("dmm", ("mepd",), "03_mepd"),
    "akd": Stage("mepd", ("akd",), "04_akd", also=MEASURED, is_spread=True),
    "tsne": Stage("akd", ("tsne",), "08_tsne"),
    "language": Stage(None, ("language", "device", "precision"), "05_defences", is_shared=True),
    "teacher": Stage(
        None,
        ("teacher", "data.name", "victim.model", "device", "precision"),
        "05_defences",
        is_shared=True,
    ),
    "finetune": Stage("victim", ("finetune",), "05_defences", "finetune", also=MEASURED),
    "onion": Stage("victim", ("onion",), "05_defences", also=("language", *MEASURED)),
    "imbert": Stage("victim", ("imbert",), "05_defences", "imbert", also=MEASURED),
    "textguard": Stage("victim", ("textguard",), "05_defences", also=MEASURED),
    "w2s": Stage("victim", ("w2s",), "05_defences", also=("teacher", *MEASURED)),
    "forget": Stage("victim", ("forget",), "05_defences"),
    "rga": Stage("victim", ("ascent",), "05_defences", module="ascent", also=ASCENT),
    "ga": Stage("victim", ("ascent",), "05_defences", module="ascent", also=ASCENT),
    "npo": Stage("victim", ("ascent",), "05_defences", module="ascent", also=ASCENT),
    "dup": Stage("victim", ("dup",), "05_defences", also=MEASURED),
    "finetune_dmm": Stage("mepd", ("finetune", "akd"), "06_ablations", also=MEASURED),
    "kd": Stage("victim", ("akd",), "06_ablations", "distill", also=MEASURED),
    "kd_dmm": Stage("mepd", ("akd",), "06_ablations", "distill", also=MEASURED),
}
CHAIN = ("victim", "dmm", "mepd", "akd")  # one notebook each; `data` is made in the victim's
RIVALS = ("finetune", "onion", "imbert", "textguard", "w2s")  # Table 1
NEWER = ("rga", "ga", "npo", "dup")  # rivals that are not in the paper
ABLATIONS = ("finetune_dmm", "kd", "kd_dmm")  # Table 2


def needed_stages(config: RunConfig, stage: str) -> list[tuple[RunConfig, str]]:
    """The results that must be there before this one can be made."""
    spec = STAGES[stage]
    needed = [*([spec.upstream] if spec.upstream else []), *spec.also]
    if stage == "teacher":
        from bedkd.data.readers import get_spec

        # its rows, or the names of its classes
        if config.teacher.proxy == CLEAN_SHARE or not get_spec(config.data):
            needed.append("data")
    if stage == "data" and config.is_written:
        needed.append("continuations")
    own = [(config, name) for name in needed]
    if stage == "continuations":
        own.append((config.with_generator(), "language"))
    if stage == "mepd":
        own += [(shard, "scan") for shard in config.shards()]
    return own + [(config.without_attack(), name) for name in spec.clean]


def stage_modules(stage: str) -> list[str]:
    """Names of the module that makes a stage and, where this is not its own, of the defence's."""
    if defence := STAGES[stage].defence:
        return [f"{__name__}.defended", f"bedkd.defences.{defence}"]
    return [f"{__name__}.{STAGES[stage].module or stage}"]
