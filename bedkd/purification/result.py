"""What came of a purification, and how it is written: whole or not at all."""

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here, write_json, write_text
from bedkd.nn.classifier import Classifier
from bedkd.purification import card
from bedkd.purification.models import save_model
from bedkd.purification.verdict import Verdict
from bedkd.runs.records import environment


@dataclass(frozen=True)
class Purified:
    """What came of it. `classifier`: the clean model; the one given, where nothing was erased.

    flagged: see `list_flagged`. scores: label, mepd and, for BeDKD+, p, of the training rows that
    were scored. learnt: numbers of the training rows that the clean model was trained on, beside
    trusted ones. measured: [before, after] by what was measured, in percent, or None. facts:
    settings, hashes, seconds.
    """

    classifier: Classifier
    verdict: Verdict
    flagged: pd.DataFrame
    scores: pd.DataFrame
    learnt: np.ndarray
    measured: dict[str, list[float | None]]
    facts: dict

    @property
    def model(self):
        return self.classifier.model

    @property
    def tokenizer(self):
        return self.classifier.tokenizer

    def save(self, folder: str | Path) -> Path:
        """Model, tokenizer, README.md, card.md, card.html and flagged.parquet, in a new folder,
        whole or not at all. Raises BedkdError if it is there already, or cannot be written."""
        return save_all(self, Path(folder))

    def write_card(self) -> str:
        """The defence card, Markdown."""
        return card.write_card(self.verdict, self.measured, self.facts, len(self.flagged))

    def conclude(self) -> str:
        """What came of it, for a terminal."""
        return card.conclude(self.verdict, self.measured)


def save_all(purified: Purified, folder: Path) -> Path:
    """See `Purified.save`."""
    check_target(folder)
    folder = from_here(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise BedkdError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        write_all(purified, temporary / "model")
        os.rename(temporary / "model", folder)
    except OSError as error:
        raise BedkdError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_target(folder: str | Path) -> None:
    """Raises BedkdError where `save_all` would: better before hours of work than after."""
    folder = from_here(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BedkdError(f"{folder} is no folder; name one that is not there yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise BedkdError(f"{folder} is not empty; name a folder that is not there yet")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise BedkdError(f"cannot write to {parent}: no folder, or no permission")


def write_all(purified: Purified, folder: Path) -> None:
    save_model(purified.classifier, folder)
    purified.flagged.to_parquet(folder / "flagged.parquet")
    text = purified.write_card()
    write_text(folder / "card.md", text)
    write_text(folder / "card.html", card.to_html(text))
    write_text(folder / "README.md", card.write_readme(purified.verdict, purified.facts))
    verdict = asdict(purified.verdict) | {"measured": purified.measured} | purified.facts
    write_json(folder / "card.json", verdict | environment(), default=float)
