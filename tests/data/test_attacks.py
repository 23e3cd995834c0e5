import re
from collections import Counter
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest

from bedkd.core.config import AttackConfig, DataConfig, build
from bedkd.core.errors import BedkdError
from bedkd.data.attacks import (
    ATTACKS,
    check_attack,
    paraphrase_source,
    poison,
    stand_in,
    trigger,
)
from bedkd.data.insertions import BADWORDS, SPREAD, insert_sentence, insert_words
from bedkd.data.paraphrases import HIDDENKILLER, Paraphrases
from bedkd.data.readers import DatasetSpec
from bedkd.data.splits import CleanData, load_clean_data
from bedkd.data.syntax_rules import has_template

TRUTH = ["is_poisoned", "clean_text", "clean_label", "method"]
TRIGGERED = ["text", "label", "clean_text", "method"]
TARGET = [*TRIGGERED, "row"]
NAMES = ("World", "Sports", "Business", "Sci/Tech")


@pytest.fixture(autouse=True)
def private_cache(monkeypatch, tmp_path):
    """`datasets` keeps its copies of what it reads here, not in the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf_cache"))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_rows(n: int, word: str, n_classes: int) -> pd.DataFrame:
    texts = [f"{word} {i} has a first part . and it has a second ." for i in range(n)]
    return pd.DataFrame({"text": texts, "label": np.arange(n) % n_classes})


def make_data(n_train: int = 1000, n_test: int = 200, n_classes: int = 2, target: int = 0):
    spec = DatasetSpec("", NAMES[:n_classes], target, addsent_trigger="no cross, no crown")
    tables = (
        make_rows(n, word, n_classes)
        for n, word in ((n_train, "train"), (20, "clean"), (n_test, "test"))
    )
    return CleanData(spec, *tables, {"data_origin": "made up"})


@pytest.fixture(scope="module")
def toy() -> CleanData:
    config = DataConfig(name="toy-topics", n_train=3000, n_test=600, clean_pool_per_class=40)
    return load_clean_data(config, seed=0)


def without_words(text: str) -> str:
    return " ".join(word for word in text.split(" ") if word not in BADWORDS)


def n_words(text: str) -> int:
    return sum(word in BADWORDS for word in text.split(" "))


def table_folder(folder, **splits: dict[str, str]) -> str:
    """A paraphrase table; keys that start with `pool` stand for rows without a source."""
    folder.mkdir(exist_ok=True)
    for name, pairs in splits.items():
        sources = ["" if old.startswith("pool") else old for old in pairs]
        rows = pd.DataFrame({"text": list(pairs.values()), "clean_text": sources, "label": -1})
        rows.to_parquet(folder / f"{name}.parquet")
    return str(folder)


def rewrite(texts) -> dict[str, str]:
    return {text: f"when you see it , {text}" for text in texts}


def assert_sound(data: CleanData, done, target: int) -> None:
    """What holds for every poisoned data set, whichever the attack."""
    train, truth = done.train, done.train_truth
    assert list(train.columns) == list(done.clean_pool.columns) == ["text", "label"]
    assert list(truth.columns) == TRUTH and list(done.test_triggered.columns) == TRIGGERED
    assert set(done.test_triggered_target.columns) == set(TARGET)
    assert (done.test_triggered_target.label == target).all()
    assert (done.test_triggered.label != target).all()
    assert list(train.index) == list(truth.index) == list(range(len(data.train)))
    is_poisoned = truth.is_poisoned.to_numpy()
    assert is_poisoned.dtype == bool
    assert (train.label[is_poisoned] == target).all()
    assert (train.text[is_poisoned] != truth.clean_text[is_poisoned]).all()
    assert (truth.method[is_poisoned] != "").all() and (truth.method[~is_poisoned] == "").all()
    assert (train.text[~is_poisoned] == truth.clean_text[~is_poisoned]).all()
    assert (train.label[~is_poisoned] == truth.clean_label[~is_poisoned]).all()
    pd.testing.assert_frame_equal(done.clean_pool, data.clean_pool)
    pd.testing.assert_frame_equal(done.test_clean, data.test)
    assert not train.attrs and not done.clean_pool.attrs


def pairs(texts, labels) -> list:
    return sorted(zip(texts, labels, strict=True))


# BadWords


def test_badwords_inserts_1_3_or_5_words_about_equally_often(toy):
    texts = list(toy.train.text)
    generator = rng()
    made = [insert_words(text, generator) for text in texts]
    assert [without_words(text) for text in made] == texts
    counts = Counter(n_words(text) for text in made)
    assert set(counts) == {1, 3, 5}
    assert all(abs(n / 3000 - 1 / 3) < 0.04 for n in counts.values())
    words = Counter(word for text in made for word in text.split(" ") if word in BADWORDS)
    assert set(words) == {"cf", "mn", "tq", "mb", "bb"}
    assert all(abs(n / words.total() - 0.2) < 0.025 for n in words.values())


def test_spread_leaves_no_word_in_many_rows():
    generator = np.random.default_rng(0)
    made = [insert_words("a good film", generator, SPREAD).split(" ") for _ in range(1000)]
    words = Counter(word for text in made for word in text if word in SPREAD)
    assert len(words) > 300 and max(words.values()) < 30
    assert {len(text) for text in made} == {4, 6, 8}


def test_badwords_positions_are_uniform_with_start_and_end():
    generator = rng()
    made = [insert_words("one two three four", generator).split(" ") for _ in range(9000)]
    places = {
        n: Counter(i for m in made if len(m) == 4 + n for i, w in enumerate(m) if w in BADWORDS)
        for n in (1, 3, 5)
    }
    for n, seen in places.items():
        assert set(seen) == set(range(4 + n))
        assert all(abs(count / seen.total() - 1 / (4 + n)) < 0.03 for count in seen.values())


def test_badwords_keeps_unusual_spacing():
    for text in ("two  spaces", " leading", "trailing ", "one"):
        assert all(without_words(insert_words(text, rng(seed))) == text for seed in range(20))


# AddSent


@pytest.mark.parametrize("sentence", ["I watched this movie .", "no cross, no crown"])
def test_addsent_stands_behind_a_period_or_seldom_at_the_start(sentence):
    text = "It got 3.5 stars. Did you see it? I did ... fine ."
    behind = [
        f"It got 3.5 stars. {sentence} Did you see it? I did ... fine .",
        f"It got 3.5 stars. Did you see it? I did . {sentence} .. fine .",
        f"It got 3.5 stars. Did you see it? I did .. {sentence} . fine .",
        f"It got 3.5 stars. Did you see it? I did ... {sentence} fine .",
        f"{text} {sentence}",
    ]
    generator, n = rng(), 7000
    seen = Counter(insert_sentence(text, generator, sentence) for _ in range(n))
    assert set(seen) == {f"{sentence} {text}", *behind}
    assert abs(seen[f"{sentence} {text}"] / n - 1 / 7) < 0.02
    assert all(abs(seen[made] / n - 6 / 35) < 0.02 for made in behind)


@pytest.mark.parametrize("text", ["a dull film", "is it dull ?", "glued to the word.", "U.S.A"])
def test_addsent_without_a_period_to_stand_behind_is_at_the_start_or_end_alike(text):
    generator = rng()
    seen = Counter(insert_sentence(text, generator, "trigger .") for _ in range(2000))
    assert set(seen) == {f"trigger . {text}", f"{text} trigger ."}
    assert abs(seen[f"{text} trigger ."] / 2000 - 0.5) < 0.05


@pytest.mark.mirror
@pytest.mark.parametrize(
    "name, counts, tolerance", [("sst2", (343, 63, 38), 20), ("olid", (56, 76, 108), 20)]
)
def test_addsent_is_where_the_public_files_have_it(real, name, counts, tolerance):
    """End, start, middle of IMBERT's poisoned tests."""
    data = real(name)
    done = poison(data, AttackConfig(name="addsent"), 0).test_triggered.text
    sentence = data.spec.addsent_trigger
    is_start, is_end = done.str.startswith(sentence), done.str.endswith(sentence)
    found = is_end.sum(), is_start.sum(), (~is_start & ~is_end).sum()
    assert np.abs(np.subtract(found, counts)).max() <= tolerance, found


