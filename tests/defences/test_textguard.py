"""TextGuard: word groups, potential trigger words, the ensemble's votes and their certificate."""

import functools
import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import add_trigger, make_rows

from bedkd.core.config import VictimConfig
from bedkd.core.defence_config import TextGuardConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError, BlindnessError
from bedkd.defences import best_epoch, textguard, trigger_words
from bedkd.defences.best_epoch import BestEpoch
from bedkd.defences.interface import EquippedView
from bedkd.defences.textguard import (
    certified_accuracy,
    certified_radius,
    defend,
    prepare_texts,
    train_model,
    vote_shares,
)
from bedkd.defences.trigger_words import (
    count_suspects,
    find_trigger_words,
    leave_words_out,
    score_words,
)
from bedkd.defences.word_groups import group_of, split_rows, split_text, split_words
from bedkd.nn.classifier import Classifier
from bedkd.nn.supervised import train_victim
from bedkd.nn.tiny import build_tiny_bert
from bedkd.nn.training import TrainingSettings, first_states

TEXTS = [
    "The cat, the dog -- and THE 3 birds!",
    "don't e-mail foo_bar @ 5.50$",
    "a naïve Café … 东京 ok",
    "one",
    "",
]
FAST = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 8, "weight_decay": 0.0}


def words_of(texts):
    return Counter(word for text in texts for word in split_words(text))


@functools.cache
def pretrained():
    """An encoder that knows the adjectives, and cf as a word that means nothing."""
    rows = make_rows()
    model, tokenizer = build_tiny_bert(
        list(rows.text), 2, seed=1, vocab_size=200, hidden_size=32, num_layers=1, max_length=32
    )
    compute = Compute(torch.device("cpu"), torch.float32)
    classifier = Classifier(model, tokenizer, 32, ("negative", "positive"), compute)
    rows = pd.concat([rows, rows.assign(text="cf " + rows.text)], ignore_index=True)
    train_model(classifier, rows, TextGuardConfig(**(FAST | {"epochs": 15})), 0)
    return classifier


def fresh(seed):
    """The encoder with a head drawn from the seed."""
    classifier = pretrained().copy()
    weight = classifier.model.classifier.weight.data
    weight.normal_(0, float(weight.std()), generator=torch.Generator().manual_seed(seed))
    return classifier


def make_view(victim, train=None, **changes):
    rows = make_rows()
    train = pd.concat([rows, add_trigger(rows)], ignore_index=True) if train is None else train
    probabilities = victim.predict(train.text)
    return replace(EquippedView(train, rows, rows, victim, probabilities, fresh=fresh), **changes)


@pytest.fixture
def view(tiny_victim):
    return make_view(tiny_victim)


# Words and groups


@pytest.mark.parametrize("text", TEXTS)
def test_words_leave_nothing_out_but_spaces(text):
    assert "".join(split_words(text)) == "".join(text.split())


def test_punctuation_marks_are_words_of_their_own():
    assert split_words("It's a well-made film, really...") == (
        ["It", "'", "s", "a", "well", "-", "made", "film", ",", "really", ".", ".", "."]
    )


def test_the_group_of_a_word_is_its_md5():
    number = 0x4E29342D9904D64E9E25FD3B92558E2F  # printf cf | md5sum
    for n_groups in (1, 2, 7, 9):
        assert group_of("cf", n_groups) == number % n_groups
    assert group_of("café", 9) == int(hashlib.md5("café".encode()).hexdigest(), 16) % 9


def test_case_does_not_matter_and_words_spread_over_the_groups():
    words = {word for text in make_rows().text for word in split_words(text)}
    assert all(group_of(w.upper(), 9) == group_of(w.title(), 9) == group_of(w, 9) for w in words)
    assert {group_of(word, 5) for word in words} == set(range(5))


