"""TextGuard's words, and which of its m groups each of them is in."""

import hashlib
import re
from collections.abc import Collection

import pandas as pd

from bedkd.core.errors import BedkdError

# The authors split with nltk's word_tokenize, which has to download its rules before it runs.
# This needs nothing, and leaves no character out but spaces.
WORD = re.compile(r"\w+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks, in order."""
    return WORD.findall(text)


def group_of(word: str, n_groups: int) -> int:
    """MD5 of the word, its case ignored, modulo m: the same on every machine, in every run."""
    return int(hashlib.md5(word.lower().encode(), usedforsecurity=False).hexdigest(), 16) % n_groups


def split_text(text: str, n_groups: int, dictionary: Collection[str] | None = None) -> list[str]:
    """The m sub-texts, each with its group's words in their order, joined by spaces; maybe "".

    With a dictionary, a word that is not in it is in every group.
    """
    parts = [[] for _ in range(n_groups)]
    for word in split_words(text):
        is_free = dictionary is not None and word.lower() not in dictionary
        for group in range(n_groups) if is_free else (group_of(word, n_groups),):
            parts[group].append(word)
    return [" ".join(part) for part in parts]


def split_rows(
    rows: pd.DataFrame, n_groups: int, dictionary: Collection[str] | None = None
) -> list[pd.DataFrame]:
    """The m training sets: text, label. A row without a word of the group is not in the group's.
    Raises BedkdError if a set is left empty."""
    texts = zip(*(split_text(text, n_groups, dictionary) for text in rows.text), strict=True)
    parts = [pd.DataFrame({"text": t, "label": rows.label.to_numpy()}) for t in texts]
    parts = [part[part.text != ""].reset_index(drop=True) for part in parts]
    for group, part in enumerate(parts):
        if part.empty:
            raise BedkdError(
                f"group {group} of textguard.n_groups = {n_groups} has no word of D*, so nothing "
                "to learn from; take fewer groups"
            )
    return parts