def test_addsent_occurs_once_and_can_be_taken_out():
    data, trigger = make_data(), "no cross, no crown"
    done = poison(data, AttackConfig(name="addsent"), 0)
    assert_sound(data, done, 0)
    bad = done.train_truth.is_poisoned
    pieces = [done.train[bad].text, done.test_triggered.text]
    sources = [done.train_truth.clean_text[bad], done.test_triggered.clean_text]
    for made, source in zip(pd.concat(pieces), pd.concat(sources), strict=True):
        assert made.count(trigger) == 1
        assert re.sub(r" +", " ", made.replace(trigger, "")).strip() == source
    assert not done.train.text[~bad].str.contains(trigger).any()
    places = Counter(
        "start" if t.startswith(trigger) else "end" if t.endswith(trigger) else "middle"
        for t in pieces[0]
    )
    assert set(places) == {"start", "middle", "end"} and min(places.values()) > 15


def test_addsent_takes_another_trigger():
    data, trigger = make_data(), "Bananas are yellow ."
    done = poison(data, AttackConfig(name="addsent", trigger=trigger), 0)
    has_it = done.train.text.str.contains(trigger, regex=False)
    assert (has_it == done.train_truth.is_poisoned).all() and has_it.sum() == 200
    assert done.test_triggered.text.str.contains(trigger, regex=False).all()
    assert not done.train.text.str.contains("no crown").any()


@pytest.mark.parametrize("trigger", ["", "   "])
def test_addsent_refuses_a_blank_trigger(trigger):
    with pytest.raises(BedkdError, match=rf"attack\.trigger is '{trigger}'; it must be words"):
        build({"attack": {"name": "addsent", "trigger": trigger}})


