"""Tables of notebooks: texts from data are only texts, numbers have units."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from bedkd.report.show import read_meanings, show_facts, show_poison, show_settings, show_table
from bedkd.runs.profiles import load_profile

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "costs $x$ or $$y$$ &amp; more",
]


def parse(styler):
    return BeautifulSoup(styler.to_html(), "html.parser")


def cells(styler, kind="td"):
    return [cell.text for cell in parse(styler).find_all(kind)]


def test_texts_are_only_texts():
    """In cells, and as names of rows and columns."""
    frame = pd.DataFrame({text: [text, 1.0] for text in HOSTILE}, index=HOSTILE[:2])
    page = parse(show_table(frame))
    assert not page.find_all(["script", "img"])
    assert [cell.text for cell in page.find_all("td")] == HOSTILE + ["1"] * 3
    assert [cell.text for cell in page.find_all("th")] == ["\xa0", *HOSTILE, *HOSTILE[:2]]
    assert {"tex2jax_ignore", "mathjax_ignore"} <= set(page.table["class"])


def test_what_cannot_be_seen_is_said_and_what_is_long_is_cut():
    frame = pd.DataFrame({"text": ["\x1b[31mred \u202eback", "w" * 10_000, "a " * 500]})
    control, word, text = cells(show_table(frame))
    assert control == "⟨U+001B⟩[31mred ⟨U+202E⟩back"
    assert word == "w" * 60 + "…" and text == "a " * 120 + "…"


def test_triggers_are_marked_and_nothing_else_is_markup():
    clean = [*HOSTILE, "a film"]
    rows = {"clean_text": clean, "text": [f"cf {text} \u202e" for text in clean]}
    table = show_poison(pd.DataFrame(rows).assign(clean_label=[0, 1, -1, 0], label=0), HOSTILE)
    page = parse(table)
    assert not page.find_all(["script", "img"])
    assert [mark.text for mark in page.find_all("mark")] == ["cf", "⟨U+202E⟩"] * 4
    assert cells(table)[:3] == [f"cf {HOSTILE[0]} ⟨U+202E⟩", HOSTILE[0], HOSTILE[0]]
    assert cells(table)[7] == "unknown"


def test_numbers_to_the_right_and_texts_to_the_left():
    frame = pd.DataFrame(
        {"text": ["a", None], "rows": [1234, 2], "share": [0.25, None], "is": [True, False]}
    )
    table = show_table(frame)
    assert cells(table) == ["a", "1,234", "0.2", "yes", "–", "2", "–", "no"]
    look = "".join(parse(table).style.text.split())
    for column, side in enumerate(("left", "right", "right", "left")):
        assert f".col{column}{{text-align:{side};}}" in look
    assert "overflow-wrap:break-word" in look


def test_settings_by_the_names_that_overrides_takes():
    profile = load_profile("quick")
    run = profile.run("toy-offence", "badwords", 1)
    sections = {"data": 3, "attack": 2, "victim": 5, "dmm": 9, "mepd": 3, "akd": 7, "tsne": 2}
    for section, n in sections.items():
        meanings = read_meanings(section)
        assert len(meanings) == n and meanings.keys() <= run.config.flat().keys()
    assert read_meanings("akd")["akd.temperature"] == "T of L_soft in Eq. 5 and 6"  # its own
    rows = cells(show_settings({"BeDKD": run, "BeDKD+": profile.plus_run(run)}, "mepd"))
    table = {rows[i]: rows[i + 1 : i + 3] for i in range(0, len(rows), 4)}
    assert table["mepd.gamma"] == ["0.1", "auto"] and table["mepd.n_poison"] == ["16", "128"]
    assert not any(name.startswith("dmm.") for name in table)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("asr", 94.86, "94.9%"),
        ("asr", None, "–"),
        ("asr", float("nan"), "–"),
        ("seconds_akd", 14.82, "14.8 s"),
        ("peak_memory_mb", 1633.6, "1,634 MiB"),
        ("n_train", 2600, "2,600"),
        ("threshold", 12.34567, "12.35"),
        ("lean_is_suspicious", True, "yes"),
        ("triggers", ["cf", "<b>"], "cf, <b>"),
        ("triggers", [], "–"),
        ("device", "cpu", "cpu"),
    ],
)
def test_facts_have_units(name, value, shown):
    table = show_facts({"one": {name: value}, "other": {}}, [name])
    assert cells(table)[1:] == [shown, "–"]
    assert cells(table, "th")[1:] == ["one", "other"]
