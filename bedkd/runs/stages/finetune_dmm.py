"""FT+DMM, told how AKD punishes the rows found."""

from functools import partial
from pathlib import Path

from bedkd.defences.finetune import defend
from bedkd.runs.folders import Run
from bedkd.runs.stages.defended import equip, measure


def make(run: Run, stage: str, folder: Path) -> dict:
    return measure(run, stage, folder, partial(defend, akd=run.config.akd), equip(run, stage))
