"""A survey is added to cell by cell, and goes on where it was."""

import json

import pytest

from bedkd.purification import survey

CELLS = [("toy-topics", "none", 3, 0.0), ("toy-topics", "badwords", 3, 0.05)]


@pytest.fixture
def judged(monkeypatch):
    """The cells that were judged."""
    done = []

    def judge(cell, profile):
        done.append(cell)
        names = ("dataset", "attack", "seed", "poison_rate")
        return dict(zip(names, cell, strict=True)) | {"answer": "no evidence ✓", "profile": profile}

    monkeypatch.setattr(survey, "judge_cell", judge)
    return done


def test_each_cell_is_kept_when_it_is_done_and_not_judged_again(judged, tmp_path):
    kept = tmp_path / "survey.jsonl"
    assert len(survey.judge_cells(CELLS[:1], kept=kept)) == 1
    table = survey.judge_cells([list(cell) for cell in CELLS], "quick", kept)  # as from JSON
    assert judged == CELLS and table.poison_rate.tolist() == [0.0, 0.05]
    assert [json.loads(line)["answer"] for line in kept.read_text().splitlines()] == [
        "no evidence ✓"
    ] * 2
    survey.judge_cells(CELLS)
    assert judged == CELLS * 2


def test_the_cells_are_those_that_are_asked_for():
    """12 clean models, and 12 or more poisoned: three attacks, three data sets, 1 to 20%."""
    clean = [cell for cell in survey.CELLS if cell[1] == "none"]
    poisoned = [cell for cell in survey.CELLS if cell[1] != "none"]
    assert len(clean) == 12 and len(poisoned) == len(set(poisoned)) == 21
    assert {cell[1] for cell in poisoned} == {"badwords", "addsent", "synbkd"}
    assert {cell[3] for cell in poisoned} == {0.01, 0.05, 0.2}


def test_a_cell_without_a_rate_has_the_profiles():
    assert survey.open_cell(("toy-topics", "badwords", 3, 0.0)).config.attack.poison_rate == 0.2
    assert survey.open_cell(CELLS[1]).config.attack.poison_rate == 0.05
