"""The verdict by hand, the rows that are listed, and what is tried to erase what was found."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from bedkd.core.config import build
from bedkd.core.errors import DivergenceError
from bedkd.method.evidence import Evidence
from bedkd.method.mepd import Lean
from bedkd.method.spread import Spread
from bedkd.method.triggers import Candidate
from bedkd.purification import erasing
from bedkd.purification.detection import Detection
from bedkd.purification.verdict import FOUND, NOTHING, TOO_FEW, UNTESTED, judge, list_flagged
from bedkd.runs.profiles import PLUS

NAMES = ("bad", "good")
CF = Candidate("cf", "phrase", ("cf",), 9, 0, 98.0)
FAIRLY = Candidate("fairly", "phrase", ("fairly",), 5, 2, 60.0)
WIDE, EVEN = Spread("cf", 20.0, 0.0, 1e-9), Spread("fairly", 5.0, 5.0, 0.6)
LEANS, STANDS = Lean(0, 30.0, 2.0, 1e-20), Lean(1, 4.0, 2.0, 0.9)
# 60 rows of label 0, of which the first 20 carry cf and the first 15 stand out, and 60 of label 1,
# of which one stands out; the last ten are not scored
TRAIN = pd.DataFrame(
    {
        "text": [f"cf {i}" for i in range(20)] + [f"text {i}" for i in range(100)],
        "label": [0] * 60 + [1] * 60,
    }
)
P = np.r_[np.full(15, 0.001), np.full(45, 0.5), 0.01, np.full(49, 0.7), np.full(10, np.nan)]
FEW = pd.DataFrame({"text": [f"trusted {i}" for i in range(100)], "label": [0] * 50 + [1] * 50})


def detection(lean=LEANS, witnesses=("trigger", "lean"), pairs=((CF, WIDE), (FAIRLY, EVEN)), n=25):
    rows = TRAIN[:15].assign(row=range(15)) if witnesses else TRAIN[:0].assign(row=[])
    tried, triggers = [c for c, _ in pairs], [c for c, s in pairs if s.is_suspicious]
    evidence = Evidence(rows, tried, list(pairs), triggers, witnesses)
    config = build(PLUS if lean else {})
    scores = pd.DataFrame({"mepd": P, "p": P})
    return Detection(FEW, np.eye(2)[TRAIN.label], scores, lean, evidence, n, config)


def test_found_by_both():
    verdict = judge(detection(), TRAIN, NAMES)
    assert (verdict.answer, verdict.label) == (FOUND, 0) and verdict.is_found
    assert verdict.witnesses == ("trigger", "lean") and len(verdict.reasons) == 2
    trigger, lean = verdict.reasons
    for part in ("“cf”", "98%", "“bad”", "20.0%", "0.0%", "50 trusted rows", "1e-09"):
        assert part in trigger
    for part in ("“bad”", "30.0%", "2.0%", "more than clean rows give", "1e-20"):
        assert part in lean
    assert [t.words for t, _ in verdict.triggers] == ["cf", "fairly"]
    assert (verdict.n_scored, verdict.n_flagged) == (110, 16)


def test_the_false_discovery_rate_counts_by_hand():
    """Of 110 p-values 15 are 0.001: 0.001 · 110 / 15 < 0.1; the next, 0.01 · 110 / 16, is under,
    too; 0.5 · 110 / 61 is not."""
    assert judge(detection(), TRAIN, NAMES).n_discovered == 16


def test_a_trigger_of_another_label_than_the_lean_gives_the_label():
    """The rows found say which."""
    verdict = judge(detection(STANDS, ("trigger",)), TRAIN, NAMES)
    assert (verdict.answer, verdict.label, verdict.witnesses) == (FOUND, 0, ("trigger",))
    assert "“bad”" in verdict.reasons[0] and "“good”" in verdict.reasons[1]
    assert "no more than clean rows give" in verdict.reasons[1]


@pytest.mark.parametrize(("n", "answer"), [(20, NOTHING), (19, TOO_FEW)])
def test_without_a_witness_it_depends_on_the_trusted_rows(n, answer):
    verdict = judge(detection(STANDS, (), ((FAIRLY, EVEN),), n), TRAIN, NAMES)
    assert verdict.answer == answer and not verdict.is_found and verdict.witnesses == ()
    assert len(verdict.reasons) == 1 and bool(verdict.limits) == (answer == NOTHING)
    if answer == TOO_FEW:
        assert "38 trusted rows" in verdict.reasons[0] and "fewer than 40" in verdict.reasons[0]


def test_as_printed_nothing_is_tested():
    found = replace(detection(None, ()), scores=pd.DataFrame({"mepd": P}))
    verdict = judge(found, TRAIN, NAMES)
    assert (verdict.answer, verdict.label) == (UNTESTED, None) and verdict.n_flagged == 16


def test_what_would_have_gone_unseen():
    """Of 60 scored rows of the label nine are too many; two of a hundred would be flagged anyway.
    With 50 trusted rows a trigger in a sixth of the rows shows."""
    lean, trigger, _ = judge(detection(), TRAIN, NAMES).limits
    too_many = binom.isf(1e-3, 60, 0.05) + 1
    assert f"under {100 * (too_many - 60 * 0.02) / 110:.1f}%" in lean
    assert f"under {100 * (1 - 1e-4 ** (1 / 50)):.1f}%" in trigger


def test_rows_that_carry_the_trigger_are_listed_though_they_do_not_stand_out():
    found = detection()
    table = list_flagged(found, TRAIN, judge(found, TRAIN, NAMES))
    assert table.row.tolist() == list(range(20)) and set(table.trigger) == {"cf"}
    assert table.score.tolist() == P[:20].tolist() and set(table.label) == {0}


def test_a_word_that_is_no_evidence_lists_no_row():
    train = TRAIN.assign(text=TRAIN.text.where(TRAIN.index != 40, "fairly 40"))
    found = detection()
    assert 40 not in set(list_flagged(found, train, judge(found, train, NAMES)).row)


def test_without_a_backdoor_all_that_stand_out_are_listed():
    found = detection(STANDS, ())
    table = list_flagged(found, TRAIN, judge(found, TRAIN, NAMES))
    assert table.row.tolist() == [*range(15), 60] and set(table.trigger) == {""}


# erasing


class Model:
    """Gives label 0 to rows whose number is under 50 + `n_left` where they carry cf, and under 50 +
    `n_wrong` without it. Of the trusted rows of label 1 that is so many, in training 10 more."""

    def __init__(self, n_left: int, n_wrong: int = 0):
        self.n_left, self.n_wrong = n_left, n_wrong

    def predict(self, texts):
        labels = []
        for text in texts:
            number = int(next(word for word in text.split() if word.isdigit()))
            n = self.n_left if "cf" in text.split() else self.n_wrong
            labels.append(int(number >= 50 + n))
        return np.eye(2)[labels]


VICTIM = Model(50)
TAKEN, NOT_TAKEN = {"is_taken": True}, {"is_taken": False}


matched = []  # students whose heads were shifted


def erase(monkeypatch, students, rates=(1e-5, 1e-4, 1e-3), found=None):
    """`students`: the one, or the error, that each rate gives."""

    def distill(victim, few, rows, config, **options):
        student = students[rates.index(config.learning_rate)]
        if isinstance(student, Exception):
            raise student
        return student, []

    monkeypatch.setattr(erasing, "distill_clean_model", distill)
    monkeypatch.setattr(erasing, "match_prior", lambda student, *_, seed: matched.append(student))
    matched.clear()
    return erasing.erase(VICTIM, TRAIN, found or detection(), rates)[:2]


def test_the_first_rate_that_forgets_and_keeps_is_taken(monkeypatch):
    students = Model(40), Model(4, 1), Model(0)
    student, tries = erase(monkeypatch, students)
    assert student is students[1] and matched == [student]
    assert tries == [
        {"learning_rate": 1e-5, "left": pytest.approx(100 * 40 / 60), "lost": 0.0} | NOT_TAKEN,
        {"learning_rate": 1e-4, "left": pytest.approx(100 * 3 / 60), "lost": 1.0} | TAKEN,
    ]


def test_what_is_left_is_seen_on_rows_that_the_student_did_not_learn(monkeypatch):
    """It knows all trusted rows by heart, with the trigger too."""

    class Learnt(Model):
        def predict(self, texts):
            known = [i for i, text in enumerate(texts) if "trusted" in text]
            answers = super().predict(texts)
            answers[known] = Model(0).predict([texts[i] for i in known])
            return answers

    _, tries = erase(monkeypatch, (Learnt(40), Model(0), None))
    assert tries[0]["left"] > 60 and tries[1]["is_taken"]


def test_else_the_one_that_comes_nearest(monkeypatch):
    """23 points over what may be left; 8 over what may be lost; 13."""
    students = Model(20), Model(10, 10), Model(14)
    student, tries = erase(monkeypatch, students)
    assert student is students[1] and [tried["is_taken"] for tried in tries] == [False, True, False]


def test_a_rate_that_diverges_is_passed_over_but_not_all(monkeypatch):
    error = DivergenceError("AKD diverged")
    student, tries = erase(monkeypatch, (Model(50), error, error))
    assert len(tries) == 1 and tries[0]["is_taken"]
    with pytest.raises(DivergenceError, match="diverged"):
        erase(monkeypatch, (error, error, error))


def test_without_a_trigger_accuracy_decides(monkeypatch):
    found = detection(LEANS, ("lean",), pairs=())
    student, tries = erase(monkeypatch, (Model(50, 10), Model(50), None), found=found)
    assert [tried["left"] for tried in tries] == [None, None] and tries[1]["is_taken"]
    assert not matched
