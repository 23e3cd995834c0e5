"""ONION, with its language model."""

from pathlib import Path

from bedkd.defences.language.word_scores import pack
from bedkd.defences.onion import defend
from bedkd.nn.language import LanguageModel
from bedkd.runs.folders import Run
from bedkd.runs.stages.defended import equip, measure
from bedkd.runs.stages.language import read_language


def make(run: Run, stage: str, folder: Path) -> dict:
    view = equip(run, stage, language=lambda _: read_scorer(run))
    return measure(run, stage, folder, defend, view)


def read_scorer(run: Run) -> LanguageModel:
    """The language model, in packs if it takes them."""
    return pack(read_language(run))
