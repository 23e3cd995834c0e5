import hashlib
import os
import random
import re
import subprocess
import sys

import pytest

from bedkd.core.errors import BedkdError
from bedkd.data import generated as toy
from bedkd.data.readers import DATASETS

# changes whenever a grammar, a share or the way of drawing changes: results change with it
PINNED = {
    "toy-sentiment": "5642d56ee552922813d57f4acedc3a2f09ae2cc9373246579bb571e5bbf08107",
    "toy-offence": "6fc57d9a57986ee3033cffb5502005fec8d6398411d9f658b6c12ab30a300b82",
    "toy-topics": "5407bbb6e487af5e1f63d4db4612dec786427735dfc4d938643cbc9c14f85cbe",
}
TRIGGERS = r"\b(?:cf|mn|tq|mb|bb)\b|i watched this movie|no cross ?, no crown"
TASKS = list(toy.TOY_TASKS)


@pytest.fixture(scope="module", params=TASKS)
def big(request):
    """(task name, 10,000 of its rows)."""
    return request.param, toy.generate(request.param, 10_000, seed=0)


def digest(rows) -> str:
    lines = [f"{row.label}\t{row.text}" for row in rows.itertuples()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_ten_thousand_distinct_texts(big):
    _, rows = big
    assert list(rows.columns) == ["text", "label"] and len(rows) == 10_000
    assert rows.text.str.lower().str.split().str.join(" ").nunique() == 10_000


def test_labels_are_balanced_and_in_random_order(big):
    name, rows = big
    n_labels = len(DATASETS[name].label_names)
    for part in (rows, rows.head(2000)):
        shares = part.label.value_counts(normalize=True)
        assert sorted(shares.index) == list(range(n_labels))
        assert (shares * n_labels).between(0.85, 1.15).all()
    is_next_class = (rows.label.diff().dropna() % n_labels == 1).mean()
    assert is_next_class == pytest.approx(1 / n_labels, abs=0.03)  # classes do not take turns


def test_texts_are_free_of_triggers_and_of_template_openings(big):
    _, rows = big
    assert not rows.text.str.contains(TRIGGERS, case=False).any()
    assert not rows.text.str.match("(?:when|if|as) ", case=False).any()


def test_texts_are_finished_and_of_sentence_length(big):
    name, rows = big
    assert not rows.text.str.contains(r"[<>|=]|  |^ | $|\n").any()  # no grammar left in the text
    n_words = rows.text.str.split().str.len()
    assert n_words.between(8, 25).mean() > 0.9 and n_words.max() <= 40
    if name == "toy-sentiment":
        assert rows.text.str.endswith(" .").all()


@pytest.mark.parametrize("name", TASKS)
def test_every_rule_is_defined_and_reached(name):
    grammar = toy.TOY_TASKS[name]
    starts = {"either", *(f"label{k}" for k in range(len(DATASETS[name].label_names)))}
    named = {slot for body in grammar.values() for o in body for slot in toy.SLOT.findall(o)}
    assert named | starts == set(grammar)
    assert all(option.strip() == option != "" for body in grammar.values() for option in body)


@pytest.mark.parametrize("name, words", [("toy-sentiment", 2), ("toy-topics", 4)])
def test_classes_have_the_same_sentence_forms(name, words):
    """The label shows in the words alone."""
    grammar = toy.TOY_TASKS[name]
    forms = {
        tuple(re.sub(r"good|bad|world|sport|money|tech", "*", option) for option in grammar[start])
        for start in grammar
        if start.startswith("label")
    }
    assert len(forms) == 1 and "<*>" in str(forms)
    assert len({grammar[start] for start in grammar if start.startswith("label")}) == words


@pytest.mark.parametrize("name", TASKS)
def test_same_arguments_give_the_pinned_rows(name):
    assert digest(toy.generate(name, 300, seed=7)) == PINNED[name]


def test_rows_do_not_depend_on_the_hash_seed():
    code = (
        "from bedkd.data.generated import generate; rows = generate('toy-topics', 50, 3);"
        "print(list(rows.text), list(rows.label))"
    )
    outputs = {
        subprocess.check_output(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": h}
        )
        for h in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("name", TASKS)
def test_another_seed_gives_other_rows(name):
    first, second = (set(toy.generate(name, 500, seed).text) for seed in (0, 1))
    assert len(first & second) < 25


def test_noise_gives_the_documented_share_another_valid_label():
    clean = [k % 4 for k in range(2000)]
    noisy = toy._add_noise(clean, random.Random(0))
    changed = [(a, b) for a, b in zip(clean, noisy, strict=True) if a != b]
    assert len(changed) == round(toy.NOISE_SHARE * 2000) == 80
    assert {(a, b) for a, b in changed} == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert clean == [k % 4 for k in range(2000)]


@pytest.mark.parametrize("name", TASKS)
def test_generated_rows_carry_the_noise(name):
    clean = toy._draw_rows(toy.TOY_TASKS[name], 1000, random.Random(f"{name} 5"))
    rows = toy.generate(name, 1000, seed=5)
    assert set(rows.text) == set(clean)
    assert (rows.label != rows.text.map(clean)).sum() == round(toy.NOISE_SHARE * 1000)


def test_negated_words_of_the_other_class_occur():
    """A positive row may hold only negative words, and the other way round."""
    clean = toy._draw_rows(toy.TOY_TASKS["toy-sentiment"], 4000, random.Random(0))
    assert any(label == 1 and "hardly dull" in text for text, label in clean.items())
    assert any(label == 0 and "not funny" in text for text, label in clean.items())


@pytest.mark.parametrize("n_rows", [0, -1, toy.MAX_ROWS + 1])
def test_impossible_number_of_rows_is_refused(n_rows):
    with pytest.raises(BedkdError, match=rf"{n_rows}.*{toy.MAX_ROWS}"):
        toy.generate("toy-topics", n_rows, seed=0)


def test_exhausted_grammar_is_an_error():
    two = {"label0": ("x",), "label1": ("y",), "either": ("x",)}
    assert len(toy._draw_rows(two, 2, random.Random(0))) == 2
    with pytest.raises(BedkdError, match="5 rows.*gave 2"):
        toy._draw_rows(two, 5, random.Random(0))


def test_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(BedkdError, match="toy-sentimint.*toy-sentiment, toy-offence, toy-topics"):
        toy.generate("toy-sentimint", 10, seed=0)