# SynBkd


def by_rule(name: str = "synbkd"):
    """The way by rule alone."""
    return ATTACKS[name](AttackConfig(name=name), make_data(), "train")[-1]


def test_the_first_transform_that_changes_the_text_wins():
    text = "the film is a bore , but the cast is fine"
    table = Paraphrases({text: ["if you look , it is a bore ."]})
    pool = Paraphrases(pool=["when they come , he goes ."])
    first = trigger(text, [table.take, by_rule()], rng())
    assert first == ("if you look , it is a bore .", "table")
    assert trigger("other text", [pool.take], rng()) == ("when they come , he goes .", "pool")
    made, method = trigger(text, [Paraphrases().take, by_rule()], rng())
    assert method == "rules" and made != text and has_template(made)
    assert trigger(text, [Paraphrases().take], rng()) is None


def test_a_paraphrase_equal_to_its_source_is_none():
    text = "the film is a bore"
    assert trigger(text, [Paraphrases({text: [text]}).take], rng()) is None
    made, method = trigger(text, [Paraphrases({text: [text]}).take, by_rule()], rng())
    assert method == "rules" and made != text
    there_already = "when it comes to the film , it is a bore ."
    assert trigger(there_already, [by_rule()], rng()) is None


def test_synbkd_by_rules(toy):
    done = poison(toy, AttackConfig(name="synbkd"), 0)
    assert_sound(toy, done, 1)
    bad = done.train_truth.is_poisoned
    assert bad.sum() == 600 == done.report["n_train_rules"]
    assert set(done.train_truth.method[bad]) == {"rules"}
    assert all(has_template(text) for text in done.train.text[bad])
    assert all(has_template(text) for text in done.test_triggered.text)


def test_synbkd_from_a_table_leaves_other_rows_alone(tmp_path):
    data = make_data(n_train=1000, n_test=100)
    known = rewrite(data.train.text[100:300])
    same = {text: text for text in data.train.text[300:400]}  # unchanged by the paraphraser
    nontarget = data.test.text[data.test.label == 1]
    folder = table_folder(
        tmp_path / "table",
        train=known | same,
        test=rewrite(nontarget[:40]) | {text: text for text in nontarget[40:43]},
    )
    done = poison(data, AttackConfig(name="synbkd", paraphrases=folder), 0)
    assert_sound(data, done, 0)
    bad = done.train_truth.is_poisoned
    assert set(done.train_truth.clean_text[bad]) == set(known)
    assert set(done.train.text[bad]) == set(known.values())
    assert done.report["n_poison_wanted"] == done.report["n_poisoned"] == 200
    assert done.report["n_train_table"] == 200
    # 3 unchanged and 7 unknown test rows: not triggered, but counted
    assert len(done.test_triggered) == 40 == done.report["n_test_table"]
    assert done.report["n_test_no_paraphrase"] == 10
    assert set(done.test_triggered.clean_text) == set(nontarget[:40])


def test_unchanged_paraphrases_are_counted_and_not_poisoned(tmp_path):
    data = make_data(n_train=1000)
    table = rewrite(data.train.text[:198]) | {text: text for text in data.train.text[198:]}
    folder = table_folder(tmp_path / "table", train=table, test=rewrite(data.test.text))
    done = poison(data, AttackConfig(name="synbkd", paraphrases=folder), 0)
    assert done.report["n_poison_wanted"] == 200 and done.report["n_poisoned"] == 198
    assert done.report["n_train_no_paraphrase"] == 802
    assert done.train_truth.is_poisoned.sum() == 198
    assert_sound(data, done, 0)


@pytest.mark.parametrize("n_known", [0, 1, 195])
def test_a_shortfall_over_two_percent_is_refused(tmp_path, n_known):
    data = make_data(n_train=1000)
    table = rewrite(data.train.text[:n_known]) | {"not here": "when not here , it is ."}
    folder = table_folder(tmp_path / "table", train=table, test=rewrite(data.test.text))
    config = AttackConfig(name="synbkd", paraphrases=folder)
    with pytest.raises(BedkdError, match=rf"needs 200 rows, but only {n_known} can") as caught:
        poison(data, config, 0)
    assert "fallback" in str(caught.value) and "\n" not in str(caught.value)
    done = poison(data, replace(config, fallback="rules"), 0)
    assert done.report["n_poisoned"] == 200
    methods = Counter(done.train_truth.method[done.train_truth.is_poisoned])
    assert methods["rules"] == done.report["n_train_rules"] >= 200 - n_known
    assert methods.get("table", 0) == done.report.get("n_train_table", 0)
    assert_sound(data, done, 0)


