"""ONION: deletions by threshold, and the threshold chosen on clean rows alone."""

import numpy as np
import pandas as pd
import pytest
from conftest import BAD, GOOD

from bedkd.core.defence_config import OnionConfig
from bedkd.core.errors import BedkdError
from bedkd.defences import onion
from bedkd.defences.interface import EquippedView
from bedkd.defences.onion import clean_texts, defend, removed_words, sweep_thresholds
from bedkd.defences.thresholds import choose_threshold

TEXTS = ["the  plot is cf good .", "cf", "", "dull cast"]
SCORES = [np.array([1.0, 2.0, -1.0, 90.0, 5.0, 0.0]), np.zeros(1), np.zeros(0), np.array([3.0, 4])]


def fake_scores(_, texts):
    """cf stands out, adjectives a little: what a good language model would say."""
    high = {"cf": 50.0} | dict.fromkeys((*GOOD, *BAD), 6.0)
    return [np.array([high.get(word, 1.0) for word in text.split()]) for text in texts]


@pytest.fixture
def view(tiny_victim, rows):
    empty = rows.iloc[:0]
    probabilities = np.zeros((0, 2))
    return EquippedView(empty, rows, empty, tiny_victim, probabilities, language=object())


@pytest.fixture
def no_language(monkeypatch):
    monkeypatch.setattr(onion, "leave_one_out", fake_scores)


class Recorder:
    """A victim that says 1 if `good` is in a text, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def predict(self, texts):
        self.asked += texts
        is_good = np.array(["good" in text.split() for text in texts], dtype=float)
        return np.stack([1 - is_good, is_good], axis=1)


def test_words_above_the_threshold_go():
    assert clean_texts(TEXTS, SCORES, 5.0) == ["the plot is good .", "cf", "", "dull cast"]
    assert removed_words(TEXTS[0], SCORES[0], 5.0) == ["cf"]
    assert removed_words(TEXTS[0], SCORES[0], 1.5) == ["plot", "cf", "good"]


def test_an_infinite_threshold_changes_nothing():
    assert clean_texts(TEXTS, SCORES, np.inf) == TEXTS
    assert not any(removed_words(t, s, np.inf) for t, s in zip(TEXTS, SCORES, strict=True))


def test_one_word_always_stays():
    assert clean_texts(TEXTS, SCORES, -np.inf) == ["is", "cf", "", "dull"]


def test_deletions_are_monotone_in_the_threshold():
    thresholds = [-np.inf, -2, -1, 0, 0.5, 1, 2, 4.5, 5, 89, 90, np.inf]
    removed = [set(removed_words(TEXTS[0], SCORES[0], t)) for t in thresholds]
    assert all(low >= high for low, high in zip(removed, removed[1:], strict=False))
    assert len(removed[0]) == 5 and not removed[-1]


def test_scores_must_match_the_words():
    with pytest.raises(ValueError):
        clean_texts(["two words"], [np.zeros(3)], 0.0)


def make_curve(accuracies):
    for i, accuracy in enumerate(accuracies):
        yield {"threshold": -i, "clean_accuracy": accuracy}


@pytest.mark.parametrize("drop, expected", [(0, 1), (2, 2), (4.9, 2), (5, 3), (100, 5)])
def test_the_lowest_threshold_before_the_first_violation_is_chosen(drop, expected):
    """The last point is as good as the first, and still out of reach behind a violation."""
    accuracies = [90, 90, 88, 85, 60, 90]
    assert choose_threshold(make_curve(accuracies), drop) == {
        "threshold": -expected,
        "clean_accuracy": accuracies[expected],
        "victim_clean_accuracy": 90,
    }


def test_nothing_is_computed_past_the_first_violation():
    curve = make_curve([90, 50, 90, 90])
    choose_threshold(curve, 1)
    assert len(list(curve)) == 2


def test_an_allowed_drop_survives_rounding():
    accuracies = [100 * np.mean(np.arange(50) < n) for n in (29, 28)]
    assert choose_threshold(make_curve(accuracies), 2.0)["threshold"] == -1


def test_each_distinct_text_is_predicted_once():
    texts = ["a good plot .", "a dull plot .", "a good plot ."]
    rows = pd.DataFrame({"text": texts, "label": [1, 0, 1]})
    victim = Recorder()
    points = list(sweep_thresholds(victim, rows, fake_scores(None, texts)))
    assert len(points) == 101 and len(victim.asked) == len(set(victim.asked))
    assert points[0]["deleted_share"] == 0 and points[0]["clean_accuracy"] == 100
    assert points[-1]["deleted_share"] == 25
    assert points[-1]["clean_accuracy"] == pytest.approx(100 / 3)  # without `good`, class 0


@pytest.mark.parametrize("drop", [0.0, 10.0, 100.0])
def test_the_drop_on_the_clean_rows_is_within_the_limit(view, no_language, rows, drop):
    config = OnionConfig(n_clean_per_class=24, max_accuracy_drop=drop)
    result = defend(view, config, seed=0)
    assert result.facts["victim_clean_accuracy"] == 100
    accuracy = 100 * np.mean(result.predict(rows.text).argmax(axis=1) == rows.label)
    assert accuracy == pytest.approx(result.facts["clean_accuracy"])
    assert accuracy >= 100 - drop


def test_more_drop_allows_more_deletions(view, no_language):
    def share(drop):
        config = OnionConfig(n_clean_per_class=24, max_accuracy_drop=drop)
        return defend(view, config, seed=0).facts["deleted_share"]

    assert share(0.0) < share(100.0)


def test_the_trigger_loses_its_power(view, no_language, tiny_victim, triggered):
    result = defend(view, OnionConfig(n_clean_per_class=24), seed=0)
    assert (tiny_victim.predict(list(triggered.text)).argmax(axis=1) == 0).all()
    assert (result.predict(triggered.text).argmax(axis=1) == 1).all()
    assert result.model is None and result.facts["n_clean"] == 48


def test_only_clean_rows_are_looked_at(view, rows, triggered, monkeypatch):
    """Neither D* nor the rest of the pool reaches the language model or the victim."""
    seen = []

    def scores(lm, texts):
        seen.extend(texts)
        return fake_scores(lm, texts)

    monkeypatch.setattr(onion, "leave_one_out", scores)
    victim = Recorder()
    equipped = EquippedView(
        triggered, rows, triggered, victim, np.zeros((24, 2)), language=object()
    )
    config = OnionConfig(n_clean_per_class=4, max_accuracy_drop=100)
    defend(equipped, config, seed=0)
    few = rows[rows.groupby("label").cumcount() < 4]
    assert seen == list(few.text)
    words = {word for text in few.text for word in text.split()}
    assert victim.asked and {word for text in victim.asked for word in text.split()} <= words


def test_the_seed_changes_nothing(view, no_language):
    one, other = (defend(view, OnionConfig(24), seed=seed).facts for seed in (0, 1))
    assert one == other


def test_facts_are_numbers(view, no_language):
    facts = defend(view, OnionConfig(24), seed=0).facts
    assert all(type(value) in (int, float) for value in facts.values())


def test_without_a_language_model_it_is_an_error(view, tiny_victim, rows):
    bare = EquippedView(rows, rows, rows, tiny_victim, np.zeros((48, 2)))
    with pytest.raises(BedkdError, match="ONION needs a language model"):
        defend(bare, OnionConfig(24), seed=0)


def test_too_small_a_pool_is_an_error(view, no_language):
    with pytest.raises(BedkdError, match="D_c\\^few"):
        defend(view, OnionConfig(25), seed=0)