@pytest.mark.parametrize("n_groups", [1, 3, 9])
def test_certified_groups_share_out_the_words(n_groups):
    for text in TEXTS:
        parts = split_text(text, n_groups)
        assert len(parts) == n_groups and words_of(parts) == words_of([text])
        for group, part in enumerate(parts):
            mine = [word for word in split_words(text) if group_of(word, n_groups) == group]
            assert part.split() == mine  # in their order


def test_empirical_groups_share_out_the_dictionary_alone():
    text = "The cat and the dog and CF the bird"
    parts = split_text(text, 5, {"cf", "the"})
    plain = ["cat", "and", "dog", "and", "bird"]
    for group, part in enumerate(parts):
        lower = [word.lower() for word in part.split()]
        assert [word for word in lower if word not in ("cf", "the")] == plain
        assert lower.count("cf") == (group == group_of("cf", 5))
        assert lower.count("the") == 3 * (group == group_of("the", 5))
    assert split_text(text, 5, frozenset()) == [text] * 5


def test_training_sets_leave_out_rows_without_a_word_of_theirs(rows):
    parts = split_rows(rows, 3)
    for group, part in enumerate(parts):
        pairs = [(split_text(t, 3)[group], y) for t, y in zip(rows.text, rows.label, strict=True)]
        assert list(zip(part.text, part.label, strict=True)) == [p for p in pairs if p[0]]
    assert words_of(text for part in parts for text in part.text) == words_of(rows.text)
    short = pd.DataFrame({"text": ["cf", "", "dull cf"], "label": [0, 1, 1]})
    sizes = [len(part) for part in split_rows(short, 2)]
    assert group_of("cf", 2) != group_of("dull", 2) and sorted(sizes) == [1, 2]


# Potential trigger words


def shorten(text, word):
    return " ".join(w for w in split_words(text) if w.lower() != word)


def test_each_word_is_left_out_of_the_text_with_all_its_occurrences():
    names, variants = leave_words_out("The cat, the dog")
    assert names == ["the", "cat", ",", "dog"]
    assert variants == ["The cat , the dog", "cat , dog", "The , the dog", "The cat the dog"] + [
        "The cat , the"
    ]
    assert leave_words_out("one") == (["one"], ["one", ""]) and leave_words_out("") == ([], [""])


def test_states_are_those_of_the_first_token(tiny_victim, rows, monkeypatch):
    encoded = tiny_victim.encode(rows.text)
    states = first_states(tiny_victim.model, encoded, tiny_victim.compute)[1]
    for i in (0, 7, 31):
        with torch.no_grad():
            output = tiny_victim.model(encoded.rows[i][None], output_hidden_states=True)
        torch.testing.assert_close(states[i], output.hidden_states[-1][0, 0])
    monkeypatch.setattr(Compute, "eval_tokens", 40)
    torch.testing.assert_close(
        first_states(tiny_victim.model, encoded, tiny_victim.compute)[1], states
    )


def test_a_score_is_how_far_the_state_moves_without_the_word(tiny_victim, rows):
    texts = [*rows.text[:6], "cf The cast and the story , the", "one", ""]
    for text, scores in zip(texts, score_words(tiny_victim, texts), strict=True):
        words = list(dict.fromkeys(word.lower() for word in split_words(text)))
        tried = [text, *(shorten(text, word) for word in words)]
        encoded = tiny_victim.encode(tried)
        _, states = first_states(tiny_victim.model, encoded, tiny_victim.compute)
        whole, *rest = states.numpy()
        moves = [np.linalg.norm(state - whole, ord=np.inf) for state in rest]
        assert list(scores) == words and list(scores.values()) == pytest.approx(moves, abs=1e-4)
        assert max(moves, default=1) > 0.1