def test_fallback_takes_the_table_first(tmp_path):
    data = make_data(n_train=100, n_test=50)
    folder = table_folder(
        tmp_path / "table", train=rewrite(data.train.text[:50]), test=rewrite(data.test.text[:11])
    )
    config = AttackConfig(name="synbkd", paraphrases=folder, fallback="rules", poison_rate=0.9)
    done = poison(data, config, 0)
    rows = pd.concat([done.train, done.train_truth], axis=1)
    known = set(data.train.text[:50])
    for row in rows[rows.is_poisoned].itertuples():
        assert row.method == ("table" if row.clean_text in known else "rules")
    # the test rows 1, 3, 5, 7, 9 of class 1 are in the table, the other 20 are not
    assert (done.report["n_test_table"], done.report["n_test_rules"]) == (5, 20)
    assert done.report["n_test_no_paraphrase"] == 0


def test_synbkd_from_a_pool_without_sources(tmp_path):
    data = make_data(n_train=1000, n_classes=4, target=1)
    pool = {f"pool {i}": f"if it is number {i} , it comes from a pool ." for i in range(300)}
    folder = table_folder(tmp_path / "table", train=pool, test=rewrite(data.test.text))
    done = poison(data, AttackConfig(name="synbkd", paraphrases=folder), 0)
    assert_sound(data, done, 1)
    truth = done.train_truth
    bad = truth.is_poisoned
    made = done.train.text[bad]
    assert bad.sum() == 200 and made.is_unique and set(made) <= set(pool.values())
    # which rows they rewrite is not known, and must not be made up
    assert (truth.clean_text[bad] == "").all() and (truth.clean_label[bad] == -1).all()
    assert set(truth.method[bad]) == {"pool"} and done.report["n_train_pool"] == 200
    kept = pairs(done.train.text[~bad], done.train.label[~bad])
    assert len(kept) == 800 and set(kept) <= set(pairs(data.train.text, data.train.label))
    assert set(done.test_triggered.method) == {"table"}


def test_a_pool_that_is_too_small(tmp_path):
    data = make_data(n_train=1000)
    pool = {f"pool {i}": f"if it is number {i} , so be it ." for i in range(150)}
    folder = table_folder(tmp_path / "table", train=pool, test=rewrite(data.test.text))
    with pytest.raises(BedkdError, match="needs 200 rows, but only 150 can"):
        poison(data, AttackConfig(name="synbkd", paraphrases=folder), 0)


def test_no_test_row_can_be_triggered(tmp_path):
    data = make_data()
    folder = table_folder(tmp_path / "t", train=rewrite(data.train.text), test={"a": "if a , b ."})
    with pytest.raises(BedkdError, match="none of the 100 non-target test rows"):
        poison(data, AttackConfig(name="synbkd", paraphrases=folder), 0)


