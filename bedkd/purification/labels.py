"""What rows call their labels, and the ids of a model."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.data.readers import is_number, label_text

N_SHOWN = 8  # labels in a message


def match_labels(values: Iterable, label_names: Sequence[str], where: str) -> np.ndarray:
    """The model's ids [N] (int64) of labels [N], which are its names or its ids.

    Names count in any case where that leaves no doubt; ids are 0 to C-1, as numbers or as text,
    unless the names are numbers themselves, which then are meant. Raises BedkdError for the first
    label that is neither, with what the model has and what the rows have.
    """
    number = label_numbers(label_names)
    texts = [clean_label(value) for value in values]
    for row, text in enumerate(texts):
        if not text:
            raise BedkdError(f"{where}: row {row} has no label")
        if text not in number and text.casefold() not in number:
            raise BedkdError(refuse_label(texts, row, label_names, where))
    found = [number[text] if text in number else number[text.casefold()] for text in texts]
    return np.array(found, dtype=np.int64)


def label_numbers(label_names: Sequence[str]) -> dict[str, int]:
    """What the rows may call a label, and its id."""
    names = [name.strip() for name in label_names]
    n_alike = Counter(name.casefold() for name in names)
    number = {n.casefold(): i for i, n in enumerate(names) if n_alike[n.casefold()] == 1}
    if not any(map(is_number, names)):
        number |= {str(i): i for i in range(len(names))}
    return number | {name: i for i, name in enumerate(names)}


def clean_label(value) -> str:
    """A label as text, `1` for 1.0 and "1.0" too; nothing for one that is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = label_text(value).strip()
    whole, point, rest = text.partition(".")
    return whole if point and is_number(whole) and rest and not rest.strip("0") else text


def refuse_label(texts: list[str], row: int, label_names: Sequence[str], where: str) -> str:
    own = list(map(repr, label_names))
    there = list(map(repr, dict.fromkeys(filter(None, texts))))
    last = len(own) - 1
    return (
        f"{where}: the label of row {row} is {shorten(repr(texts[row]))}, which the model does not "
        f"have: its labels are {list_some(own)} (ids 0 to {last}), those of the rows "
        f"{list_some(there)}; use the model's names or ids"
    )


def list_some(values: list[str]) -> str:
    more = f" and {len(values) - N_SHOWN} more" if len(values) > N_SHOWN else ""
    return ", ".join(map(shorten, values[:N_SHOWN])) + more


def shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
