"""W2SDefense, with its teacher and the teacher's rows."""

from pathlib import Path

from bedkd.defences.teacher import load_teacher
from bedkd.defences.w2s import defend
from bedkd.runs.folders import Run
from bedkd.runs.reading import compute_of
from bedkd.runs.stages.defended import equip, measure
from bedkd.runs.stages.teacher import read_proxy


def make(run: Run, stage: str, folder: Path) -> dict:
    view = equip(
        run,
        stage,
        teacher=lambda _: load_teacher(run.folder("teacher") / "model", compute_of(run)),
        proxy=lambda view: read_proxy(run, view.victim.label_names),
    )
    return measure(run, stage, folder, defend, view)