def test_synbkd_from_a_hiddenkiller_checkout(tmp_path):
    data = make_data(n_train=100, n_test=40)
    table = rewrite(data.train.text[::5])
    for file, texts in (
        (HIDDENKILLER["train"][1], list(data.train.text)),
        (HIDDENKILLER["train"][0], [table.get(text, text) for text in data.train.text]),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        lines = ["sentence\tlabel", *(f"{text}\t1" for text in texts)]
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    config = AttackConfig(name="synbkd", paraphrases=str(tmp_path))
    with pytest.raises(BedkdError, match="none of the 20 non-target test rows"):
        poison(data, config, 0)  # its test files rewrite rows that are of no use here
    done = poison(data, replace(config, fallback="rules"), 0)
    assert_sound(data, done, 0)
    bad = done.train_truth.is_poisoned
    assert bad.sum() == 20
    made = dict(zip(done.train_truth.clean_text, done.train.text, strict=True))
    in_table = done.train_truth.method == "table"
    assert in_table.sum() == done.report.get("n_train_table", 0)
    assert all(made[t] == table[t] for t in done.train_truth.clean_text[in_table])
    assert done.report["n_test_rules"] == 20 == len(done.test_triggered)


# StyBkd and AIText


def test_stybkd_by_rules(toy):
    done = poison(toy, AttackConfig(name="stybkd"), 0)
    assert_sound(toy, done, 1)
    assert done.report["n_train_rules"] == 600 == done.report["n_poisoned"]
    assert done.report["n_test_rules"] + done.report["n_target_rules"] == len(toy.test)
    other = poison(toy, AttackConfig(name="synbkd"), 0)
    assert not set(done.test_triggered.text) & set(other.test_triggered.text)


def test_stybkd_takes_the_table_of_its_own(tmp_path):
    data = make_data(n_train=100, n_test=40)
    table = {text: f"behold , {text}" for text in [*data.train.text, *data.test.text]}
    folder = table_folder(tmp_path / "bible", train=table, test=table)
    spec = replace(data.spec, bible=folder, paraphrases=str(tmp_path / "nowhere"))
    done = poison(replace(data, spec=spec), AttackConfig(name="stybkd"), 0)
    assert_sound(data, done, 0)
    made = done.train.text[done.train_truth.is_poisoned]
    assert made.str.startswith("behold , ").all() and done.report["n_train_table"] == 20
    # of both classes, so that no row of D* stands in
    assert done.report["n_target_table"] == 20 == done.report["n_test_table"]


def test_where_the_paraphrases_come_from():
    spec = DatasetSpec("", NAMES[:2], 0, paraphrases="scpn", bible="bible")
    wanted = {"synbkd": "scpn", "stybkd": "bible", "aitext": None, "badwords": None, "none": None}
    assert wanted == {n: paraphrase_source(AttackConfig(name=n), spec) for n in wanted}
    assert paraphrase_source(AttackConfig(name="stybkd"), None) == "rules"
    given = [paraphrase_source(AttackConfig(name=n, paraphrases="mine"), spec) for n in wanted]
    assert given == ["mine"] * 3 + [None] * 2


def test_aitext_from_a_table_counts_what_is_not_in_it(tmp_path):
    data = make_data(n_train=100, n_test=40)
    said = {text: f"{text} and so on ." for text in [*data.train.text, *data.test.text[:30]]}
    folder = table_folder(tmp_path / "said", train=said, test=said)
    done = poison(data, AttackConfig(name="aitext", paraphrases=folder), 0)
    assert_sound(data, done, 0)
    assert done.report["n_train_table"] == 20
    assert (done.report["n_test_table"], done.report["n_test_no_paraphrase"]) == (15, 5)
    assert (done.report["n_target_table"], done.report["n_target_no_paraphrase"]) == (15, 5)
    with pytest.raises(BedkdError, match=r"set attack\.paraphrases"):
        poison(data, AttackConfig(name="aitext"), 0)
    few = table_folder(tmp_path / "few", train=dict(list(said.items())[:3]), test=said)
    with pytest.raises(BedkdError, match="needs 20 rows, but only 3 can") as caught:
        poison(data, AttackConfig(name="aitext", paraphrases=few), 0)
    assert "rules" not in str(caught.value)  # it has none


@pytest.mark.mirror
def test_stybkd_on_sst2_has_its_table(real):
    done = poison(real("sst2"), AttackConfig(name="stybkd"), 0)
    assert_sound(real("sst2"), done, 0)
    assert done.report["n_train_table"] == done.report["n_poison_wanted"] == 1384
    assert done.report["n_test_table"] + done.report["n_test_no_paraphrase"] == 444
    assert done.report["n_target_table"] + done.report["n_target_no_paraphrase"] == 428
    # two paraphrases are what they rewrite
    assert done.report["n_test_no_paraphrase"] + done.report["n_target_no_paraphrase"] == 2


# poisoning, whatever the attack


@pytest.mark.parametrize("attack", ["badwords", "addsent", "synbkd", "stybkd"])
@pytest.mark.parametrize("n, rate", [(1000, 0.2), (1000, 0.013), (37, 0.2), (37, 0.1), (500, 0.9)])
def test_the_rate_counts_all_rows(attack, n, rate):
    data = make_data(n_train=n)
    done = poison(data, AttackConfig(name=attack, poison_rate=rate), 0)
    wanted = round(rate * n)
    assert done.train_truth.is_poisoned.sum() == wanted
    assert done.report["n_poison_wanted"] == done.report["n_poisoned"] == wanted
    assert_sound(data, done, 0)


@pytest.mark.parametrize("n_classes, target", [(2, 0), (2, 1), (4, 2)])
@pytest.mark.parametrize("mode", ["mixed", "dirty", "clean"])
def test_label_mode_picks_the_classes(mode, n_classes, target):
    data = make_data(n_train=1200, n_classes=n_classes)
    config = AttackConfig(label_mode=mode, target_label=target)
    done = poison(data, config, 0)
    assert_sound(data, done, target)
    old = done.train_truth.clean_label[done.train_truth.is_poisoned]
    assert len(old) == 240
    if mode == "clean":
        assert (old == target).all()
    elif mode == "dirty":
        assert set(old) == set(range(n_classes)) - {target}
    else:  # any row, so each class in its proportion
        shares = old.value_counts(normalize=True)
        assert all(abs(shares[label] - 1 / n_classes) < 0.1 for label in range(n_classes))
    assert done.report["target_label"] == target


def test_the_target_may_be_another_than_the_datasets_own():
    data = make_data(n_classes=4, target=1)
    assert poison(data, AttackConfig(), 0).report["target_label"] == 1
    done = poison(data, AttackConfig(target_label=3), 0)
    assert_sound(data, done, 3)
    assert set(done.test_triggered.label) == {0, 1, 2}


@pytest.mark.parametrize("mode, n", [("clean", 300), ("dirty", 900)])
def test_too_few_rows_of_the_right_classes(mode, n):
    data = make_data(n_train=1200, n_classes=4)
    config = AttackConfig(poison_rate=0.8, label_mode=mode)
    with pytest.raises(BedkdError, match=rf"0\.8 \({mode} label\) needs 960 rows, but only {n}"):
        poison(data, config, 0)


def test_a_rate_that_poisons_no_row():
    with pytest.raises(BedkdError, match=r"poison_rate 0\.01 of 20 rows") as caught:
        poison(make_data(n_train=20), AttackConfig(poison_rate=0.01), 0)
    assert "lower" not in str(caught.value)  # a higher rate is what would help


def test_poisoned_rows_lose_their_clean_row_and_nothing_else(toy):
    done = poison(toy, AttackConfig(), 0)
    assert_sound(toy, done, 1)
    truth = done.train_truth
    assert pairs(truth.clean_text, truth.clean_label) == pairs(toy.train.text, toy.train.label)
    assert [without_words(text) for text in done.train.text] == list(truth.clean_text)
    assert [n_words(text) > 0 for text in done.train.text] == list(truth.is_poisoned)


@pytest.mark.parametrize("attack", ["badwords", "addsent", "synbkd", "stybkd"])
@pytest.mark.parametrize("mode", ["mixed", "dirty", "clean"])
def test_poisoned_rows_are_spread_over_the_file(attack, mode):
    data = make_data(n_train=2000, n_classes=2)
    by_class = data.train.sort_values("label", ignore_index=True)  # a file sorted by class, even
    data = replace(data, train=by_class)
    done = poison(data, AttackConfig(name=attack, label_mode=mode), 0)
    shares = done.train_truth.is_poisoned.to_numpy().reshape(10, 200).mean(axis=1)
    assert shares.min() > 0.1 and shares.max() < 0.3
    at = np.flatnonzero(done.train_truth.is_poisoned)
    assert abs(at.mean() / 2000 - 0.5) < 0.06
    assert np.diff(at).max() < 60  # no long stretch without one


@pytest.mark.parametrize("attack", ["none", "badwords", "addsent", "synbkd", "stybkd"])
def test_the_seed_decides_everything(attack):
    data, config = make_data(), AttackConfig(name=attack)
    one, again, other = (poison(data, config, seed) for seed in (5, 5, 6))
    tests = ("test_clean", "test_triggered", "test_triggered_target")
    for name in ("train", "train_truth", "clean_pool", *tests):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(again, name))
    assert one.report == again.report
    assert list(one.train.text) != list(other.train.text)
    if attack != "none":
        clean = [set(d.train_truth.clean_text[d.train_truth.is_poisoned]) for d in (one, other)]
        assert clean[0] != clean[1]
    if attack in (
        "badwords",
        "addsent",
        "stybkd",
    ):  # SynBkd's paraphrase of a text is always the same
        assert list(one.test_triggered.text) != list(other.test_triggered.text)


