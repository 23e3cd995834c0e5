"""Tables as notebooks show them: what is set, what came out, and texts that are only texts.

Texts from data are untrusted: in `show_table`, which all others use, nothing is read as HTML, TeX
or a terminal's code, and a long word is cut.
"""

import difflib
import html
import inspect
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from bedkd.core.config import RunConfig
from bedkd.report.layouts import NAMES
from bedkd.runs.folders import Run

NOTHING = "–"
LONG_WORD, LONG_TEXT = 60, 120  # characters of a word, words of a text: more is cut
# by MathJax 2 (exported pages) and 3 (JupyterLab)
NO_TEX = 'class="tex2jax_ignore mathjax_ignore"'
ROOM = "padding: 2px 8px; line-height: 1.4"  # which widgets' tables do not have of themselves
LOOK = [
    # not `anywhere`: a long text would then squeeze the labels beside it
    {"selector": "td, th", "props": "vertical-align: top; overflow-wrap: break-word; " + ROOM},
    {"selector": "th.row_heading, th.index_name", "props": "text-align: left"},
    {"selector": "caption", "props": "text-align: left; font-weight: bold"},
]
# names of a record's fields, beside `layouts.NAMES`
FACTS = NAMES["metric"] | {
    "mepd_clean": "MEPD, clean",
    "mepd_poisoned": "MEPD, poisoned",
    "far_test": "FAR on the test sets",
    "frr_test": "FRR on the test sets",
    "far_train": "FAR on D*",
    "frr_train": "FRR on D*",
    "n_scored": "rows of D* scored",
    "n_flagged": "flagged rows",
    "poison_few_purity": "purity of D_p^few*",
    "n_train": "rows of D*",
    "n_poison_wanted": "rows to be poisoned",
    "n_poisoned": "rows poisoned",
    "n_train_no_paraphrase": "rows of D* left out: no paraphrase",
    "n_test": "clean test rows",
    "n_test_triggered": "triggered test rows, of other classes than the target",
    "n_test_triggered_target": "triggered test rows of the target class",
    "n_test_no_paraphrase": "test rows left out: no paraphrase",
    "n_clean": "clean rows that it has",
    "n_poison": "rows of D_p^few*",
    "n_selected": "rows of D_p^few*",
    "n_taught": "rows of D* with a trigger, told by the student",
    "n_cycles": "cycles",
    "n_kept": "rows of D* to keep",
    "flipped_accuracy": "flipped labels that the DMM gives",
    "lean_label": "label that flagged rows lean to",
    "lean_share": "flagged, of this label",
    "lean_others": "flagged, of all others",
    "lean_is_suspicious": "more than clean rows would be",
    "seconds": "time",
    "seconds_dmm": "time for the DMM",
    "seconds_akd": "time for AKD",
    "seconds_inference": "time on the test rows",
    "seconds_counter": "time for the triggers",
    "seconds_finding": "time to find the rows",
    "peak_memory_mb": "peak memory",
    "clean_accuracy": "accuracy on D_c^few, defended",
    "victim_clean_accuracy": "accuracy on D_c^few, victim",
    "teacher_accuracy": "accuracy of the teacher on clean rows",
}
PERCENT = re.compile("asr|pacc|cacc|lfr|far_|frr_|accuracy|purity|_share|lean_others")


def show_table(frame: pd.DataFrame, *, marked: Sequence[str] = ()) -> Styler:
    """Numbers to the right, with one decimal; all else to the left, as text; – for what is not
    there. An index of mere row numbers is hidden. `marked`: columns that are safe HTML already."""
    numbers = frame.select_dtypes("number").columns
    others = [name for name in frame if name not in [*numbers, *marked]]
    texts = {name: [format_value(value) for value in frame[name]] for name in others}
    table = Styler(frame.assign(**texts), cell_ids=False, table_attributes=NO_TEX)
    table.format(precision=1, na_rep=NOTHING, thousands=",", escape="html")
    table.format(None, subset=list(marked))
    for axis in (0, 1):
        table.format_index(escape="html", axis=axis)
    sides = {name: "right" if name in numbers else "left" for name in frame}
    columns = {
        name: [{"selector": "", "props": f"text-align: {side}"}] for name, side in sides.items()
    }
    table.set_table_styles(LOOK).set_table_styles(columns, overwrite=False)
    return table.hide(axis="index") if isinstance(frame.index, pd.RangeIndex) else table


