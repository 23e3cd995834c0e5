"""Poisoned texts as a reader sees them: the trigger marked."""

import difflib
import html

import pandas as pd
from pandas.io.formats.style import Styler

from bedkd.report.show import show_table, visible


def mark_trigger(clean: str, poisoned: str) -> str:
    """HTML of the poisoned text with the words marked that the clean text does not have there."""
    before, after = clean.split(), poisoned.split()
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        if words := html.escape(" ".join(after[start:end])):
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def show_poison(rows: pd.DataFrame, label_names: tuple[str, ...]) -> Styler:
    """A table of texts with the trigger marked. rows: clean_text, text, clean_label, label."""
    names = {-1: "unknown"} | dict(enumerate(label_names))
    texts = zip(rows.clean_text.map(visible), rows.text.map(visible), strict=True)
    shown = {
        "text in D*": [mark_trigger(*pair) for pair in texts],
        "true label": rows.clean_label.map(names).array,
        "label": rows.label.map(names).array,
    }
    return show_table(pd.DataFrame(shown), marked=["text in D*"])