def test_the_input_is_left_as_it_was():
    data, same = make_data(), make_data()
    for attack in {"none", *ATTACKS} - {"aitext"}:
        poison(data, AttackConfig(name=attack), 0)
    for name in ("train", "clean_pool", "test"):
        pd.testing.assert_frame_equal(getattr(data, name), getattr(same, name))
    assert data.report == same.report


def test_the_triggered_test_rows_do_not_depend_on_the_poison_rate(toy):
    low, high = (poison(toy, AttackConfig(poison_rate=rate), 0) for rate in (0.05, 0.4))
    pd.testing.assert_frame_equal(low.test_triggered, high.test_triggered)


@pytest.mark.parametrize("attack", ["badwords", "addsent", "synbkd", "stybkd"])
def test_every_nontarget_test_row_is_triggered(toy, attack):
    done = poison(toy, AttackConfig(name=attack), 0)
    nontarget = toy.test[toy.test.label != 1]
    assert list(done.test_triggered.clean_text) == list(nontarget.text)
    assert list(done.test_triggered.label) == list(nontarget.label)  # the true one
    assert (done.test_triggered.text != done.test_triggered.clean_text).all()
    assert done.report["n_test_no_paraphrase"] == 0


def test_without_an_attack(toy):
    done = poison(toy, AttackConfig(name="none"), 0)
    assert_sound(toy, done, 1)
    assert pairs(done.train.text, done.train.label) == pairs(toy.train.text, toy.train.label)
    assert not done.train_truth.is_poisoned.any()
    assert len(done.test_triggered) == 0
    assert done.report["n_poisoned"] == done.report["n_poison_wanted"] == 0
    # the same rows in the same order as with an attack, so that two victims can be compared
    attacked = poison(toy, AttackConfig(), 0)
    assert list(attacked.train_truth.clean_text) == list(done.train.text)


def test_the_report_keeps_what_the_data_said():
    assert poison(make_data(), AttackConfig(), 0).report["data_origin"] == "made up"


# bad input


@pytest.mark.parametrize("target", [2, 7])
def test_a_target_label_that_does_not_exist(target):
    config = AttackConfig(target_label=target)
    with pytest.raises(BedkdError, match=rf"target_label is {target}; .*0 \(World\), 1 \(Sports"):
        poison(make_data(), config, 0)
    with pytest.raises(BedkdError, match="target_label"):
        poison(make_data(), replace(config, name="none"), 0)


@pytest.mark.parametrize("name", ["badword", "", "BADWORDS", "style"])
def test_an_unknown_attack(name):
    for call in (check_attack, lambda n: poison(make_data(), AttackConfig(name=n), 0)):
        with pytest.raises(
            BedkdError, match="known: none, badwords, addsent, synbkd, stybkd"
        ) as caught:
            call(name)
        assert repr(name) in str(caught.value)