def show_settings(runs: dict[str, Run], *sections: str) -> Styler:
    """What is set in these sections, by the names that `overrides` takes: a column for each run,
    and what it means."""
    meanings = {}
    for section in sections:
        meanings |= read_meanings(section)
    flat = {title: run.config.flat() for title, run in runs.items()}
    table = {"parameter": list(meanings)}
    table |= {title: [format_value(values[n]) for n in meanings] for title, values in flat.items()}
    return show_table(pd.DataFrame(table | {"meaning": meanings.values()}))


def read_meanings(section: str) -> dict[str, str]:
    """`section.name` to what `#:` says of it in `core/config.py`, beside it or above."""
    *bases, _ = type(getattr(RunConfig(), section)).__mro__
    source = "".join(map(inspect.getsource, reversed(bases)))
    said = r"^    (?:#: (.+)\n    )?(\w+): .+?(?:  #: (.+))?$"
    found = re.findall(said, source, re.MULTILINE)
    return {
        f"{section}.{name}": above or beside for above, name, beside in found if above or beside
    }


def show_facts(records: dict[str, dict], names: Iterable[str]) -> Styler:
    """These fields of records, with their units: a column for each record. – where one lacks it."""
    names = list(names)
    table = {
        title: [format_fact(name, record.get(name)) for name in names]
        for title, record in records.items()
    }
    titles = {"": list(map(name_fact, names))}
    return show_table(pd.DataFrame(titles | table))


def name_fact(name: str) -> str:
    """`time for AKD`, `ASR, never poisoned`, `trust loss`."""
    measured, never, _ = name.partition("_never_poisoned")
    return FACTS.get(measured, measured.replace("_", " ")) + ", never poisoned" * bool(never)


def format_fact(name: str, value) -> str:
    """With its unit: records have rates in percent, times in seconds, memory in MiB."""
    if (text := format_value(value)) == NOTHING:
        return text
    if PERCENT.search(name):
        return f"{value:.1f}%"
    if name.startswith("seconds"):
        return f"{value:,.1f} s"
    return f"{value:,.0f} MiB" if name.endswith("_mb") else text


def format_value(value) -> str:
    """yes or no, 1,234, 0.0005, `a, b` of several, or the text; – for None and NaN."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or NOTHING
    if value is None or value is pd.NA or value != value:
        return NOTHING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else visible(str(value))


def visible(text: str) -> str:
    """The text's words, control and bidi characters as their numbers; cut where it or one of them
    is long. Not escaped."""
    words = text.split()
    shown = [word[:LONG_WORD] + "…" * (len(word) > LONG_WORD) for word in words[:LONG_TEXT]]
    marked = (
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c)[0] == "C" else c for c in " ".join(shown)
    )
    return "".join(marked) + " …" * (len(words) > LONG_TEXT)


def escape(text: object) -> str:
    """HTML of the text, as `visible` shows it."""
    return html.escape(visible(str(text)))


def paragraph(content: str) -> str:
    """Of what is HTML already."""
    return f'<p {NO_TEX} style="overflow-wrap: anywhere"><bdi>{content}</bdi></p>'


def tabulate(frame: pd.DataFrame, *marked: str) -> str:
    """`show_table` as HTML."""
    return show_table(frame, marked=marked).to_html()


def mark_trigger(clean: str, poisoned: str) -> str:
    """HTML of the poisoned text, as `visible` shows it, with the words marked that the clean text
    does not have there."""
    before, after = visible(clean).split(), visible(poisoned).split()
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        if words := html.escape(" ".join(after[start:end])):
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def show_poison(rows: pd.DataFrame, label_names: Sequence[str]) -> Styler:
    """A table of texts with the trigger marked. rows: clean_text, text, clean_label, label."""
    names = {-1: "unknown"} | dict(enumerate(label_names))
    shown = pd.DataFrame({"text in D*": list(map(mark_trigger, rows.clean_text, rows.text))})
    for title, labels in (("true label", rows.clean_label), ("label", rows.label)):
        shown[title] = labels.map(names).array
    return show_table(shown, marked=["text in D*"])
