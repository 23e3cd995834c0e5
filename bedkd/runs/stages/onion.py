"""ONION, with its language model."""

from pathlib import Path

from bedkd.defences.onion import defend
from bedkd.runs.folders import Run
from bedkd.runs.stages.defended import equip, measure
from bedkd.runs.stages.language import read_language


def make(run: Run, stage: str, folder: Path) -> dict:
    view = equip(run, stage, language=lambda _: read_language(run))
    return measure(run, stage, folder, defend, view)
