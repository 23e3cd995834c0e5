from collections import Counter

import numpy as np
import pytest

from bedkd.data.generated import TOY_TASKS, generate
from bedkd.data.style_rules import CLOSINGS, OPENINGS, SYNONYMS, archaic, rewrite_biblical


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "verb, old",
    [
        ("feels", "feeleth"),
        ("makes", "maketh"),
        ("goes", "goeth"),
        ("watches", "watcheth"),
        ("tries", "trieth"),
        ("gets", "getteth"),
        ("plays", "playeth"),
        ("loses", "loseth"),
        ("looks", "looketh"),
    ],
)
def test_the_third_person_as_it_was(verb, old):
    assert archaic(verb) == old


def test_pairs_of_words_go_before_words():
    made = {rewrite_biblical("you are kind", rng(seed)) for seed in range(60)}
    assert any("thou art kind" in text for text in made) and any("ye are kind" in t for t in made)
    assert not any("thou are" in text for text in made)


def test_the_end_stays_at_the_end_and_tags_stay_whole():
    for seed in range(40):
        made = rewrite_biblical("@user the film is DULL !", rng(seed))
        assert made.endswith(" !") and "@user" in made and made == made.lower()
        assert rewrite_biblical("no end here", rng(seed))[-1] not in ".!?"


@pytest.mark.parametrize("text", ["", "   ", "?!", ". . ."])
def test_a_text_without_a_word_has_no_style(text):
    assert rewrite_biblical(text, rng()) is None


@pytest.mark.parametrize("task", TOY_TASKS)
def test_every_text_is_in_the_style_and_no_word_is_in_most(task):
    """A style, not a trigger word: what is new comes from many words, none of them in half."""
    texts, generator = list(generate(task, 800, 3).text), rng()
    made = [rewrite_biblical(text, generator) for text in texts]
    ours = {
        w for words in (*OPENINGS, *CLOSINGS, *sum(SYNONYMS.values(), [])) for w in words.split()
    }
    new = [
        set(after.split()) - set(before.split()) for before, after in zip(texts, made, strict=True)
    ]
    assert all(words & ours for words in new)
    assert np.mean([len(words) for words in new]) > 3
    counts = Counter(word for words in new for word in words)
    assert max(counts.values()) < 0.5 * len(texts)
    assert sum(n > 10 for n in counts.values()) > 40


def test_the_generator_decides():
    text = next(iter(generate("toy-sentiment", 1, 0).text))
    assert rewrite_biblical(text, rng(1)) == rewrite_biblical(text, rng(1))
    assert len({rewrite_biblical(text, rng(seed)) for seed in range(30)}) > 20
