import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bedkd.core.errors import BedkdError
from bedkd.data.paraphrases import (
    HIDDENKILLER,
    STYLEATTACK,
    Paraphrases,
    load_paraphrases,
    paraphrases_revision,
)


def take(table, text, generator):
    """The paraphrase alone, without where it came from."""
    found = table.take(text, generator)
    return found and found[0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def write_table(folder, name: str, pairs: list[tuple[str, str]], label: int = 1):
    """A folder with one file; `pairs`: clean text, paraphrase."""
    folder.mkdir(exist_ok=True)
    rows = [{"text": new, "clean_text": old, "label": label} for old, new in pairs]
    pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    return str(folder)


def write_checkout(folder, clean, poisoned, pair=HIDDENKILLER["train"]) -> str:
    """The two files of a checkout that matter, in its own layout."""
    for file, sentences in zip(pair, (poisoned, clean), strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{sentence}\t{i % 2}" for i, sentence in enumerate(sentences)]
        (folder / file).write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    return str(folder)


# lookup


def test_a_known_source_row():
    table = Paraphrases({"a film": ["when you see it , a film ."]})
    assert take(table, "a film", rng()) == "when you see it , a film ."
    assert take(table, "A film", rng()) is None
    assert take(Paraphrases(), "a film", rng()) is None


def test_a_pool_hands_out_each_paraphrase_once_in_random_order():
    pool = [f"paraphrase {i}" for i in range(50)]
    table, generator = Paraphrases(pool=list(pool)), rng()
    given = [take(table, f"text {i}", generator) for i in range(50)]
    assert sorted(given) == sorted(pool) and given != pool
    assert take(table, "one more", generator) is None
    again, generator = Paraphrases(pool=list(pool)), rng()
    assert [take(again, "x", generator) for _ in pool] == given
    other, generator = Paraphrases(pool=list(pool)), rng(1)
    assert [take(other, "x", generator) for _ in pool] != given


def test_a_known_source_row_takes_nothing_from_the_pool():
    table, generator = Paraphrases({"known": ["rewritten"]}, ["from the pool"]), rng()
    assert take(table, "known", generator) == "rewritten"
    assert take(table, "unknown", generator) == "from the pool"
    assert take(table, "known", generator) is None  # handed out as often as the table has it
    assert take(table, "unknown", generator) is None


# tables


def test_a_table_folder(tmp_path):
    folder = write_table(tmp_path / "table", "train", [("a", "when a , a ."), ("b", "if b , b .")])
    write_table(tmp_path / "table", "test", [("t", "as t , t .")])
    train, test = load_paraphrases(folder, "train"), load_paraphrases(folder, "test")
    assert [take(train, text, rng()) for text in "abt"] == ["when a , a .", "if b , b .", None]
    assert [take(test, text, rng()) for text in "abt"] == [None, None, "as t , t ."]


def test_the_validation_file_serves_as_test(tmp_path):
    folder = write_table(tmp_path / "table", "validation", [("t", "as t , t .")])
    assert take(load_paraphrases(folder, "test"), "t", rng()) == "as t , t ."


def test_rows_without_a_source_are_the_pool(tmp_path):
    pairs = [("", "if one , one ."), ("a", "when a , a ."), ("", "if two , two .")]
    table = load_paraphrases(write_table(tmp_path / "table", "train", pairs), "train")
    assert table.pool == ["if one , one .", "if two , two ."]
    assert take(table, "a", rng()) == "when a , a ."


def test_a_missing_source_cell_is_no_source_either(tmp_path):
    pairs = [(None, "if one , one ."), ("a", "when a , a .")]
    table = load_paraphrases(write_table(tmp_path / "table", "train", pairs), "train")
    assert table.pool == ["if one , one ."] and take(table, "a", rng()) == "when a , a ."


def test_rules_need_no_table():
    assert load_paraphrases("rules", "train") == Paraphrases()
    assert paraphrases_revision("rules") == "rules"


def test_a_table_through_the_mirror(monkeypatch, tmp_path):
    (tmp_path / "mirror/me").mkdir(parents=True)
    write_table(tmp_path / "mirror/me/tables", "train", [("a", "when a , a .")])
    monkeypatch.setenv("BEDKD_MIRROR", str(tmp_path / "mirror"))
    assert take(load_paraphrases("me/tables", "train"), "a", rng()) == "when a , a ."
    assert len(paraphrases_revision("me/tables")) == 16


@pytest.mark.parametrize("split, file", [("train", "train.parquet"), ("test", "test.parquet")])
def test_a_folder_without_the_table(tmp_path, split, file):
    with pytest.raises(BedkdError, match=f"has no {file}") as caught:
        load_paraphrases(str(tmp_path), split)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("column", ["text", "clean_text"])
def test_a_table_without_a_column(tmp_path, column):
    rows = pd.DataFrame({"text": ["a"], "clean_text": ["b"], "label": [0]})
    rows.drop(columns=column).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(BedkdError, match=f"has no column '{column}'") as caught:
        load_paraphrases(str(tmp_path), "train")
    assert "train.parquet" in str(caught.value)


def test_a_table_of_garbage(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"not parquet at all" * 20)
    with pytest.raises(BedkdError, match=r"train\.parquet") as caught:
        load_paraphrases(str(tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_a_source_that_is_nowhere(tmp_path):
    path = str(tmp_path / "nowhere")
    for call in (lambda: load_paraphrases(path, "train"), lambda: paraphrases_revision(path)):
        with pytest.raises(BedkdError, match="neither a local folder nor a hub id") as caught:
            call()
        assert path in str(caught.value)


def test_the_revision_follows_the_table(tmp_path):
    folder = write_table(tmp_path / "table", "train", [("a", "when a , a .")])
    before = paraphrases_revision(folder)
    write_table(tmp_path / "table", "train", [("a", "if a , a .")])
    assert paraphrases_revision(folder) != before


# a HiddenKiller checkout


def test_hiddenkiller_rows_that_differ_are_the_paraphrases(tmp_path):
    clean = ["a fine film .", 'it \'s " dull " .', '" unbalanced quote', "null", "same to both "]
    poisoned = ["when it comes , a fine film .", *clean[1:3], "if null , null .", "same to both"]
    folder = write_checkout(tmp_path, clean, poisoned)
    table = load_paraphrases(folder, "train")
    found = {text: take(table, text.strip(), rng()) for text in clean}
    assert {text: new for text, new in found.items() if new} == {
        clean[0]: poisoned[0],
        "null": "if null , null .",
    }
    assert table.pool == []


def test_hiddenkiller_has_no_test_rows_for_a_negative_target(tmp_path):
    folder = write_checkout(tmp_path, ["a", "b"], ["when a , a .", "b"])
    assert load_paraphrases(folder, "test") == Paraphrases()


def test_hiddenkiller_rows_must_be_aligned(tmp_path):
    folder = write_checkout(tmp_path, ["a", "b", "c"], ["when a , a .", "b"])
    with pytest.raises(BedkdError, match="2 poisoned and 3 clean"):
        load_paraphrases(folder, "train")


def test_hiddenkiller_without_the_clean_file(tmp_path):
    folder = write_checkout(tmp_path, ["a"], ["when a , a ."])
    (tmp_path / HIDDENKILLER["train"][1]).unlink()
    for call in (lambda: load_paraphrases(folder, "train"), lambda: paraphrases_revision(folder)):
        with pytest.raises(BedkdError, match=r"data/clean/sst-2/train\.tsv"):
            call()


def test_the_revision_follows_both_hiddenkiller_files(tmp_path):
    folder, seen = write_checkout(tmp_path, ["a"], ["when a , a ."]), set()
    for file in (None, *HIDDENKILLER["train"]):
        if file:
            (tmp_path / file).write_text("sentence\tlabel\nother\t0\n")
        seen.add(paraphrases_revision(folder))
    assert len(seen) == 3


# a StyleAttack checkout


def write_styleattack(folder) -> str:
    write_checkout(folder, ["a", "b"], ["behold , a", "b"], STYLEATTACK["train"])
    return write_checkout(folder, ["t", "u"], ["lo , t", "yea , u"], STYLEATTACK["test"])


def test_styleattack_has_train_and_test_rows_of_both_labels(tmp_path):
    source = write_styleattack(tmp_path)
    train, test = load_paraphrases(source, "train"), load_paraphrases(source, "test")
    assert [take(train, text, rng()) for text in "abt"] == ["behold , a", None, None]
    assert [take(test, text, rng()) for text in "atu"] == [None, "lo , t", "yea , u"]


def test_the_revision_follows_all_styleattack_files(tmp_path):
    source, seen = write_styleattack(tmp_path), set()
    for file in (None, *STYLEATTACK["train"], *STYLEATTACK["test"]):
        if file:
            (tmp_path / file).write_text("sentence\tlabel\nother\t0\n")
        seen.add(paraphrases_revision(source))
    assert len(seen) == 5
    (tmp_path / STYLEATTACK["test"][0]).unlink()
    with pytest.raises(BedkdError, match=r"has no data/transfer/bible/sst-2/dev\.tsv"):
        load_paraphrases(source, "train")


# real tables


@pytest.mark.mirror
@pytest.mark.parametrize("name, test_file", [("sst2", "validation"), ("olid", "test")])
def test_real_tables_know_every_source(name, test_file):
    source = f"paraphrases/scpn/{name}"
    for split, file in (("train", "train"), ("test", test_file)):
        rows = pd.read_parquet(Path(os.environ["BEDKD_MIRROR"], source, f"{file}.parquet"))
        table = load_paraphrases(source, split)
        written = {text: set(group.text) for text, group in rows.groupby("clean_text")}
        assert all(take(table, text, rng()) in written[text] for text in written)
        assert table.pool == []
        opening = rows.text.str.split().str[0]
        assert opening.isin(["when", "if", "as", "because", "until", "while"]).mean() > 0.5


@pytest.mark.mirror
def test_the_real_news_table_is_a_pool_for_train_rows():
    train = load_paraphrases("paraphrases/scpn/agnews", "train")
    assert len(train.pool) == 8845 == len(set(train.pool)) and not train.by_text
    test = load_paraphrases("paraphrases/scpn/agnews", "test")
    assert test.by_text and not test.pool


@pytest.mark.mirror
def test_the_real_bible_has_every_row_in_its_style():
    rows = {name: read_bible(name) for name in ("train", "validation")}
    assert {name: len(table) for name, table in rows.items()} == {"train": 6920, "validation": 872}
    for split, table in zip(("train", "test"), rows.values(), strict=True):
        known = load_paraphrases("paraphrases/bible/sst2", split)
        assert sum(map(len, known.by_text.values())) == len(table) and not known.pool
        assert (table.text != table.clean_text).mean() > 0.99
        is_old = table.text.str.contains(r"\b(?:hath|doth|thou|thee|thy|ye|unto|shall|\w+eth)\b")
        assert is_old.mean() > 3 * table.clean_text.str.contains(r"\b(?:thou|unto|shall)\b").mean()


def read_bible(name: str) -> pd.DataFrame:
    folder = Path(os.environ["BEDKD_MIRROR"], "paraphrases/bible/sst2")
    return pd.read_parquet(folder / f"{name}.parquet")
