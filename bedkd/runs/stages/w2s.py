"""W2SDefense, with its teacher and the teacher's rows."""

from functools import partial
from pathlib import Path

from bedkd.defences.teacher import load_teacher
from bedkd.defences.w2s import defend
from bedkd.runs.folders import Run
from bedkd.runs.reading import compute_of
from bedkd.runs.stages.defended import equip, measure
from bedkd.runs.stages.teacher import read_proxy

# Kinds by which the authors choose their weights; all other attacks rewrite whole texts: `syntax`,
# which `none` has too.
TRIGGERS = {"badwords": "word", "addsent": "sentence"}


def make(run: Run, stage: str, folder: Path) -> dict:
    view = equip(
        run,
        stage,
        teacher=lambda _: load_teacher(run.folder("teacher") / "model", compute_of(run)),
        proxy=lambda view: read_proxy(run, view.victim.label_names),
    )
    trigger = TRIGGERS.get(run.config.attack.name, "syntax")
    return measure(run, stage, folder, partial(defend, trigger=trigger), view)
