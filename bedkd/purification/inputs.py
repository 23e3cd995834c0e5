"""Labelled rows from somebody else, with the ids of a model's labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.data.readers import LABEL_COLUMNS, TEXT_COLUMNS, find_column
from bedkd.data.splits import normalise
from bedkd.purification.labels import list_some, match_labels, shorten
from bedkd.purification.refusing import printable
from bedkd.purification.sources import read_table

TEXTS = (*TEXT_COLUMNS, "review", "comment", "message", "body")
LABELS = (*LABEL_COLUMNS, "target", "sentiment", "category")
LEAST_CLEAN = 2  # trusted rows of a class: one to learn from, one to check with
FEW_CLEAN = 40  # of a class; below it a note says so


def read_rows(
    source,
    label_names: Sequence[str],
    where: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
) -> pd.DataFrame:
    """Columns `text` (str) and `label` (int64, 0 to C-1: the model's own ids), in the rows' order.

    `source`: a CSV, TSV, JSON (Lines) or Parquet file; a hub id `owner/name` or `owner/name:split`
    (`train`, if none is given); a DataFrame; a `datasets.Dataset`; or a pair (texts [N],
    labels [N]). `label_names` [C], in the order of the ids. `where` is what messages call objects
    in memory. Columns are guessed by their names if none are given; see `match_labels` for labels.

    Raises BedkdError: it cannot be read, a column is missing, a text or label is not one.
    """
    where = str(source) if isinstance(source, str | Path) else where
    frame = read_table(source, label_names, where)
    text = pick_column(frame, text_column, TEXTS, where, "text")
    label = pick_column(frame, label_column, LABELS, where, "label")
    if text == label:
        raise BedkdError(f"{where}: column {text!r} cannot be both the texts and the labels")
    if not len(frame):
        raise BedkdError(f"{where} has no rows")
    texts = list(frame[text])
    check_texts(texts, where)
    return pd.DataFrame({"text": texts, "label": match_labels(frame[label], label_names, where)})


def pick_column(
    frame: pd.DataFrame, wanted: str | None, usual: tuple[str, ...], where: str, kind: str
):
    """The column's name: `wanted`, or the first of the `usual` that is there, in any case."""
    columns = [column for column in frame.columns if isinstance(column, str)]
    by_name = {column.casefold(): column for column in reversed(columns)}
    by_name |= {column: column for column in columns}
    guesses = tuple(by_name.get(name, name) for name in usual)
    try:
        column = find_column(frame, wanted, guesses, where)
    except BedkdError as error:
        raise BedkdError(
            f"{printable(str(error))}; name the one with the {kind}s (--{kind}-column)"
        ) from error
    if list(frame.columns).count(column) != 1:
        raise BedkdError(f"{where} has several columns {column!r}")
    return column


def check_texts(texts: list, where: str) -> None:
    """Raises BedkdError for the first that is no text, empty, or holds what no tokenizer takes."""
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            shown = shorten(repr(text))
            raise BedkdError(f"{where}: the text of row {row} is {shown}; it must be words")
        if "\0" in text:
            raise BedkdError(f"{where}: the text of row {row} holds a NUL character; it is no text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BedkdError(
                f"{where}: the text of row {row} is not Unicode (character {error.start})"
            ) from error


@dataclass(frozen=True)
class Tables:
    """D* and the trusted rows (columns text, label), and what was seen in them, as sentences."""

    train: pd.DataFrame
    clean: pd.DataFrame
    notes: tuple[str, ...]


def check_pair(train: pd.DataFrame, clean: pd.DataFrame, n_classes: int) -> Tables:
    """What must hold of both together; texts are the same if they are, case and spaces aside.

    Duplicates among the trusted rows go, the first stays. Those of the training rows stay, and so
    do trusted rows that stand in the training rows, too. All this is said in the notes.

    Raises BedkdError: no rows, fewer than LEAST_CLEAN trusted rows of a class, or a trusted text
    with two labels.
    """
    for rows, kind in ((train, "training"), (clean, "clean")):
        if not len(rows):
            raise BedkdError(f"there are no {kind} rows")
    key = normalise(clean.text)
    check_contradictions(clean, key)
    kept = clean[~key.duplicated()].reset_index(drop=True)
    n_each = [int((kept.label == label).sum()) for label in range(n_classes)]
    for label, n in enumerate(n_each):
        if n < LEAST_CLEAN:
            raise BedkdError(
                f"the clean rows have {n} different texts of class {label}; give at least "
                f"{LEAST_CLEAN} of each class, better {FEW_CLEAN}"
            )
    notes = [*describe_clean(len(clean) - len(kept), n_each), *describe_train(train, n_classes)]
    notes += describe_overlap(train, kept)
    return Tables(train.reset_index(drop=True), kept, tuple(notes))


def check_contradictions(clean: pd.DataFrame, key: pd.Series) -> None:
    first: dict[str, int] = {}
    labels = clean.label.to_list()
    for row, text in enumerate(key):
        other = first.setdefault(text, row)
        if labels[other] != labels[row]:
            raise BedkdError(
                f"clean rows {other} and {row} are the same text with labels {labels[other]} and "
                f"{labels[row]}; correct one, or leave both out"
            )


def describe_clean(n_dropped: int, n_each: list[int]) -> list[str]:
    notes = [f"{n_dropped} duplicates among the clean rows were left out."] if n_dropped else []
    few = [f"class {label} has {n}" for label, n in enumerate(n_each) if n < FEW_CLEAN]
    if few:
        notes.append(f"Few clean rows: {list_some(few)}, under {FEW_CLEAN}.")
    return notes


def describe_train(train: pd.DataFrame, n_classes: int) -> list[str]:
    n_again = int(normalise(train.text).duplicated().sum())
    notes = [f"{n_again} training rows repeat the text of an earlier one."] if n_again else []
    missing = sorted(set(range(n_classes)) - set(train.label))
    if missing:
        notes.append(f"No training row has class {', '.join(map(str, missing))}.")
    return notes


def describe_overlap(train: pd.DataFrame, clean: pd.DataFrame) -> list[str]:
    label_of = dict(zip(normalise(clean.text), clean.label, strict=True))
    own = normalise(train.text).map(label_of)
    is_both = own.notna()
    if not is_both.any():
        return []
    n_texts = normalise(train.text)[is_both].nunique()
    n_other = int((own[is_both] != train.label[is_both]).sum())
    other = f"; {n_other} of those training rows have another label" if n_other else ""
    return [f"{n_texts} clean rows stand in the training rows, too{other}."]
