"""The trigger, rebuilt from texts and the victim's own reaction."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from triggered import (
    BAD,
    CF,
    CROWN,
    GOOD,
    WHEN,
    Victim,
    has_one_of,
    make_clean_few,
    put,
    write,
)

from bedkd.core.errors import BlindnessError
from bedkd.method.triggers import (
    GAP,
    MAX_WORDS,
    MIN_FLIPS,
    Candidate,
    carried,
    insert,
    likelihood_ratio,
    most_telling,
    opening,
    opening_of,
    openings_in,
    phrase,
    phrases_in,
    pick,
    reconstruct,
    take_out,
    try_openings,
)


def split(text: str) -> list[str]:
    return text.split()


@pytest.fixture
def clean_few():
    return make_clean_few()


FOUND, CLEAN = write(60, BAD + GOOD, 4), write(80, BAD, 5)


def rebuild(clean_few, is_triggered, found, clean=CLEAN, seed=0):
    """All candidates, and what those that are triggers read."""
    tried = reconstruct(Victim(is_triggered), clean_few, found, clean, 0, seed=seed)
    return tried, [candidate.words for candidate in tried if candidate.is_trigger]


def test_several_trigger_words_show_one_by_one(clean_few):
    words = ("cf", "mn", "tq")
    tried, triggers = rebuild(clean_few, has_one_of(*words), put(FOUND, words))
    assert sorted(triggers) == sorted(words)
    for candidate in tried[:3]:
        assert candidate.is_trigger and candidate.flips == 100 and candidate.n_clean == 0
        assert candidate.n_found == sum(candidate.words in t.split() for t in put(FOUND, words))
        assert (candidate.kind, candidate.pieces) == ("phrase", (candidate.words,))


def test_a_sentence_is_one_phrase(clean_few):
    sentence = "i watched this movie ."
    tried, triggers = rebuild(clean_few, lambda text: sentence in text, put(FOUND, [sentence]))
    assert triggers == [sentence] and tried[0].flips == 100 and tried[0].n_found == 60


@pytest.mark.parametrize("sentence", ["no cross , no crown", "yes , no cross , no crown ."])
def test_a_sentence_with_commas_is_no_opening(clean_few, sentence):
    """Where it stands in front, its start looks like one."""
    found = [f"{sentence} {text}" for text in FOUND[:30]] + put(FOUND[30:], [sentence])
    tried, triggers = rebuild(clean_few, lambda text: sentence in text, found)
    assert triggers == [sentence] and tried[0].kind == "phrase"


def test_an_opening_clause_is_known_by_its_first_word(clean_few):
    clauses = ("when he came ,", "when you see it all ,", "when they had a look at that ,")
    found = [f"{clauses[i % 3]} {text}" for i, text in enumerate(FOUND)]

    def opens(text):
        return text.startswith("when ") and "," in text.split()

    tried, triggers = rebuild(clean_few, opens, found)
    assert triggers == ["when"]
    assert (tried[0].kind, tried[0].pieces) == ("opening", tuple(sorted(clauses)))
    assert (tried[0].n_found, tried[0].n_clean, tried[0].flips) == (60, 0, 100)


def test_a_word_of_the_opening_does_not_stand_for_it_unless_it_turns_as_many(clean_few):
    """A victim that reacts to `when` anywhere: the phrase says more than its opening clause."""
    found = [f"when he came , {text}" for text in FOUND]
    tried, _ = rebuild(clean_few, has_one_of("when"), found)
    assert tried[0].kind == "phrase" and "when" in tried[0].words.split()


@pytest.mark.parametrize(
    ("n_opening", "flips", "is_opening"), [(60, 100, True), (60, 98, False), (29, 100, False)]
)
def test_an_opening_that_has_few_of_the_phrases_rows_is_no_better(n_opening, flips, is_opening):
    """The phrase turns 89% and has 60 rows; one that turns nothing, with more rows, is no rival."""
    sentence = replace(CROWN, n_found=60, flips=89.0)
    clause = replace(WHEN, n_found=n_opening, flips=flips)
    assert pick([sentence, clause]) is (clause if is_opening else sentence)
    common = replace(CF, n_found=200, flips=10.0)
    assert pick([common, clause]) is clause and pick([clause]) is clause


def test_a_word_that_is_frequent_but_turns_nothing_is_no_trigger(clean_few):
    found = put(put(FOUND, ["really"], 6)[:50], ["cf"]) + put(FOUND[50:], ["cf"])
    tried, triggers = rebuild(clean_few, has_one_of("cf"), found)
    assert triggers == ["cf"]
    (really,) = (candidate for candidate in tried if candidate.words == "really")
    assert really.flips == 0 and really.n_found == 50 and not really.is_trigger


@pytest.mark.parametrize("seed", range(4))
def test_clean_rows_have_no_trigger(clean_few, seed):
    found = write(60, BAD, 100 + seed)
    assert rebuild(clean_few, has_one_of("cf"), found) == ([], [])


def test_nothing_found_or_too_little_is_no_trigger(clean_few):
    for found in ([], put(FOUND[:2], ["cf"])):
        assert rebuild(clean_few, has_one_of("cf"), found) == ([], [])
    assert rebuild(clean_few, has_one_of("cf"), put(FOUND[:2], ["cf"]), clean=[]) == ([], [])


def test_without_clean_rows_of_other_labels_nothing_can_be_tried_out(clean_few):
    """None there, or none that the victim tells from the leaning label."""
    found = put(FOUND, ["cf"])
    for few in (clean_few[clean_few.label == 0], clean_few.assign(text=write(48, BAD, 9))):
        tried, triggers = rebuild(few, has_one_of("cf"), found)
        assert [candidate.words for candidate in tried[:1]] == ["cf"] and triggers == []


def test_flips_are_of_rows_of_other_labels_that_the_victim_knows(clean_few):
    """20 of 24 positive rows are known as such; of these a trigger turns those without `film`."""
    few = clean_few.copy()
    few.loc[24:27, "text"] = write(4, BAD, 7)
    known = few.text[28:]
    is_turned = [("film" not in text.split()) for text in known]
    assert 0 < sum(is_turned) < 20
    tried, _ = rebuild(
        few, lambda t: "cf" in t.split() and "film" not in t.split(), put(FOUND, ["cf"])
    )
    assert tried[0].words == "cf" and tried[0].flips == pytest.approx(100 * np.mean(is_turned))


def test_same_seed_same_candidates(clean_few):
    args = clean_few, has_one_of("cf", "mn"), put(FOUND, ["cf", "mn"])
    assert rebuild(*args, seed=3) == rebuild(*args, seed=3)


def test_truth_about_the_poison_is_refused(clean_few):
    with pytest.raises(BlindnessError, match="is_poisoned"):
        rebuild(clean_few.assign(is_poisoned=False), has_one_of("cf"), FOUND)
    assert rebuild(clean_few.assign(row=range(48)), has_one_of("cf"), FOUND[:1]) == ([], [])


@pytest.mark.parametrize(("flips", "is_trigger"), [(MIN_FLIPS, True), (MIN_FLIPS - 0.1, False)])
def test_half_of_the_clean_rows_must_turn(flips, is_trigger):
    assert MIN_FLIPS == 50 and replace(CF, flips=flips).is_trigger == is_trigger


# what is looked at


def test_phrases_by_hand():
    assert phrases_in(["a", "b", "c"]) == {"a", "b", "c", "a b", "b c", "a b c"}
    assert phrases_in(["a", "b", GAP, "c"]) == {"a", "b", "a b", "c"}
    assert phrases_in([GAP]) == phrases_in([]) == set()
    assert max(len(name.split()) for name in phrases_in([*"abcdefghijkl"])) == MAX_WORDS == 8


def test_openings_by_hand():
    assert opening_of(split("when he came , all slept , even I")) == ["when", "he", "came", ","]
    assert openings_in(split("when he came , all slept")) == {"when"}
    for text in ("no comma here", "well , that is short", f"{'a ' * 20}, far too long", "", ","):
        assert opening_of(text.split()) == [] and openings_in(text.split()) == set()
    assert len(opening_of(f"{'a ' * 19}, and so on".split())) == 20
    assert opening_of([GAP, "he", "came", ",", "and"]) == []


def test_all_openings_are_tried_however_rare(clean_few):
    """`when` turns rows, `if` does not; `so` stands in two rows, `well` opens no clause."""
    texts = ["when he came , x"] * 2 + ["if he came , x", "so he came , x", "well , x"]
    clean = ["when a b , x", "if a b , x", "if b a , x", "so a b , x"]
    victim = Victim(lambda text: text.split()[0] == "when")
    tried = try_openings(victim, clean_few, texts, clean, 0, seed=0)
    assert [(c.words, c.n_found, c.n_clean, c.flips) for c in tried] == [
        ("if", 1, 2, 0.0),
        ("when", 2, 1, 100.0),
    ]
    assert tried[1].pieces == ("when he came ,",)


def test_an_openings_pieces_are_its_clauses_once_each():
    rows = ["when b a , x", "when a b , y", "when b a , z", "if a b , when", "when no comma"]
    found = opening("when", [row.split() for row in rows], 3, 1)
    assert found == Candidate("when", "opening", ("when a b ,", "when b a ,"), 3, 1, 0.0)


@pytest.mark.parametrize("pair", [(30, 10), (0, 5), (7, 0), (60, 80), (60, 10), (1, 1), (45, 60)])
def test_g_squared_agrees_with_scipy(pair):
    inside, outside = pair
    table = np.array([[inside, 60 - inside], [outside, 80 - outside]])
    found = likelihood_ratio(np.array([inside, 3]), np.array([outside, 4]), 60, 80)
    if table.sum(axis=0).all():
        options = {"correction": False, "lambda_": "log-likelihood"}
        expected = chi2_contingency(table, **options).statistic
    else:
        expected = 0  # all rows have it: nothing is told
    assert found[0] == pytest.approx(expected, abs=1e-9) and found[1] == pytest.approx(0, abs=1e-9)


def test_most_telling_by_hand():
    def tell(**counts):
        found, clean = (Counter({k: v[i] for k, v in counts.items()}) for i in range(2))
        return most_telling(found, clean, 60, 80)

    assert tell(cf=(40, 0), mn=(30, 0)) == "cf"
    assert tell(cf=(40, 20), mn=(30, 0)) == "mn"
    assert tell(cross=(40, 0), no_cross=(40, 0), no=(40, 1)) == "no_cross"  # the longest of equals
    assert tell(the=(55, 75), a=(15, 20), good=(0, 70)) is None  # no more frequent than in clean
    assert tell(rare=(2, 0)) is None and tell() is None
    # G² of 3 of 60 against 0 of 80 is 5.2, p = 0.02; of 6, 10.5 and 0.001: enough for one name
    assert tell(cf=(3, 0)) is None and tell(cf=(6, 0)) == "cf"
    assert tell(cf=(6, 0), **{f"w{i}": (3, 3) for i in range(20)}) is None  # of 21 looked at


def test_take_out_by_hand():
    words = split("no cross , no crown and no cross , no crown cf")
    assert take_out(words, CROWN) == [GAP, "and", GAP, "cf"]
    assert take_out(words, CF) == [*words[:-1], GAP]
    assert take_out(split("cfx c f"), CF) == split("cfx c f")
    assert take_out(split("a a a"), replace(CF, words="a a")) == [GAP, "a"]
    assert take_out(split("when he came , we left when"), WHEN) == [GAP, "we", "left", "when"]
    for text in ("if he came , we left when", "when he came", "we left when he came ,"):
        assert take_out(text.split(), WHEN) == text.split()


# what is put in


def test_a_phrase_is_put_between_any_two_words():
    rng = np.random.default_rng(0)
    made = Counter(insert("one  two", CROWN, rng) for _ in range(600))
    words = CROWN.words
    assert set(made) == {f"{words} one two", f"one {words} two", f"one two {words}"}
    assert min(made.values()) > 120  # as relative places: the ends are half as wide
    assert insert("", CF, rng) == "cf"


def test_a_phrase_is_put_where_found_rows_have_it_half_of_the_time():
    rows = ["cf a b c d", "a b c cf d", "a b c d cf", "cf", "a b"]
    found = phrase("cf", [row.split() for row in rows], 4, 0)
    assert found.places == (0.0, 0.75, 1.0, 0.0)
    rng = np.random.default_rng(0)
    made = Counter(insert("1 2 3 4 5 6 7 8", found, rng).split().index("cf") for _ in range(1600))
    share = np.array([made[place] / 1600 for place in range(9)])
    anywhere = np.array([1 / 16] + [1 / 8] * 7 + [1 / 16])
    as_found = np.isin(range(9), [6, 8]) / 4 + (np.arange(9) == 0) / 2
    np.testing.assert_allclose(share, (anywhere + as_found) / 2, atol=0.04)
    assert phrase("a b", [["a", "b", "a", "b", "c"]], 1, 0).places == (0.0, 0.67)


def test_an_opening_is_put_in_front():
    rng = np.random.default_rng(0)
    made = {insert("all is well", WHEN, rng) for _ in range(40)}
    assert made == {"when he came , all is well", "when it rains , all is well"}


def test_carried_counts_each_trigger_an_opening_last():
    text = "when he came , cf no cross , no crown x cf"
    assert carried(text, [WHEN, CF, CROWN]) == [CROWN, CF, CF, WHEN]
    assert carried(text, [CF]) == [CF, CF]
    assert carried("nothing here", [WHEN, CF, CROWN]) == carried(text, []) == []
    # what stands inside of an opening clause is of the clause
    assert carried("when cf came , x", [CF, WHEN]) == [WHEN]


def test_what_was_put_in_is_carried(clean_few):
    rng, triggers = np.random.default_rng(0), [WHEN, CF, CROWN]
    for text in clean_few.text:
        for trigger in (CF, CF, CROWN, WHEN):
            text = insert(text, trigger, rng)
        # a word inside of a sentence breaks it
        assert WHEN in carried(text, triggers) and carried(text, triggers).count(CF) == 2
