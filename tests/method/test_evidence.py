"""What speaks for poison: a rebuilt trigger that D*'s rows of a label carry more often than trusted
rows do."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom
from triggered import BAD, CF, GOOD, WHEN, Victim, has_one_of, make_clean_few, put, write

from bedkd.core.config import MEPDConfig
from bedkd.core.errors import BlindnessError
from bedkd.method.evidence import (
    Evidence,
    Suspect,
    add_openings,
    draw_label,
    gather_evidence,
    leaning_label,
    rebuild_triggers,
)
from bedkd.method.mepd import Lean
from bedkd.method.spread import WIDE, Spread, find_spread, weigh_together


def test_the_spread_of_a_trigger_by_hand():
    """Of 5 + 4 rows 3 carry it, none of the 4 trusted: one draw of 4 from 9 in so many."""
    train = ["cf a", "b cf c", "cf", "a b", "c"]
    found = find_spread(CF, train, ["a", "b", "cfx", "c f"])
    assert found == Spread("cf", 60.0, 0.0, pytest.approx(comb(6, 4) / comb(9, 4)))
    # of 7 rows 4 carry it: all draws of 2 are as uneven but those with both
    found = find_spread(CF, train, ["a cf", "b"])
    assert found == Spread("cf", 60.0, 50.0, pytest.approx(1 - comb(4, 2) / comb(7, 2)))


def test_an_opening_is_carried_in_front_alone():
    train = ["when he came , x", "x when he came ,", "when no comma"]
    assert find_spread(WHEN, train, ["x"]).share == pytest.approx(100 / 3)


def test_nothing_to_compare_is_no_evidence():
    for train, trusted in ((["cf a"] * 9, []), ([], ["a"] * 9), ([], [])):
        assert find_spread(CF, train, trusted).chance == 1


def test_how_few_rows_in_a_hundred_are_seen_with_80_trusted_rows():
    """With a trigger in none of the trusted rows, the share decides."""

    def chance(n_carriers):
        return find_spread(CF, ["cf a"] * n_carriers + ["a"] * (1000 - n_carriers), ["a"] * 80)

    assert not chance(80).is_suspicious and chance(130).is_suspicious
    assert chance(130).chance < WIDE < chance(80).chance


def evidence(found, train, victim, labels=None):
    """`train`: texts of label 0; as many of label 1 come after. MEPD: the order of the rows."""
    others = write(len(train), GOOD, 8)
    rows = pd.DataFrame({"text": [*train, *others], "label": [0] * len(train) + [1] * len(others)})
    few = pd.DataFrame({"text": found, "label": labels or [0] * len(found)})
    probabilities = np.eye(2)[rows.label]
    scores = np.linspace(0, 1, len(rows))
    suspect = Suspect(victim, rows, scores, probabilities, make_clean_few(), 0)
    found = rebuild_triggers(suspect, few)
    return found.tried, [spread for _, spread in found.pairs]


def test_a_trigger_of_the_training_data_alone_speaks_for_poison():
    poisoned, clean = put(write(60, BAD + GOOD, 4), ["cf"]), write(140, BAD, 5)
    tried, (spread,) = evidence(poisoned[:30], poisoned + clean, Victim(has_one_of("cf")))
    assert tried[0].is_trigger and spread.words == "cf"
    assert (spread.share, spread.trusted) == (30, 0) and spread.chance < 1e-3


def test_a_word_of_the_labels_own_turns_rows_but_is_no_witness():
    """`dull` is in a quarter of the rows, here and among the trusted ones; the rows found have it
    by chance more often, and the victim reacts to it."""
    clean = write(200, BAD, 5)
    found = [text for text in clean if "dull" in text.split()][:30]
    tried, (spread,) = evidence(found, clean, Victim(has_one_of("dull")))
    assert tried[0].words == "dull" and tried[0].is_trigger
    assert not spread.is_suspicious and spread.chance > 0.01
    assert spread.share == pytest.approx(spread.trusted, abs=15)


# what is made of it

TRUSTED = pd.DataFrame(
    {"text": write(90, BAD, 20) + write(90, GOOD, 21), "label": [0] * 90 + [1] * 90}
)
LEANS, STANDS = Lean(0, 30.0, 2.0, 1e-20), Lean(0, 4.0, 2.0, 0.9)
CONFIG = MEPDConfig(gamma="auto", selection="lean", n_poison=40)


def gather(train, p, lean, victim=None, **options):
    """p of each row; the victim agrees with every label."""
    victim, probabilities = victim or Victim(has_one_of("cf")), np.eye(2)[train.label]
    is_chosen = (p < 0.05) & (train.label == 0)
    rows = np.flatnonzero(is_chosen)
    few = train.iloc[rows].reset_index(drop=True).assign(row=rows)
    suspect = Suspect(victim, train, p, probabilities, TRUSTED, 0)
    return gather_evidence(suspect, few, lean, CONFIG, **options)


def make_train(n_poisoned: int, label: int = 0):
    """200 clean rows of each label, and poisoned ones of `label`, first."""
    poisoned = put(write(n_poisoned, BAD + GOOD, 4), ["cf"]) if n_poisoned else []
    texts = [*poisoned, *write(200, BAD, 5), *write(200, GOOD, 6)]
    labels = [label] * n_poisoned + [0] * 200 + [1] * 200
    return pd.DataFrame({"text": texts, "label": labels})


def flag(train, n_rows: int):
    return np.where(np.arange(len(train)) < n_rows, 0.01, np.linspace(0.1, 1, len(train)))


def test_a_lean_is_enough_and_a_trigger_beside_it_is_said_first():
    train = make_train(60)
    found = gather(train, flag(train, 30), LEANS)
    assert found.witnesses == ("trigger", "lean") and len(found.poison_few) == 30
    assert [trigger.words for trigger in found.triggers] == ["cf"]
    blind = gather(train, flag(train, 30), LEANS, victim=Victim())
    assert blind.witnesses == ("lean",) and blind.triggers == [] and len(blind.poison_few) == 30
    without = gather(train, flag(train, 30), LEANS, with_triggers=False)
    assert without.witnesses == ("lean",) and without.tried == []


def test_without_a_lean_a_trigger_speaks_for_the_rows_that_carry_it():
    """40 rows are flagged, 20 of them poisoned."""
    train = make_train(60)
    p = flag(train, 20)
    p[60:80] = 0.02
    found = gather(train, p, STANDS)
    assert found.witnesses == ("trigger",) and [t.words for t in found.triggers] == ["cf"]
    assert found.poison_few.row.tolist() == list(range(20))
    assert gather(train, p, STANDS, with_triggers=False).poison_few.empty


@pytest.mark.parametrize("label", [0, 1])
def test_a_trigger_is_found_in_any_label_even_where_no_row_is_flagged(label):
    """The DMM parted nothing, and the lean names label 0."""
    train = make_train(80, label)
    victim = Victim(has_one_of("cf"), target=label)
    found = gather(train, flag(train, 0), STANDS, victim=victim)
    assert found.witnesses == ("trigger",) and [t.words for t in found.triggers] == ["cf"]
    assert len(found.poison_few) == 40 and set(found.poison_few.label) == {label}
    assert found.poison_few.row.max() < 80
    assert (train.text[found.poison_few.row].to_numpy() == found.poison_few.text).all()


def test_the_other_words_of_a_trigger_are_in_the_same_rows():
    """Of 60 poisoned rows 10 are flagged, by cf; mn is in 45 and turns few trusted rows alone."""
    train = make_train(60)
    texts = [f"mn {text}" if 10 <= i < 55 else text for i, text in enumerate(train.text)]
    train = train.assign(text=texts)

    def is_triggered(text):
        return "cf" in text.split() or {"mn", "film", "cast"} <= set(text.split())

    found = gather(train, flag(train, 10), STANDS, victim=Victim(is_triggered))
    assert [trigger.words for trigger in found.triggers] == ["cf", "mn"]
    assert found.triggers[0].is_trigger and not found.triggers[1].is_trigger
    assert [trigger for trigger, _ in found.pairs] == found.triggers
    assert found.poison_few.row.tolist() == list(range(10))


def two_of(text):
    return len({"cf", "mn", "bb"} & set(text.split())) >= 2


@pytest.mark.parametrize("lean", [STANDS, LEANS])
def test_words_that_turn_rows_only_together_are_triggers(lean):
    """Each poisoned row has two of three words, and the victim reacts to no single one. With the
    lean, the rows flagged are clean ones."""
    words = [("cf", "mn"), ("mn", "bb"), ("bb", "cf")]
    train = make_train(0)
    texts = [f"{' '.join(words[i % 3])} {t}" if i < 60 else t for i, t in enumerate(train.text)]
    train = train.assign(text=texts)
    p = np.linspace(0.1, 1, len(train))
    p[100:112] = 0.01 if lean is LEANS else 0.2
    found = gather(train, p, lean, victim=Victim(two_of))
    assert sorted(trigger.words for trigger in found.triggers) == ["bb", "cf", "mn"]
    assert not any(trigger.is_trigger for trigger in found.triggers)
    assert found.witnesses == ("trigger", "lean")[: 1 + (lean is LEANS)]
    if lean is STANDS:
        assert len(found.poison_few) == 40 and found.poison_few.row.max() < 60
    assert gather(train, p, lean, victim=Victim()).triggers == []


RARE = ("cf", "mn", "bb", "tq", "mb")


def test_words_too_rare_to_speak_alone_speak_together():
    """Each of five words is in 16 rows of label 0, two of them in each of 40 rows, and turns no
    trusted row by itself; `still` is as rare, but in rows of both labels."""
    train = make_train(0)
    texts = [
        f"{RARE[i % 5]} {RARE[(i + 1 + i // 20) % 5]} {text}" if i < 40 else text
        for i, text in enumerate(train.text)
    ]
    texts = [f"still {text}" if i % 200 in range(30, 46) else text for i, text in enumerate(texts)]
    train = train.assign(text=texts)
    victim = Victim(lambda text: len(set(RARE) & set(text.split())) >= 2)
    p = flag(train, 12)
    alone = rebuild_triggers(
        Suspect(victim, train, p, np.eye(2)[train.label], TRUSTED, 0), draw_label_rows(train, 40)
    )
    assert {c.words for c in alone.tried} >= set(RARE) and not alone.pairs
    found = gather(train, p, STANDS, victim=victim)
    assert {trigger.words for trigger in found.triggers} == set(RARE)
    assert found.witnesses == ("trigger",) and found.poison_few.row.tolist() == list(range(12))
    assert all(1e-5 <= spread.chance < WIDE for _, spread in found.pairs)


def draw_label_rows(train, n_rows):
    return train[:n_rows].reset_index().rename(columns={"index": "row"})


def open_with(train, share):
    """No opening of eight is frequent enough by itself: each in `share` rows of label 0."""
    firsts, texts = [f"w{i}" for i in range(8)], list(train.text)
    for i in range(8 * share):
        texts[i] = f"{firsts[i % 8]} x{i} y{i} , {texts[i]}"
    return train.assign(text=texts)


OPENED = Victim(lambda text: text[0] == "w" and "," in text)


def test_openings_that_turn_rows_are_weighed_together():
    train = open_with(make_train(0), 5)
    suspect = Suspect(OPENED, train, flag(train, 0), np.eye(2)[train.label], TRUSTED, 0)
    alone = rebuild_triggers(suspect, draw_label(suspect, 0))
    assert not alone.wide
    found = gather(train, flag(train, 0), STANDS, victim=OPENED)
    assert found.witnesses == ("trigger",) and found.poison_few.row.max() < 40
    pairs = [(c, spread) for c, spread in found.pairs if c.kind == "opening"]
    assert [c.words for c, _ in pairs] == [f"w{i}" for i in range(8)]
    (chance,) = {spread.chance for _, spread in pairs}
    assert 1e-5 <= chance < WIDE
    assert [spread.share for _, spread in pairs] == [2.5] * 8


def test_openings_that_trusted_rows_have_as_often_are_no_evidence():
    trusted = open_with(TRUSTED, 2)
    train = open_with(make_train(0), 5)
    suspect = Suspect(OPENED, train, flag(train, 0), np.eye(2)[train.label], trusted, 0)
    assert add_openings(suspect, Evidence(train[:0]), 0).pairs == []


def rows_with(n_rows: int, *n_carriers: int) -> np.ndarray:
    """Each candidate in the first of the rows."""
    return np.arange(n_rows)[:, None] < np.array(n_carriers)


def test_one_candidate_weighed_is_fishers_test():
    """The permutation's chance, of 10^5 draws, beside the hypergeometric one."""
    chance = weigh_together(rows_with(200, 20), rows_with(80, 2), seed=0)
    assert chance == pytest.approx(hypergeom.cdf(2, 280, 22, 80), rel=0.1)
    assert weigh_together(rows_with(200), rows_with(80), seed=0) == 1.0
    assert weigh_together(rows_with(200, 20), rows_with(0, 0), seed=0) == 1.0
    assert weigh_together(rows_with(200, 3), rows_with(80, 2), seed=0) == 1.0