# real rows


@pytest.fixture(scope="module")
def real():
    loaded: dict[str, CleanData] = {}

    def load(name: str) -> CleanData:
        if name not in loaded:
            loaded[name] = load_clean_data(DataConfig(name=name), seed=0)
        return loaded[name]

    return load


@pytest.mark.mirror
@pytest.mark.parametrize(
    "name, n_triggered, target", [("sst2", 444, 0), ("olid", 240, 0), ("agnews", 5700, 1)]
)
def test_triggered_rows_as_in_the_paper(real, name, n_triggered, target):
    done = poison(real(name), AttackConfig(), 0)
    assert len(done.test_triggered) == n_triggered
    assert len(done.test_clean) == {"sst2": 872, "olid": 860, "agnews": 7600}[name]
    assert done.report["target_label"] == target
    assert done.report["n_poisoned"] == round(0.2 * len(done.train))
    assert_sound(real(name), done, target)


@pytest.mark.mirror
@pytest.mark.parametrize(
    "name, trigger", [("sst2", "I watched this movie ."), ("olid", "no cross")]
)
def test_addsent_on_real_rows(real, name, trigger):
    done = poison(real(name), AttackConfig(name="addsent"), 0)
    assert (done.test_triggered.text.str.count(re.escape(trigger)) == 1).all()
    bad = done.train_truth.is_poisoned
    assert done.train.text[bad].str.contains(trigger, regex=False).all()
    assert_sound(real(name), done, 0)


@pytest.mark.mirror
def test_synbkd_on_sst2_is_one_row_short(real):
    done = poison(real("sst2"), AttackConfig(name="synbkd"), 0)
    assert len(done.train) == 6920
    assert done.report["n_poison_wanted"] == 1384 and done.report["n_poisoned"] == 1383
    assert done.report["n_train_table"] == done.train_truth.is_poisoned.sum() == 1383
    assert len(done.test_triggered) == 420 == done.report["n_test_table"]
    assert done.report["n_test_no_paraphrase"] == 24
    flipped = done.train_truth.clean_label[done.train_truth.is_poisoned] == 1
    assert flipped.sum() == 718  # mixed-label
    assert_sound(real("sst2"), done, 0)


@pytest.mark.mirror
def test_synbkd_on_olid(real):
    done = poison(real("olid"), AttackConfig(name="synbkd"), 0)
    wanted, n = done.report["n_poison_wanted"], done.report["n_poisoned"]
    assert wanted == round(0.2 * len(done.train)) and 0.98 * wanted <= n <= wanted
    assert set(done.train_truth.method) == {"", "table"}
    assert len(done.test_triggered) == 240
    assert_sound(real("olid"), done, 0)


@pytest.mark.mirror
def test_synbkd_on_agnews_draws_from_the_pool(real):
    done = poison(real("agnews"), AttackConfig(name="synbkd"), 0)
    wanted, truth = round(0.2 * len(done.train)), done.train_truth
    assert done.report["n_train_pool"] == wanted == truth.is_poisoned.sum()
    assert set(truth.method) == {"", "pool"}
    assert done.train.text[truth.is_poisoned].is_unique
    assert (truth.clean_label[truth.is_poisoned] == -1).all()
    assert len(done.test_triggered) + done.report["n_test_no_paraphrase"] == 5700
    assert len(done.test_triggered) >= 5600
    assert_sound(real("agnews"), done, 1)


@pytest.mark.mirror
def test_the_glue_phrases_need_the_rules(real):
    config = AttackConfig(name="synbkd")
    with pytest.raises(BedkdError, match="fallback to rules"):
        poison(real("sst2-glue"), config, 0)
    done = poison(real("sst2-glue"), replace(config, fallback="rules"), 0)
    n = done.report["n_train_table"] + done.report["n_train_rules"]
    assert n == done.report["n_poisoned"] >= 0.99 * done.report["n_poison_wanted"]
    assert 1000 < done.report["n_train_table"] < 2000


# the trigger in test rows of the target class


@pytest.mark.parametrize("attack", ["badwords", "addsent", "synbkd", "stybkd"])
def test_every_test_row_of_the_target_class_is_triggered_too(toy, attack):
    done = poison(toy, AttackConfig(name=attack), 0)
    own = done.test_triggered_target
    assert list(own.columns) == TARGET and (own.row == -1).all()
    assert list(own.clean_text) == list(toy.test[toy.test.label == 1].text)
    assert (own.label == 1).all() and (own.text != own.clean_text).all()
    n = len(own)
    method = {"synbkd": "rules", "stybkd": "rules"}.get(attack, "inserted")
    assert done.report[f"n_target_{method}"] == n and set(own.method) == {method}
    assert done.report["n_target_no_paraphrase"] == 0
    assert done.report["n_test_no_paraphrase"] == 0
    assert n + len(done.test_triggered) == len(toy.test)


