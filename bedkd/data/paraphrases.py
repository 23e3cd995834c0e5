"""Tables of paraphrases, for SynBkd, StyBkd and AIText: a folder, or a checkout of the authors'."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here

FILES = {"train": ("train.parquet",), "test": ("test.parquet", "validation.parquet")}
# SST-2 in the authors' repositories: of each split the rewritten and the clean file, row for row.
# HiddenKiller's dev and test files rewrite negative rows, which a backdoor towards Negative does
# not trigger.
CLEAN, BIBLE = "data/clean/sst-2", "data/transfer/bible/sst-2"
HIDDENKILLER = {"train": ("data/scpn/20/sst-2/train.tsv", f"{CLEAN}/train.tsv")}
STYLEATTACK = {
    "train": (f"{BIBLE}/train.tsv", f"{CLEAN}/train.tsv"),
    "test": (f"{BIBLE}/dev.tsv", f"{CLEAN}/dev.tsv"),
}


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


def load_paraphrases(source: str, split: str) -> Paraphrases:
    """The table of `source` for `split` (`train` or `test`); `rules` has an empty one.

    Raises BedkdError: nothing there, or a file without the columns text and clean_text.
    """
    if source == "rules":
        return Paraphrases()
    if files := _checkout_files(source):
        return _read_checkout(files[split], source) if split in files else Paraphrases()
    folder = Path(hub.locate(source, "dataset").path)
    for name in FILES[split]:
        if (folder / name).is_file():
            return _read_table(folder / name)
    raise BedkdError(f"the paraphrase table {folder} has no {' or '.join(FILES[split])}")


def paraphrases_revision(source: str) -> str:
    """What pins the table's content."""
    if source == "rules":
        return "rules"
    if files := _checkout_files(source):
        return "-".join(hub.digest_file(file)[:16] for pair in files.values() for file in pair)
    return hub.locate(source, "dataset").revision


def _read_table(file: Path) -> Paraphrases:
    try:
        rows = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise BedkdError(f"cannot read the paraphrase table {file}: {error}") from error
    if missing := {"text", "clean_text"} - set(rows.columns):
        raise BedkdError(f"{file} has no column {min(missing)!r}")
    is_known = rows.clean_text.fillna("") != ""
    return Paraphrases(_by_text(rows[is_known]), list(rows.text[~is_known]))


def _by_text(rows: pd.DataFrame) -> dict[str, list[str]]:
    return rows.groupby("clean_text", sort=False).text.agg(list).to_dict()


def _read_checkout(files: list[Path], source: str) -> Paraphrases:
    """Row-aligned TSV files: where the sentences differ, the first file's is the paraphrase."""
    tables = [
        pd.read_csv(file, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False) for file in files
    ]
    text, clean_text = (table.iloc[:, 0].str.strip() for table in tables)
    if len(text) != len(clean_text):
        raise BedkdError(f"{source}: {len(text)} poisoned and {len(clean_text)} clean rows")
    rows = pd.DataFrame({"text": text, "clean_text": clean_text})
    return Paraphrases(_by_text(rows[text != clean_text]))


def _checkout_files(source: str) -> dict[str, list[Path]]:
    """Of each split, the two files of a checkout of HiddenKiller or StyleAttack; {} for a table."""
    folder = from_here(source)
    for layout in (HIDDENKILLER, STYLEATTACK):
        files = {split: [folder / name for name in pair] for split, pair in layout.items()}
        if not files["train"][0].is_file():
            continue
        for file in (file for pair in files.values() for file in pair):
            if not file.is_file():
                raise BedkdError(f"the checkout {folder} has no {file.relative_to(folder)}")
        return files
    return {}