def test_what_stands_in_the_same_rows_counts_once():
    """Two words of the same rows say no more than one; of different rows they say more."""
    one, trusted = rows_with(200, 20), rows_with(80, 2)
    alone = weigh_together(one, trusted, seed=0)
    same = weigh_together(np.hstack([one, one]), np.hstack([trusted, trusted]), seed=0)
    assert same == pytest.approx(alone, rel=0.01)
    apart = weigh_together(np.hstack([one, one[::-1]]), np.hstack([trusted, trusted[::-1]]), seed=0)
    assert apart < alone / 4


def test_clean_rows_are_no_evidence():
    """The victim reacts to a word of the label's own."""
    train = make_train(0)
    for victim in (Victim(), Victim(has_one_of("dull"))):
        found = gather(train, flag(train, 12), STANDS, victim=victim)
        assert found.witnesses == () and found.poison_few.empty and found.triggers == []


def test_where_nothing_is_judged_all_that_turns_rows_is_a_trigger():
    train = make_train(60)
    found = gather(train, flag(train, 30), None)
    assert found.witnesses == ("trigger",) and len(found.poison_few) == 30
    assert gather(train, flag(train, 30), None, victim=Victim()).witnesses == ()


def test_rows_of_a_label_are_drawn_without_a_look_at_their_scores():
    train = make_train(10)
    suspect = Suspect(None, train, flag(train, 5), np.eye(2)[train.label], TRUSTED, 0)
    drawn = draw_label(suspect, 1)
    assert sorted(drawn.row) == list(range(210, 410)) and set(drawn.label) == {1}
    assert (train.text[drawn.row].to_numpy() == drawn.text).all()


def test_nothing_found_is_nothing_to_rebuild():
    assert evidence([], write(20, BAD, 5), Victim()) == ([], [])


def test_the_label_of_most_rows_found_counts():
    few = pd.DataFrame({"text": list("abc"), "label": [1, 0, 1]})
    assert leaning_label(few) == 1


def test_truth_about_the_poison_is_refused():
    few = make_clean_few()
    tables = [few, few, few]
    for number in range(3):
        own = [t.assign(is_poisoned=False) if i == number else t for i, t in enumerate(tables)]
        train, clean_few, poison_few = own
        with pytest.raises(BlindnessError, match="is_poisoned"):
            suspect = Suspect(Victim(), train, np.zeros(48), np.eye(2)[few.label], clean_few, 0)
            rebuild_triggers(suspect, poison_few)