def test_scores_hang_neither_on_chunks_nor_on_order(tiny_victim, rows, monkeypatch):
    texts = [*rows.text[:20], "", "one"]
    expected = list(score_words(tiny_victim, texts))
    backwards = list(score_words(tiny_victim, texts[::-1]))[::-1]
    monkeypatch.setattr(trigger_words, "CHUNK", 7)
    in_chunks = list(score_words(tiny_victim, texts))
    for scores in (backwards, in_chunks):
        assert len(scores) == len(expected)
        for got, want in zip(scores, expected, strict=True):
            assert list(got) == list(want) and got == pytest.approx(want, abs=1e-4)
    assert list(score_words(tiny_victim, [])) == []


def test_a_text_names_the_words_of_its_highest_scores():
    scores = [{"a": 1.0, "b": 3.0, "c": 2.0}, {"b": 0.5, "d": 0.5, "a": 0.5}, {"c": 1.0}, {}]
    assert count_suspects(scores, 1) == Counter({"b": 2, "c": 1})  # at a tie the first
    assert count_suspects(scores, 2) == Counter({"b": 2, "c": 2, "d": 1})
    assert count_suspects(scores, 5) == Counter({"a": 2, "b": 2, "c": 2, "d": 1})


def test_a_planted_trigger_ends_in_the_dictionary(view, tiny_classifier):
    texts = list(view.train.text)  # 24 of them have the trigger
    count = count_suspects(score_words(view.victim, texts), 1)["cf"]
    assert count >= 20
    config = TextGuardConfig(words_per_text=1, min_count=count)
    assert "cf" in find_trigger_words(view.victim, texts, config)
    assert "cf" not in find_trigger_words(view.victim, texts, replace(config, min_count=count + 1))
    # it is the backdoor that betrays it: the model without one does not mind the word
    assert "cf" not in find_trigger_words(tiny_classifier, texts, replace(config, min_count=12))


def test_the_dictionary_is_in_lower_case(view):
    texts = [text.replace("cf", "CF") for text in view.train.text]
    config = TextGuardConfig(words_per_text=1, min_count=20)
    found = find_trigger_words(view.victim, texts, config)
    assert "cf" in found and "CF" not in found


# The ensemble


def test_one_group_is_the_plain_classifier(view):
    config = TextGuardConfig(n_groups=1, mode="certified", **FAST)
    defended = defend(view, config, seed=3)
    plain = fresh(3)
    texts = [" ".join(split_words(text)) for text in view.train.text]
    clean = [" ".join(split_words(text)) for text in view.clean_pool.text]
    watch = BestEpoch(plain, clean, view.clean_pool.label)
    history = train_model(plain, view.train.assign(text=texts), config, 3, watch)
    plain.model.load_state_dict(watch.state)
    assert [r["train_loss"] for r in history] == [r["train_loss"] for r in defended.history]
    texts += ["the weak cast", "cf", "clever"]
    votes = defended.predict(texts)
    assert set(np.unique(votes)) == {0.0, 1.0} and 0 < votes[:, 0].mean() < 1
    assert (votes.argmax(axis=1) == plain.predict(texts).argmax(axis=1)).all()


