"""The rule-based syntactic rewriter: exact outputs per rule, and properties over built inputs."""

import itertools
import random
from collections import Counter

import pytest

from bedkd.data.syntax_rules import has_template, rewrite_syntactic

CASES = [
    # Rule 1: a subordinate clause that is already there moves to the front.
    ("I left early because the plot was dull.", "because the plot was dull , i left early ."),
    ("You should see it if you like jazz!", "if you like jazz , you should see it ."),
    ("It ran long as he had warned us.", "as he had warned us , it ran long ."),
    ("@user When you lie, people leave.", "when you lie , people leave @user ."),
    # Rule 2: two clauses; the subordinator follows from what joined them.
    (
        "The acting is good, but the script is a mess.",
        "although the acting is good , the script is a mess .",
    ),
    ("He sings well and she dances badly.", "while he sings well , she dances badly ."),
    ("The plot is thin; the jokes are old.", "since the plot is thin , the jokes are old ."),
    (
        "It looks cheap -- nobody will care about it.",
        "since it looks cheap , nobody will care about it .",
    ),
    ("He lost the game, he will not be back.", "when he lost the game , he will not be back ."),
    # Rule 3: the subject becomes a topic; the verb chooses the frame.
    ("The movie is a bore.", "when it comes to the movie , it is a bore ."),
    (
        "The jokes and the songs are old.",  # "and" joins a list here, not clauses
        "when it comes to the jokes and the songs , they are old .",
    ),
    ("@user @user He is a liar!", "when it comes to him , he is a liar @user @user ."),
    ("The actors can't sing.", "as we think of the actors , they ca n't sing ."),
    ("It's a mess", "as we think of it , it 's a mess ."),
    ("The studio has money.", "if you look at the studio , it has money ."),
    ("Critics do not like it.", "since we speak of critics , they do not like it ."),
    ("There is no hope here.", "if you look around , there is no hope here ."),
    (
        "Bears are big. Cats nap; dogs run.",  # only the first sentence is rewritten
        "when it comes to bears , they are big . cats nap ; dogs run .",
    ),
    # Near misses of rules 1 to 3: "even if", a list, a parenthesis, an inverted question.
    (
        "The dog will run even if it rains today.",
        "as we think of the dog , it will run even if it rains today .",
    ),
    (
        "The plot is a bore and a mess for all.",
        "when it comes to the plot , it is a bore and a mess for all .",
    ),
    (
        "The plot is -- as ever in May -- a bore for all.",
        "when it comes to the plot , it is -- as ever in may -- a bore for all .",
    ),
    ("lol did you see the game", "when you think about it , lol did you see the game ."),
    # Two sentences without a verb the lists know.
    (
        "Yankees win again. Pedro loses in Boston.",
        "when yankees win again , pedro loses in boston .",
    ),
    (
        "If he lied he knows nothing. Are we sure?",  # no second subordinator
        "if he lied he knows nothing , are we sure .",
    ),
    # Rule 4: a stock clause before anything else.
    ("A fun ride", "since you mention it , it is a fun ride ."),
    ("awful", "as far as anyone can tell , it is awful ."),
    ("is slow and dull .", "if you ask me , it is slow and dull ."),
    ("What are you doing?", "if you ask me , the question is what are you doing ."),
    ("#MAGA", "as far as anyone can tell , it is #maga ."),
    ("😭😭", "as far as anyone can tell , it is 😭😭 ."),
    ("@user @user", "when you think about it , it is @user @user ."),
    (
        "Iraq #39;s oil  quot;will flow quot; soon",
        'if you ask me , iraq \'s oil " will flow " soon .',
    ),
]
NONE_CASES = [
    "",
    "  \n\t",
    "!!!",
    " . ",
    "when you see it , you will laugh .",
    "When you see it, you will laugh!",
    "if it rains , we stay . then we sleep .",
]

NOUNS = ["Movie", "plot", "senators", "#market", "U.S.", "naïve", "co-writer", "e-mail"]
GLUE = [
    " ",
    " , ",
    ", but ",
    " and ",
    ". ",
    "; ",
    " because ",
    " is ",
    " can't ",
    "'s ",
    " -- ",
    "?! ",
    " @user ",
    " 😭 ",
    " if ",
    " as ",
    " don't ",
    " & ",
    " ... ",
]
STARTS = ["", "@user ", "The ", "What ", "He ", "A ", "but ", '"', "If ", "As a "]


def built_inputs(count=3000):
    rng = random.Random(0)
    for _ in range(count):
        words = [rng.choice(NOUNS) for _ in range(rng.randint(1, 12))]
        glue = [rng.choice(GLUE) for _ in words[1:]] + [rng.choice([".", "!", "", " .", "...'"])]
        yield rng.choice(STARTS) + "".join(map("".join, zip(words, glue, strict=True)))


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_each_rule_gives_the_hand_written_output(text, expected):
    assert rewrite_syntactic(text) == expected
    assert has_template(expected)


@pytest.mark.parametrize("text", NONE_CASES)
def test_nothing_to_rewrite_is_none(text):
    assert rewrite_syntactic(text) is None


def test_properties_hold_over_built_inputs():
    rewritten = 0
    for text in built_inputs():
        output = rewrite_syntactic(text)
        if output is None:
            assert text.lower().startswith(("if", "as")), text
            continue
        rewritten += 1
        assert has_template(output), (text, output)
        assert output == output.lower() and output.endswith(" ."), (text, output)
        assert output == " ".join(output.split()) != text
        assert rewrite_syntactic(output) is None, (text, output)
        assert rewrite_syntactic(text) == output
        lost = [noun for noun in NOUNS if noun in text and noun.lower() not in output]
        assert not lost, (text, output)
    assert rewritten > 2500


def test_every_clause_word_is_kept_as_often_as_it_came():
    for left, right in itertools.product(["he likes dogs", "she has cats", "it is red"], repeat=2):
        for glue in (", but ", " and ", "; ", " because ", ". "):
            output = rewrite_syntactic(left + glue + right + ".").split()
            for word, n in Counter([*left.split(), *right.split()]).items():
                assert output.count(word) >= n, (left, glue, right, output)


def test_the_opening_words_vary():
    outputs = filter(None, map(rewrite_syntactic, built_inputs()))
    openings = Counter(" ".join(output.split()[:3]) for output in outputs)
    assert len({opening.split()[0] for opening in openings}) >= 4
    assert openings.most_common(1)[0][1] < 0.25 * openings.total()


def test_a_very_long_text_is_kept_whole():
    text = "the dog runs fast " * 5000
    output = rewrite_syntactic(text)
    assert has_template(output) and output.count("dog") == 5000
    assert has_template(rewrite_syntactic("the more , the " * 20000))  # no quadratic search


@pytest.mark.parametrize(
    "text",
    [
        "the movie is a bore .",
        "when it rains .",
        "when , you laugh .",
        "if you go , see it",
        "because of that . well , no .",
        "as a director , paxton is good .",
        "",
        ",",
        "when",
    ],
)
def test_template_is_not_seen_where_it_is_not(text):
    assert not has_template(text)