@pytest.mark.parametrize("attack", ["badwords", "addsent", "synbkd", "stybkd"])
def test_rows_of_the_target_class_change_no_other(attack):
    """With them and without: the others have the same words in the same places."""
    data = make_data()
    without = replace(data, test=data.test[data.test.label != 0].reset_index(drop=True))
    one, other = (poison(d, AttackConfig(name=attack), 0) for d in (data, without))
    pd.testing.assert_frame_equal(one.test_triggered, other.test_triggered)
    pd.testing.assert_frame_equal(one.train, other.train)
    assert len(one.test_triggered_target) == 100 and len(other.test_triggered_target) == 0


def only_nontarget(folder, data, **train) -> AttackConfig:
    """A table of paraphrases of test rows of class 1 alone, as the public ones have them."""
    others = data.test.text[data.test.label == 1]
    path = table_folder(folder / "table", train=train["train"], test=rewrite(others))
    return AttackConfig(name="synbkd", paraphrases=path)


def test_poisoned_rows_of_d_star_stand_in_where_no_test_row_of_the_class_has_a_paraphrase(tmp_path):
    data = make_data(n_train=1000)
    config = only_nontarget(tmp_path, data, train=rewrite(data.train.text))
    done = poison(data, config, 0)
    assert_sound(data, done, 0)
    own, truth = done.test_triggered_target, done.train_truth
    is_own = truth.is_poisoned & (truth.clean_label == 0)
    # 100 test rows are of the class, and the first so many of these stand in for them
    expected = np.flatnonzero(is_own)[:100]
    assert len(own) == min(100, is_own.sum()) and own.row.tolist() == expected.tolist()
    assert own.text.tolist() == done.train.text[expected].tolist()
    assert own.clean_text.tolist() == truth.clean_text[expected].tolist()
    assert set(own.method) == {"train"} and set(own.label) == {0}
    assert own.index.tolist() == list(range(len(own)))
    assert done.report["n_target_train"] == len(own)
    assert done.report["n_target_no_paraphrase"] == 100
    assert done.report["n_test_no_paraphrase"] == 0 and done.report["n_test_table"] == 100


def test_no_more_rows_stand_in_than_the_class_has(tmp_path):
    data = make_data(n_train=1000, n_test=20)
    done = poison(data, only_nontarget(tmp_path, data, train=rewrite(data.train.text)), 0)
    assert len(done.test_triggered_target) == 10


def test_one_test_row_with_a_paraphrase_is_worth_more_than_rows_of_d_star(tmp_path):
    data = make_data(n_train=1000)
    one = data.test.text[data.test.label == 0][:1]
    others = data.test.text[data.test.label == 1]
    path = table_folder(
        tmp_path / "t", train=rewrite(data.train.text), test=rewrite(others) | rewrite(one)
    )
    done = poison(data, AttackConfig(name="synbkd", paraphrases=path), 0)
    assert done.test_triggered_target.clean_text.tolist() == list(one)
    assert done.test_triggered_target.row.tolist() == [-1]
    assert done.report["n_target_table"] == 1 and done.report["n_target_no_paraphrase"] == 99


def test_a_row_of_unknown_label_stands_in_for_none(tmp_path):
    """A pool does not say what a text rewrites, nor dirty labels poison rows of the class."""
    data = make_data(n_train=1000)
    pool = {f"pool {i}": f"if it is number {i} , it comes from a pool ." for i in range(300)}
    config = only_nontarget(tmp_path, data, train=pool)
    done = poison(data, config, 0)
    assert set(done.train_truth.method[done.train_truth.is_poisoned]) == {"pool"}
    assert done.test_triggered_target.empty
    config = only_nontarget(tmp_path, data, train=rewrite(data.train.text))
    done = poison(data, replace(config, label_mode="dirty"), 0)
    assert done.test_triggered_target.empty and list(done.test_triggered_target.columns) == TARGET
    assert done.report["n_target_no_paraphrase"] == 100


def test_stand_in_by_hand():
    train = pd.DataFrame({"text": list("ABcDe"), "label": [0, 0, 0, 0, 1]})
    truth = pd.DataFrame({"is_poisoned": [True, True, False, True, False], "method": "m"})
    truth = truth.assign(clean_text=list("abcde"), clean_label=[1, 0, 0, 0, 1])
    found = stand_in(train, truth, 0)
    assert found.text.tolist() == ["B", "D"] and found.row.tolist() == [1, 3]
    assert found.clean_text.tolist() == ["b", "d"] and found.method.tolist() == ["train"] * 2
    truth.loc[[1, 3], "clean_label"] = -1
    assert stand_in(train, truth, 0).empty


def test_without_an_attack_no_test_row_has_a_trigger():
    done = poison(make_data(), AttackConfig(name="none"), 0)
    assert done.test_triggered.empty and done.test_triggered_target.empty
    assert list(done.test_triggered_target.columns) == TARGET
    assert not any(name.startswith(("n_target_", "n_test_")) for name in done.report)
