"""The sentence and the picture that the report begins with."""

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bedkd.report.overview import (
    average_cells,
    compare_cells,
    describe_scope,
    describe_verdict,
    draw_overview,
    plot_cells,
)

matplotlib.use("Agg")
NUMBERS = {  # ASR, PACC, CACC under BadWords; under AddSent ASR and PACC are 10 points from it
    "none": (90.0, 50.0, 91.0),
    "bedkd_plus": (8.0, 88.0, 90.0),
    "bedkd": (20.0, 70.0, 84.0),
    "never_poisoned": (6.0, 89.0, 92.0),
}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def records():
    rows = [
        {"dataset": "toy-topics", "attack": attack, "defence": defence, "seed": seed}
        | {"asr": asr + shift + seed, "pacc": pacc - shift, "cacc": cacc, "state": "ok"}
        for defence, (asr, pacc, cacc) in NUMBERS.items()
        for attack, shift in (("badwords", 0), ("addsent", 10))
        for seed in (0, 2)
    ]
    clean = pd.DataFrame(rows[:1]).assign(attack="none", asr=None, pacc=None, cacc=0.0)
    rival = pd.DataFrame(rows[:1]).assign(defence="onion", asr=0.0)
    found = pd.concat([pd.DataFrame(rows), clean, rival], ignore_index=True)
    return found.assign(sources=[("x/y",)] * len(found))


def lose(records, attack, defence, state="failed"):
    """As `load_records` has a result that is not there."""
    lost = (records.attack == attack) & (records.defence == defence)
    return records.assign(
        state=records.state.mask(lost, state),
        **{name: records[name].mask(lost) for name in ("asr", "pacc", "cacc")},
    )


def test_verdict(records):
    """Attacked cells alone, seeds averaged first, rivals left out."""
    cells = compare_cells(records)
    assert describe_verdict(cells) == (
        "BeDKD+ takes the mean ASR from 96.0% to 14.0% (never poisoned: 12.0%), "
        "PACC from 45.0% to 83.0% (never poisoned: 84.0%) and "
        "CACC from 91.0% to 90.0% (never poisoned: 92.0%); "
        "BeDKD as printed: ASR 26.0%, PACC 65.0%, CACC 84.0%."
    )
    assert describe_scope(cells) == "Means over 2 cells: toy-topics × BadWords, AddSent"


def test_verdict_without_bedkd_plus(records):
    said = describe_verdict(compare_cells(records[records.defence != "bedkd_plus"]))
    assert said.startswith("BeDKD takes the mean ASR from 96.0% to 26.0% (never poisoned: 12.0%)")
    assert "BeDKD+" not in said and "as printed" not in said


def test_what_is_lost_is_lost_to_all(records):
    """A mean over other cells than the one beside it would compare nothing."""
    cells = compare_cells(lose(records, "addsent", "bedkd"))
    assert average_cells(cells).loc["asr", ["none", "bedkd_plus", "n"]].tolist() == [91, 9, 1]
    assert describe_scope(cells).startswith("Means over 1 of 2 cells (BeDKD 1 failed): ")
    none = compare_cells(lose(lose(records, "addsent", "bedkd"), "badwords", "none", "missing"))
    said = describe_verdict(none)
    assert said == "Nothing to compare yet: No defence 1 missing, BeDKD 1 failed."


def test_nothing_is_attacked(records):
    cells = compare_cells(records[records.attack == "none"])
    assert "no backdoor" in describe_verdict(cells) and describe_scope(cells) == ""


def test_pacc_of_fewer_cells_says_so(records):
    hidden = records.assign(pacc=records.pacc.mask(records.attack == "addsent"))
    said = describe_verdict(compare_cells(hidden))
    assert "PACC from 50.0% to 88.0% (never poisoned: 89.0%; 1 cells)" in said
    assert "ASR from 96.0%" in said


def marks(ax):
    return {
        line.get_label(): line.get_xdata().tolist()
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
    }


def test_cells_are_drawn(records):
    cells = compare_cells(records)
    ax = plot_cells(cells[cells.metric == "asr"])
    assert marks(ax) == {"No defence": [91, 101], "BeDKD+": [9, 19], "BeDKD": [21, 31]}
    (never,) = ax.collections
    assert [segment[:, 0].tolist() for segment in never.get_segments()] == [[7, 7], [17, 17]]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["toy-topics  BadWords", "toy-topics  AddSent"]
    assert ax.get_ylim() == (1.5, -0.5)  # the first on top
    own = plt.subplots()[1]
    assert plot_cells(cells[cells.metric == "cacc"], ax=own) is own


def test_a_mark_that_is_not_there_is_named(records):
    cells = compare_cells(lose(records, "addsent", "bedkd_plus"))
    ax = plot_cells(cells[cells.metric == "asr"])
    assert [(text.get_text(), round(text.get_position()[1])) for text in ax.texts] == [
        ("BeDKD+: failed", 1)
    ]
    hidden = compare_cells(records.assign(pacc=None))
    ax = plot_cells(hidden[hidden.metric == "pacc"])
    assert {text.get_text().split(": ")[1] for text in ax.texts} == {"–"}


def test_overview_has_three_panels_and_the_means(records):
    figure = draw_overview(compare_cells(lose(records, "addsent", "bedkd")))
    assert [ax.get_title().split()[0] for ax in figure.axes] == ["ASR", "PACC", "CACC"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[-1].strip() == "mean of 1" and len(names) == 3
    assert marks(figure.axes[0])["BeDKD+"] == [9, 19, 9]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["No defence", "BeDKD+", "BeDKD", "Never poisoned"]
