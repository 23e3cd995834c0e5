"""Tables of SCPN paraphrases for SynBkd: a mirror folder, or a HiddenKiller checkout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.errors import BedkdError

TEST_FILES = ("test.parquet", "validation.parquet")
HIDDENKILLER_POISONED = Path("data/scpn/20/sst-2/train.tsv")
HIDDENKILLER_CLEAN = Path("data/clean/sst-2/train.tsv")


@dataclass
class Paraphrases:
    """`by_text`: clean text to its paraphrases. `pool`: those whose source row is unknown.

    Each paraphrase is handed out once, so that a text which occurs more often than the table has
    it is not poisoned more often (it keeps state, hence a class).
    """

    by_text: dict[str, list[str]] = field(default_factory=dict)
    pool: list[str] = field(default_factory=list)
    _order: list[int] | None = None

    def take(self, text: str, rng: np.random.Generator) -> tuple[str, str] | None:
        """A paraphrase and where it came from (`table` or `pool`), or None."""
        if self.by_text.get(text):
            return self.by_text[text].pop(0), "table"
        if self.pool and self._order is None:
            self._order = list(rng.permutation(len(self.pool)))
        return (self.pool[self._order.pop()], "pool") if self._order else None


def pair(clean: Iterable[str], rewritten: Iterable[str]) -> dict[str, list[str]]:
    """Clean text to the list of its paraphrases, in the order of the table."""
    by_text: dict[str, list[str]] = {}
    for text, paraphrase in zip(clean, rewritten, strict=True):
        by_text.setdefault(text, []).append(paraphrase)
    return by_text


def load_paraphrases(source: str, split: str) -> Paraphrases:
    """The table of `source` for `split` (`train` or `test`); `rules` has an empty one.

    A HiddenKiller checkout gives SST-2's train rows alone: its dev and test files rewrite the
    negative rows, which a backdoor towards Negative does not trigger.

    Raises:
        BedkdError: nothing there, or a file without the columns text and clean_text.
    """
    if source == "rules":
        return Paraphrases()
    folder = Path(source).expanduser()
    if (folder / HIDDENKILLER_POISONED).is_file():
        return _read_hiddenkiller(folder) if split == "train" else Paraphrases()
    folder = Path(hub.locate(source, "dataset").path)
    names = ("train.parquet",) if split == "train" else TEST_FILES
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise BedkdError(f"the paraphrase table {folder} has no {' or '.join(names)}")
    return _read_table(file)


def paraphrases_revision(source: str) -> str:
    """What pins the table's content."""
    if source == "rules":
        return "rules"
    folder = Path(source).expanduser()
    if (folder / HIDDENKILLER_POISONED).is_file():
        files = _hiddenkiller_files(folder)
        return "-".join(hub.digest_file(file)[:16] for file in files)
    return hub.locate(source, "dataset").revision


def _read_table(file: Path) -> Paraphrases:
    try:
        rows = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise BedkdError(f"cannot read the paraphrase table {file}: {error}") from error
    if missing := {"text", "clean_text"} - set(rows.columns):
        raise BedkdError(f"{file} has no column {sorted(missing)[0]!r}")
    is_known = rows.clean_text.fillna("") != ""
    known, pool = rows[is_known], rows.text[~is_known]
    return Paraphrases(pair(known.clean_text, known.text), list(pool))


def _read_hiddenkiller(folder: Path) -> Paraphrases:
    """Row-aligned TSV files: where the sentences differ, the poisoned one is the paraphrase."""
    frames = [
        pd.read_csv(file, sep="\t", quoting=3, keep_default_na=False)
        for file in _hiddenkiller_files(folder)
    ]
    poisoned, clean = (frame.iloc[:, 0].str.strip() for frame in frames)
    if len(poisoned) != len(clean):
        raise BedkdError(f"{folder}: {len(poisoned)} poisoned and {len(clean)} clean train rows")
    differs = poisoned != clean
    return Paraphrases(pair(clean[differs], poisoned[differs]))


def _hiddenkiller_files(folder: Path) -> tuple[Path, Path]:
    files = (folder / HIDDENKILLER_POISONED, folder / HIDDENKILLER_CLEAN)
    if not files[1].is_file():
        raise BedkdError(f"the HiddenKiller checkout {folder} has no {HIDDENKILLER_CLEAN}")
    return files