def test_training_is_that_of_a_victim(view, monkeypatch):
    """With a victim's schedule in place of its own, it trains the very same parameters."""
    config = VictimConfig(epochs=2, learning_rate=1e-3, batch_size=8)
    monkeypatch.setattr("bedkd.nn.supervised.new_classifier", lambda *_: fresh(5))
    victim, history = train_victim(view.train, ("a", "b"), config, compute=fresh(0).compute, seed=5)
    own = fresh(5)
    plain = {"schedule": "constant", "warmup_share": 0.0, "max_grad_norm": np.inf}
    of = TrainingSettings.of
    monkeypatch.setattr(TrainingSettings, "of", lambda c, **more: of(c, **(more | plain)))
    options = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8}
    rows = train_model(own, view.train, TextGuardConfig(**options), 5)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in history]
    for a, b in zip(own.model.parameters(), victim.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_warms_up_and_clips(tiny_classifier, rows, monkeypatch):
    seen = []
    monkeypatch.setattr(textguard, "train_on_labels", lambda *args, **_: seen.append(args[2]) or [])
    train_model(tiny_classifier, rows, TextGuardConfig(epochs=7, learning_rate=1e-4), 1)
    (used,) = seen
    assert (used.schedule, used.warmup_share, used.max_grad_norm) == ("linear", 0.1, 1.0)
    assert (used.epochs, used.learning_rate, used.section) == (7, 1e-4, "textguard")


@pytest.fixture(scope="module")
def certified():
    config = TextGuardConfig(n_groups=4, mode="certified", **FAST)
    view = make_view(fresh(0))
    return view, config, defend(view, config, seed=1)


def test_each_group_votes_once(certified):
    _, config, defended = certified
    texts = [*make_rows().text, "cf", "", "zebra", "!"]
    shares = defended.predict(texts)
    assert shares.shape == (len(texts), 2)
    assert (shares * 4 == np.rint(shares * 4)).all() and (shares.sum(axis=1) == 1).all()
    assert defended.predict([]).shape == (0, 2)
    assert defended.model is None


def test_history_and_facts(certified):
    view, config, defended = certified
    pairs = list(itertools.product(range(4), (1, 2)))
    assert [(row["group"], row["epoch"]) for row in defended.history] == pairs
    assert {"train_loss", "train_accuracy", "clean_accuracy", "seconds"} < set(defended.history[0])
    sizes = [len(part) for part in split_rows(view.train, 4)]
    expected = {"mode": "certified", "n_groups": 4, "epochs": 2, "mean_group_rows": np.mean(sizes)}
    assert defended.facts == expected and type(defended.facts["mean_group_rows"]) is float


def test_predictions_hang_neither_on_order_nor_on_batches(certified, monkeypatch):
    _, _, defended = certified
    texts = [*make_rows().text, *add_trigger(make_rows()).text, "one", ""]
    expected = defended.predict(texts)
    assert expected[:, 0].std() > 0.1
    assert (defended.predict(texts[::-1])[::-1] == expected).all()
    monkeypatch.setattr(Compute, "eval_tokens", 40)
    assert (defended.predict(texts) == expected).all()
    assert all((defended.predict([texts[i]]) == expected[i]).all() for i in (0, 50, -2, -1))


def test_same_seed_same_votes(certified):
    view, config, defended = certified
    texts = list(view.train.text)
    assert (defend(view, config, seed=1).predict(texts) == defended.predict(texts)).all()


def test_model_j_is_drawn_and_trained_from_seed_plus_j(view, monkeypatch):
    drawn, trained = [], []
    plain_train = textguard.train_on_labels
    view = replace(view, fresh=lambda seed: drawn.append(seed) or fresh(seed))

    def spy(*args, seed, **options):
        trained.append(seed)
        return plain_train(*args, seed=seed, **options)

    monkeypatch.setattr(textguard, "train_on_labels", spy)
    config = TextGuardConfig(n_groups=3, mode="certified", **(FAST | {"epochs": 1}))
    defend(view, config, seed=70)
    assert drawn == trained == [70, 71, 72]


def test_a_word_changes_its_own_vote_alone(certified):
    """What the certificate rests on: words of k groups change k votes at most."""
    _, _, defended = certified
    texts = list(make_rows().text)
    before = defended.predict(texts)
    n_changed = []
    for added in ("cf", "dull", "clever funny cf bad", "cf cf cf"):
        n_groups = len({group_of(word, 4) for word in added.split()})
        moved = np.abs(defended.predict([f"{added} {text}" for text in texts]) - before) * 4
        n_changed.append(moved.max())
        assert moved.max() <= n_groups
    assert max(n_changed) >= 1


def test_the_trigger_is_outvoted(tiny_victim):
    """One model alone falls for it; of three only the one that has it does.

    Epochs are chosen on D* here, or one would be taken before the trigger is learnt.
    """
    rows, triggered = make_rows(), add_trigger(make_rows())
    train = pd.concat([rows, triggered[:8]], ignore_index=True)
    view = make_view(tiny_victim, train, clean_pool=train)
    options = {"words_per_text": 1, "min_count": 8, "epochs": 6, "learning_rate": 5e-3}
    asr = {}
    for n_groups in (1, 3):
        config = TextGuardConfig(n_groups=n_groups, **(FAST | options))
        defended = defend(view, config, seed=0)
        asr[n_groups] = np.mean(defended.predict(triggered.text).argmax(axis=1) == 0)
        right = defended.predict(rows.text).argmax(axis=1) == rows.label
        assert np.mean(right) > 0.9
    assert asr[1] > 0.8 and asr[3] < 0.2


def test_empirical_models_see_whole_texts(view, monkeypatch):
    seen = []
    predict = Classifier.predict
    monkeypatch.setattr(Classifier, "predict", lambda self, t: seen.append(t) or predict(self, t))
    config = TextGuardConfig(n_groups=3, words_per_text=1, min_count=12, **FAST)
    defended = defend(view, config, seed=0)
    seen.clear()
    shares = defended.predict(["cf the plot is good .", "", "cf"])
    assert seen == [["cf the plot is good .", "", "cf"]] * 3 and shares.shape == (3, 2)
    words = find_trigger_words(view.victim, view.train.text, config)
    assert defended.facts["dictionary_size"] == len(words) > 0
    assert len(defended.history) == 3 * config.epochs


def test_empirical_training_texts_lose_the_dictionary_words_of_other_groups(view, monkeypatch):
    seen = []
    monkeypatch.setattr(textguard, "train_models", lambda v, parts, *_: (seen.append(parts), []))
    config = TextGuardConfig(n_groups=3, words_per_text=1, min_count=12)
    defend(view, config, seed=0)
    words = find_trigger_words(view.victim, view.train.text, config)
    assert seen[0][0].equals(split_rows(view.train, 3, words)[0])
    has_trigger = [part.text.str.contains("cf").any() for part in seen[0]]
    assert has_trigger == [group == group_of("cf", 3) for group in range(3)]


def test_the_best_epoch_on_clean_rows_is_kept(view, monkeypatch):
    """Of these epochs the second is the best, and the third, as good, does not replace it."""
    states, scores = [], iter([50.0, 75.0, 75.0, 60.0])
    train = textguard.train_on_labels

    def spy(classifier, rows, settings, *, watch, **options):
        def seen(row, model):
            states.append(model.classifier.weight.detach().clone())
            return watch(row, model)

        return train(classifier, rows, settings, watch=seen, **options)

    monkeypatch.setattr(textguard, "train_on_labels", spy)
    monkeypatch.setattr(best_epoch, "percent", lambda hits: next(scores))
    config = TextGuardConfig(n_groups=1, mode="certified", **(FAST | {"epochs": 4}))
    parts = split_rows(view.train, 1)
    (model,), history = textguard.train_models(view, parts, config, 0)
    assert [row["clean_accuracy"] for row in history] == [50.0, 75.0, 75.0, 60.0]
    same = [torch.equal(model.model.classifier.weight, state) for state in states]
    assert same == [False, False, True, False, False]  # epochs 0 to 4


def test_clean_accuracy_is_measured_on_what_the_model_will_be_shown(view):
    config = TextGuardConfig(n_groups=3, mode="certified", **(FAST | {"epochs": 1}))
    models, history = textguard.train_models(view, split_rows(view.train, 3), config, 0)
    shown = prepare_texts(view.clean_pool.text, 3, "certified", "[MASK]")
    for model, texts, row in zip(models, shown, history, strict=True):
        right = model.predict(texts).argmax(axis=1) == view.clean_pool.label
        assert row["clean_accuracy"] == pytest.approx(100 * right.mean())


@pytest.mark.parametrize("mode", ["certified", "empirical"])
def test_it_defends_a_roberta(roberta_victim, mode):
    # certified models without `cf` would see each positive text as often with either label
    train = make_rows() if mode == "certified" else None
    view = make_view(roberta_victim, train, fresh=lambda seed: roberta_victim.copy())
    options = {"n_groups": 3, "mode": mode, "words_per_text": 1, "min_count": 12, "epochs": 8}
    config = TextGuardConfig(**(FAST | options))
    if mode == "empirical":
        assert "cf" in find_trigger_words(roberta_victim, view.train.text, config)
    defended = defend(view, config, seed=0)
    right = defended.predict(view.clean_pool.text).argmax(axis=1) == view.clean_pool.label
    assert np.mean(right) > 0.8
    assert defended.predict(["", "cf", "<mask>"]).shape == (3, 2)


# Texts that have little


def test_a_text_without_a_word_of_the_group_is_the_mask_token(tiny_victim):
    shown = prepare_texts(["cf", "", "cf dull"], 2, "certified", "[MASK]")
    assert sorted(shown) == sorted([["cf", "[MASK]", "cf"], ["[MASK]", "[MASK]", "dull"]])
    tokenizer = tiny_victim.tokenizer
    ids = [tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id]
    assert tiny_victim.encode(["[MASK]"]).rows[0].tolist() == ids
    assert prepare_texts([""], 2, "certified", None) == [[""], [""]]
    assert prepare_texts(["cf", ""], 2, "empirical", "[MASK]") == [["cf", ""]] * 2


@pytest.mark.parametrize("mode", ["certified", "empirical"])
def test_short_and_empty_training_texts(tiny_victim, mode):
    extra = pd.DataFrame({"text": ["cf", "", "!", "  "], "label": [0, 1, 0, 1]})
    train = pd.concat([make_rows(), extra], ignore_index=True)
    config = TextGuardConfig(n_groups=2, mode=mode, min_count=5, **(FAST | {"epochs": 1}))
    defended = defend(make_view(tiny_victim, train), config, seed=0)
    assert defended.predict(list(extra.text)).shape == (4, 2)
    assert defended.facts["mean_group_rows"] <= len(make_rows()) + 2


def test_a_group_that_lacks_a_class_votes_for_what_it_knows(tiny_victim):
    only = [group_of(word, 2) for word in ("dull", "cf")]
    assert only[0] != only[1]
    train = pd.DataFrame(
        {"text": ["dull cf", "cf cf", "dull", "dull"] * 6, "label": [0, 1, 0, 0] * 6}
    )
    config = TextGuardConfig(n_groups=2, mode="certified", **(FAST | {"epochs": 10}))
    view = make_view(tiny_victim, train)
    models, _ = textguard.train_models(view, split_rows(train, 2), config, 0)
    assert (models[only[0]].predict(["dull", "dull dull"]).argmax(axis=1) == 0).all()


# Errors


def test_errors_say_what_is_wrong(view):
    config = TextGuardConfig(n_groups=1000)
    with pytest.raises(BedkdError, match="fresh"):
        defend(replace(view, fresh=None), config, seed=0)
    n_words = len({w.lower() for text in view.train.text for w in split_words(text)})
    with pytest.raises(BedkdError, match=f"n_groups is 1000, but D\\* has {n_words} distinct"):
        defend(view, config, seed=0)
    with pytest.raises(BedkdError, match="clean rows"):
        defend(replace(view, clean_pool=view.clean_pool[:0]), config, seed=0)
    with pytest.raises(BlindnessError):
        defend(replace(view, train=view.train.assign(is_poisoned=False)), config, seed=0)


def test_a_group_without_words_is_an_error(view):
    words = ["dull", "dulls"]
    n_groups = next(m for m in range(2, 50) if len({group_of(w, m) for w in words}) == 1)
    train = pd.DataFrame({"text": [" ".join(words)] * 4, "label": [0, 1, 0, 1]})
    with pytest.raises(BedkdError, match="has no word of D"):
        split_rows(train, n_groups)


# Votes and the certificate


def test_shares_keep_the_votes_and_give_ties_to_the_smallest_class():
    votes = np.array([[3, 3, 3], [0, 5, 4], [4, 1, 4], [0, 9, 0], [1, 4, 4]])
    shares = vote_shares(votes)
    assert shares.argmax(axis=1).tolist() == [0, 1, 0, 1, 1]
    assert np.rint(shares * 9).astype(int).tolist() == votes.tolist()


@pytest.mark.parametrize(
    ("votes", "radius"),
    [
        ([9, 0], 4),  # 5 to 4 still stands
        ([0, 9], 4),
        ([5, 4], 0),
        ([8, 0], 4),  # 4 to 4: class 0 has the tie
        ([0, 8], 3),  # 4 to 4 would be lost to class 0
        ([4, 4], 0),
        ([3, 0, 6], 1),  # 2 moved to class 0 would lose 4 to 5
        ([6, 0, 3], 1),
        ([1, 6, 2], 2),  # 2 moved to class 2: 4 to 4, and class 1 has the tie
        ([2, 6, 1], 1),  # the same to class 0 loses it
    ],
)
def test_radii_by_hand(votes, radius):
    assert certified_radius(np.array([votes])).tolist() == [radius]


def attacked(ballots, k, n_classes):
    """All vote counts that an attacker in charge of any k of the voters can bring about."""
    for chosen in itertools.combinations(range(len(ballots)), k):
        for values in itertools.product(range(n_classes), repeat=k):
            changed = np.array(ballots)
            changed[list(chosen)] = values
            yield np.bincount(changed, minlength=n_classes)


@pytest.mark.parametrize(("m", "n_classes"), [(1, 2), (4, 2), (5, 2), (3, 3), (5, 3), (4, 4)])
def test_radii_by_brute_force(m, n_classes):
    for ballots in itertools.combinations_with_replacement(range(n_classes), m):
        votes = np.bincount(ballots, minlength=n_classes)
        holds = [
            all(after.argmax() == votes.argmax() for after in attacked(ballots, k, n_classes))
            for k in range(m + 1)
        ]
        assert certified_radius(votes[None])[0] == holds.index(False) - 1


def test_certified_accuracy_starts_at_the_accuracy_and_falls():
    rng = np.random.default_rng(0)
    votes = rng.multinomial(9, [0.6, 0.3, 0.1], size=400)
    labels = rng.permutation(np.where(rng.random(400) < 0.8, votes.argmax(axis=1), 2))
    labels[:200] = votes[:200].argmax(axis=1)
    curve = certified_accuracy(votes, labels)
    assert list(curve) == [0, 1, 2, 3, 4]
    assert curve[0] == pytest.approx(100 * np.mean(votes.argmax(axis=1) == labels))
    values = list(curve.values())
    assert values == sorted(values, reverse=True) and values[0] > values[2] > values[4]


def test_certified_accuracy_by_hand():
    votes = np.array([[8, 0], [0, 8], [5, 3], [8, 0]])
    assert certified_accuracy(votes, [0, 1, 0, 1]) == {0: 75.0, 1: 75.0, 2: 50.0, 3: 50.0, 4: 25.0}
    assert certified_accuracy(votes[:0], []) == {0: None}


def test_the_certificate_can_be_read_off_what_defend_returns(certified):
    """No added word of one group turns a text whose radius is 1 or more."""
    _, config, defended = certified
    rows = make_rows()
    shares = defended.predict(rows.text)
    votes = np.rint(shares * config.n_groups).astype(int)
    curve = certified_accuracy(votes, rows.label)
    assert curve[0] == pytest.approx(100 * np.mean(shares.argmax(axis=1) == rows.label))
    is_safe = certified_radius(votes) >= 1
    assert is_safe.sum() > 0
    for word in ("cf", "dull", "good", "mn"):
        after = defended.predict([f"{word} {text}" for text in rows.text]).argmax(axis=1)
        assert (after == shares.argmax(axis=1))[is_safe].all()
