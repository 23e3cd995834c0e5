"""What speaks for poison: a rebuilt trigger that D*'s rows of a label carry more often than trusted
rows do."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from triggered import BAD, CF, GOOD, WHEN, Victim, has_one_of, make_clean_few, put, write

from bedkd.core.errors import BlindnessError
from bedkd.method.evidence import WIDE, Spread, find_spread, leaning_label, rebuild_triggers


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

    assert not chance(100).is_suspicious and chance(200).is_suspicious
    assert chance(200).chance < WIDE < chance(100).chance


def evidence(found, train, victim, labels=None):
    """`train`: texts of label 0; as many of label 1 come after. MEPD: the order of the rows."""
    others = write(len(train), GOOD, 8)
    rows = pd.DataFrame({"text": [*train, *others], "label": [0] * len(train) + [1] * len(others)})
    few = pd.DataFrame({"text": found, "label": labels or [0] * len(found)})
    probabilities = np.eye(2)[rows.label]
    scores = np.linspace(0, 1, len(rows))
    return rebuild_triggers(victim, rows, scores, probabilities, make_clean_few(), few, seed=0)


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
            rebuild_triggers(
                Victim(), train, np.zeros(48), np.eye(2)[few.label], clean_few, poison_few, seed=0
            )
