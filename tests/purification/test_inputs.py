"""Rows from somebody else: every format in, every fault one clear sentence."""

import csv
import json
import os
from itertools import count

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bedkd.core.errors import BedkdError
from bedkd.core.hub import Location
from bedkd.purification import sources
from bedkd.purification.inputs import check_pair, read_rows
from bedkd.purification.labels import match_labels

NAMES = ("negative", "positive")
GENERIC = ("LABEL_0", "LABEL_1")
ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
TEXTS = ['good, "really" good', "a\nbad one", "tab\there", "à la carte 🙂", "NA"]
IDS = [1, 0, 0, 1, 1]


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory):
    """`datasets` keeps its copies of what it reads here, and does not count them at the hub."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        yield


def write(path, texts, labels, columns=("text", "label")):
    frame = pd.DataFrame(dict(zip(columns, (texts, labels), strict=True)))
    if path.suffix in (".csv", ".tsv"):
        separator = "\t" if path.suffix == ".tsv" else ","
        frame.to_csv(path, index=False, sep=separator, quoting=csv.QUOTE_NONNUMERIC)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        rows = [json.dumps(row) for row in frame.to_dict("records")]
        text = "\n".join(rows) if path.suffix == ".jsonl" else f"[{','.join(rows)}]"
        path.write_text(text, encoding="utf-8")
    return path


def pairs(rows: pd.DataFrame) -> list[tuple[str, int]]:
    assert list(rows.columns) == ["text", "label"] and rows.label.dtype == np.int64
    assert all(type(text) is str for text in rows.text)
    return list(zip(rows.text, rows.label, strict=True))


def refused(source, names=NAMES, **options) -> str:
    with pytest.raises(BedkdError) as caught:
        read_rows(source, names, "train", **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    return message


# what can be read


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("labels", [IDS, [NAMES[i] for i in IDS]])
def test_every_format(tmp_path, ending, labels):
    path = write(tmp_path / f"rows{ending}", TEXTS, labels)
    assert pairs(read_rows(path, NAMES, "train")) == list(zip(TEXTS, IDS, strict=True))
    assert pairs(read_rows(str(path), NAMES, "train")) == list(zip(TEXTS, IDS, strict=True))


FRAME = pd.DataFrame({"text": TEXTS, "label": IDS}, index=[7, 7, 3, 2, 1])
IN_MEMORY = {
    "frame": FRAME,
    "categories": FRAME.assign(label=pd.Categorical([NAMES[i] for i in IDS])),
    "dataset": datasets.Dataset.from_dict({"text": TEXTS, "label": IDS}),
    "lists": (TEXTS, IDS),
    "list of lists": [TEXTS, IDS],
    "arrays": (np.array(TEXTS), np.array(IDS, dtype=np.int8)),
    "objects": (np.array(TEXTS, dtype=object), np.array([float(i) for i in IDS])),
    "series": (FRAME.text, FRAME.label),
    "tensor": (TEXTS, torch.tensor(IDS)),
    "booleans": (TEXTS, [bool(i) for i in IDS]),
    "tuples of names": (tuple(TEXTS), tuple(NAMES[i] for i in IDS)),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_every_object(name):
    source = IN_MEMORY[name]
    before = source.copy() if isinstance(source, pd.DataFrame) else None
    assert pairs(read_rows(source, NAMES, "train")) == list(zip(TEXTS, IDS, strict=True))
    if before is not None:
        pd.testing.assert_frame_equal(source, before)


def test_a_dataset_with_classes_of_its_own_in_another_order():
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["Positive", "Negative"])
    )
    source = datasets.Dataset.from_dict({"text": TEXTS, "label": IDS}, features=features)
    assert list(read_rows(source, NAMES, "train").label) == [1 - i for i in IDS]
    assert list(read_rows(source, GENERIC, "train").label) == IDS  # no names in common: ids


@pytest.mark.parametrize("name, split", [("owner/rows", "train"), ("owner/rows:dev", "dev")])
def test_a_hub_id(monkeypatch, name, split):
    monkeypatch.setattr(sources.hub, "locate", lambda repo, kind: Location(repo, "hub", kind))

    def read(location, spec, wanted):
        assert (location.path, location.revision, wanted) == ("owner/rows", "dataset", [split])
        return {split: FRAME}

    monkeypatch.setattr(sources, "read_hub", read)
    assert list(read_rows(name, NAMES, "train").label) == IDS


@pytest.mark.parametrize(
    "columns",
    [("text", "label"), ("Sentence", "Class"), ("review", "sentiment"), ("TWEET", "target")],
)
def test_usual_columns(columns):
    source = FRAME.set_axis(columns, axis=1).assign(more=0)
    assert list(read_rows(source, NAMES, "train").label) == IDS


def test_named_columns_win():
    source = FRAME.assign(said=FRAME.text, told=FRAME.label, text="x", label=0)
    found = read_rows(source, NAMES, "train", text_column="said", label_column="told")
    assert pairs(found) == list(zip(TEXTS, IDS, strict=True))


@pytest.mark.parametrize("names, taken", [(("TEXT", "text"), 1), (("Text", "TEXT"), 0)])
def test_columns_that_differ_in_case_alone(names, taken):
    source = pd.DataFrame([["a", "b", 0]], columns=[*names, "label"])
    assert pairs(read_rows(source, NAMES, "train")) == [("ab"[taken], 0)]


CONTENTS = {
    "BOM in CSV": (".csv", b"\xef\xbb\xbftext,label\ngood,1\nbad,0\n", ["good", "bad"]),
    "BOM in TSV": (".tsv", b"\xef\xbb\xbftext\tlabel\ngood\t1\nbad\t0\n", ["good", "bad"]),
    "BOM in JSON Lines": (
        ".jsonl",
        b'\xef\xbb\xbf{"text": "good", "label": 1}\n{"text": "bad", "label": 0}',
        ["good", "bad"],
    ),
    "CRLF": (".csv", b"text,label\r\ngood,1\r\nbad,0\r\n", ["good", "bad"]),
    "CRLF in JSON Lines": (
        ".jsonl",
        b'{"text": "good", "label": 1}\r\n{"text": "bad", "label": 0}\r\n',
        ["good", "bad"],
    ),
    "no last newline": (".csv", b"text,label\ngood,1\nbad,0", ["good", "bad"]),
    "empty lines": (".csv", b"text,label\n\ngood,1\n\nbad,0\n\n", ["good", "bad"]),
    "newline in quotes": (".csv", b'text,label\n"good\none",1\nbad,0\n', ["good\none", "bad"]),
    "CRLF in quotes": (".csv", b'text,label\r\n"good\r\none",1\r\nbad,0\r\n', None),
    "label first": (".csv", b"label,text\n1,good\n0,bad\n", ["good", "bad"]),
    "whole floats": (".csv", b"text,label\ngood,1.0\nbad,0.0\n", ["good", "bad"]),
    "spaces at labels": (".csv", b"text,label\ngood, positive\nbad,NEGATIVE \n", ["good", "bad"]),
    "null is a word": (".csv", b"text,label\nnull,1\nnan,0\n", ["null", "nan"]),
    "a megabyte": (".csv", b"text,label\n" + b"word " * 210_000 + b",1\nbad,0\n", None),
    "a megabyte in JSON": (
        ".jsonl",
        b'{"text": "' + b"word " * 210_000 + b'", "label": 1}\n{"text": "bad", "label": 0}\n',
        None,
    ),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_files_as_people_write_them(tmp_path, case):
    ending, content, texts = CONTENTS[case]
    (tmp_path / f"rows{ending}").write_bytes(content)
    rows = read_rows(tmp_path / f"rows{ending}", NAMES, "train")
    assert list(rows.label) == [1, 0]
    assert texts is None or list(rows.text) == texts
    assert list(rows.text)[1] in ("bad", "nan")


# labels


@pytest.mark.parametrize(
    "names, values, ids",
    [
        (NAMES, ["Positive", "NEGATIVE", "positive "], [1, 0, 1]),
        (NAMES, ["1", 0, 1.0, "0.0", np.int64(1), True, np.True_], [1, 0, 1, 0, 1, 1, 1]),
        (NAMES, ["positive", 0], [1, 0]),
        (GENERIC, ["LABEL_1", "label_0", 1], [1, 0, 1]),
        (("Spam", "SPAM", "ham"), ["SPAM", "Spam", "HAM"], [1, 0, 2]),
        (("1", "2", "3"), [1, 3, "2", 2.0], [0, 2, 1, 1]),
        (("0", "1"), [0, 1.0], [0, 1]),
        (("1 star", "2 stars"), [0, "2 stars"], [0, 1]),
        (("v1.0", "v2.0"), ["v2.0"], [1]),
        (tuple(f"c{i}" for i in range(20)), [19, "C10", "c2"], [19, 10, 2]),
    ],
)
def test_names_or_ids(names, values, ids):
    assert match_labels(values, names, "train").tolist() == ids


@pytest.mark.parametrize(
    "names, values, told",
    [
        (GENERIC, ["neg", "pos"], ["row 0 is 'neg'", "'LABEL_0', 'LABEL_1'", "'neg', 'pos'"]),
        (NAMES, ["positive", "neutral"], ["row 1 is 'neutral'", "'negative', 'positive'"]),
        (NAMES, [0, 1, 2], ["row 2 is '2'", "ids 0 to 1", "'0', '1', '2'"]),
        (NAMES, [0, -1], ["row 1 is '-1'"]),
        (NAMES, [0, 0.5], ["row 1 is '0.5'"]),
        (NAMES, ["1.5"], ["row 0 is '1.5'"]),
        (NAMES, [float("inf")], ["row 0 is 'inf'"]),
        (NAMES, [[0, 1]], ["row 0 is '[0, 1]'"]),
        (("Spam", "SPAM"), ["spam"], ["row 0 is 'spam'"]),
        (("1", "2"), [0], ["row 0 is '0'", "'1', '2'"]),
        (NAMES, ["x" * 10**6], ["x...", "'negative'"]),
        (NAMES, [*map(str, range(50))], ["row 2 is '2'", "and 42 more"]),
        *[(NAMES, [1, missing], ["row 1 has no label"]) for missing in (None, np.nan, "", " ")],
        (NAMES, [1, pd.NA], ["row 1 has no label"]),
        (NAMES, [1, pd.NaT], ["row 1 is"]),
    ],
)
def test_labels_that_the_model_does_not_have(names, values, told):
    message = refused((["word"] * len(values), values), names)
    assert message.startswith("train: ")
    for part in told:
        assert part in message


# what cannot be read

BAD_FILES = {
    "empty": (".csv", b"", "is empty"),
    "empty JSON": (".json", b"", "is empty"),
    "empty Parquet": (".parquet", b"", "as parquet"),
    "header alone": (".csv", b"text,label\n", "has no rows"),
    "header alone in TSV": (".tsv", b"text\tlabel", "has no rows"),
    "no rows in JSON": (".json", b"[]", ""),
    "spaces alone": (".csv", b"  \n \n", ""),
    "Latin-1": (".csv", "text,label\ncafé,1\n".encode("latin-1"), "UTF-8 text (byte 14)"),
    "UTF-16": (".csv", "text,label\ngood,1\n".encode("utf-16"), "UTF-8 text (byte 0)"),
    "UTF-16 without its mark": (".csv", "text,label\n".encode("utf-16-le"), "NUL"),
    "half a character": (".csv", "text,label\nbad,0\ncafé".encode()[:-1], "last character"),
    "Latin-1 in JSON Lines": (".jsonl", '{"text": "é"}'.encode("latin-1"), "(byte 10)"),
    "NUL": (".csv", b"text,label\ngo\0od,1\n", "NUL character (byte 13)"),
    "NUL in JSON Lines": (".jsonl", b'{"text": "a\\u0000b", "label": 1}', "row 0 holds a NUL"),
    "an archive": (".csv", b"PK\x03\x04\x14\0\0\0\x08\0", "NUL"),
    "gzip": (".csv", b"\x1f\x8b\x08\0" + b"x" * 40, "not UTF-8"),
    "a pickle": (".csv", b"\x80\x04\x95\x10\0\0\0", "not UTF-8"),
    "a pickle as Parquet": (".parquet", b"\x80\x04\x95\x10\0\0\0", "as parquet"),
    "cut Parquet": (".parquet", b"PAR1" + b"\x15" * 100, "as parquet"),
    "more fields than the header": (".csv", b"text,label\ngood,one,1\nbad,one,0\n", "more fields"),
    "more fields in one row": (".csv", b"text,label\ngood,1\nbad,one,0\n", "line 3"),
    "more fields in one TSV row": (".tsv", b"text\tlabel\ngood\t1\nbad\tone\t0\n", "line 3"),
    "fewer fields": (".csv", b"text,label\ngood,1\nbad\n", "row 1 has no label"),
    "open quote": (".csv", b'text,label\n"good,1\nbad,0\n', ""),
    "no header": (".csv", b"good,1\nbad,0\n", "no column 'text'"),
    "columns of controls": (".csv", b"\x1b[2J,label\ngood,1\n", "columns are \\x1b[2J"),
    "labels of controls": (".csv", b"text,label\ngood,\x1b[2J\n", "row 0 is '\\x1b[2J'"),
    "other columns": (".csv", b"body_of_it,label\ngood,1\n", "columns are body_of_it, label"),
    "a text is empty": (".csv", b'text,label\ngood,1\n"",0\n', "text of row 1"),
    "a text is spaces": (".csv", b"text,label\ngood,1\n   ,0\n", "text of row 1"),
    "texts are numbers": (".csv", b"text,label\n5,1\n6,0\n", "text of row 0 is 5;"),
    "a text is a number": (".jsonl", b'{"text": 5, "label": 1}', "text of row 0 is 5;"),
    "a text is null": (".jsonl", b'{"text": null, "label": 1}\n{"text": "a"}', "text of row 0"),
    "a text is a list": (".jsonl", b'{"text": ["a", "b"], "label": 1}', "text of row 0"),
    "a text is an object": (".jsonl", b'{"text": {"a": 1}, "label": 1}', "text of row 0"),
    "a label is missing": (".jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}', "row 1"),
    "JSON Lines of numbers": (".jsonl", b"1\n2\n", ""),
    "JSON Lines cut": (".jsonl", b'{"text": "good", "label": 1}\n{"text": "ba', "as jsonl"),
    "JSON nested deep": (".json", b"[" * 100_000, ""),
    "a whole page": (".csv", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "no column"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    ending, content, told = BAD_FILES[case]
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content)
    message = refused(path)
    assert f"rows{ending}" in message and told in message


def test_files_are_checked_in_pieces(tmp_path, monkeypatch):
    good = "text,label\nà la cärte 🙂🙂,1\nbäd,0\n".encode()
    path = tmp_path / "rows.csv"
    for size in range(1, 9):
        monkeypatch.setattr(sources, "CHUNK", size)
        path.write_bytes(good)
        assert list(read_rows(path, NAMES, "train").text) == ["à la cärte 🙂🙂", "bäd"]
        path.write_bytes(good[:-3] + b"\xe2\x82,0")  # a character that does not end
        assert f"(byte {len(good) - 3})" in refused(path)
        path.write_bytes(good + b"\0")
        assert f"(byte {len(good)})" in refused(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_are_none(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    assert f"no such file: {path}" in refused(path)
    path.mkdir()
    assert f"{path} is not a file" in refused(path)
    os.mkfifo(tmp_path / f"pipe{ending}")  # to open it would wait for ever
    assert "is not a file" in refused(tmp_path / f"pipe{ending}")


def test_a_file_that_is_not_ours_to_read(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.csv", TEXTS, IDS)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize(
    "name", ["", "rows", "rows.xlsx", "a/b/c", "../rows", "~/rows", "/etc/passwd", "./x"]
)
def test_names_that_are_neither_a_file_nor_a_hub_id(name, no_network):
    assert name in refused(name)


def test_a_folder(tmp_path):
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    assert "whose ending says no format" in refused(tmp_path / "rows.xlsx")


BAD_OBJECTS = {
    "nothing": (None, "NoneType"),
    "a number": (5, "int"),
    "three lists": ((TEXTS, IDS, IDS), "tuple"),
    "a dict of lists": ({"text": TEXTS, "label": IDS}, "dict"),
    "one split too many": (datasets.DatasetDict(train=IN_MEMORY["dataset"]), "one split of it"),
    "unequal lists": ((TEXTS, IDS[:-1]), "5 texts, but 4 labels"),
    "one text": (("good", [1, 0, 1, 0]), "texts are a str"),
    "one label": ((TEXTS, 1), "labels are a int"),
    "a generator": ((iter(TEXTS), IDS), "texts are a list_iterator"),
    "no rows": (([], []), "no rows"),
    "no rows in a frame": (FRAME[:0], "no rows"),
    "no columns": (pd.DataFrame(), "no column 'text'"),
    "numbered columns": (pd.DataFrame([["good", 1]]), "columns are 0, 1"),
    "a column twice": (pd.concat([FRAME, FRAME], axis=1), "several columns 'text'"),
    "two levels": (pd.concat({"text": FRAME}, axis=1), "several columns"),
    "a missing text": (FRAME.assign(text=["a", None, "b", "c", "d"]), "text of row 1 is"),
    "texts that are bytes": (FRAME.assign(text=[b"a"] * 5), "text of row 0 is b'a'"),
    "half a surrogate": ((["a\ud800", "b"], [0, 1]), "row 0 is not Unicode"),
    "NUL": ((["a", "b\0c"], [0, 1]), "row 1 holds a NUL"),
    "a megabyte of spaces": (([" " * 10**6], [0]), "text of row 0"),
    "rows of numbers": ((np.zeros((2, 3)), [0, 1]), "text of row 0"),
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects(case):
    source, told = BAD_OBJECTS[case]
    message = refused(source)
    assert "train" in message and told in message


@pytest.mark.parametrize(
    "options, told",
    [
        ({"text_column": "nope"}, ["'nope'", "text, label", "--text-column"]),
        ({"label_column": "nope"}, ["'nope'", "text, label", "--label-column"]),
        ({"text_column": "label"}, ["both the texts and the labels"]),
    ],
)
def test_columns_that_are_not_there(options, told):
    message = refused(FRAME, **options)
    for part in told:
        assert part in message


# any rows, any bytes

number = count()  # files of their own, for `datasets` remembers what it read by name and time
MANY = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# no controls, which CSV and JSON treat as they like; no half surrogates
letters = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
words = st.text(letters, min_size=1, max_size=20).filter(str.strip)
spaced = st.lists(words, min_size=1, max_size=3).map("\n".join)


def rows_of(texts):
    """Some rows; one of words, so that a column of numbers alone does not read as numbers."""
    row = st.tuples(texts, st.integers(0, 1))
    return st.lists(row, max_size=6).map(lambda rows: [("words", 1), *rows])


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e != ".tsv"])
def test_any_rows_come_back(tmp_path, ending):
    @MANY
    @given(rows_of(spaced), st.booleans())
    def check(rows, is_named):
        texts, ids = zip(*rows, strict=True)
        labels = [NAMES[i] for i in ids] if is_named else list(ids)
        path = write(tmp_path / f"{next(number)}{ending}", texts, labels)
        assert pairs(read_rows(path, NAMES, "train")) == rows

    check()


def test_any_rows_come_back_from_a_plain_tsv(tmp_path):
    @MANY
    @given(rows_of(words))
    def check(rows):
        path = tmp_path / f"{next(number)}.tsv"
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert pairs(read_rows(path, NAMES, "train")) == rows

    check()


@settings(MANY, max_examples=60)
@given(rows_of(st.text(min_size=1)))
def test_any_objects_come_back_or_are_refused(rows):
    texts, labels = map(list, zip(*rows, strict=True))
    for source in ((texts, labels), pd.DataFrame({"text": texts, "label": labels})):
        try:
            assert pairs(read_rows(source, NAMES, "train")) == rows
        except BedkdError:
            assert any(not t.strip() or "\0" in t or not t.isascii() for t in texts)


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_bytes_are_rows_or_a_clear_error(tmp_path, ending):
    pieces = [b"text,label\n", b"text\tlabel\n", b'{"text": "a", "label": 1}\n', b"[", b"PAR1"]
    pieces += [b'"', b",", b"\n", b"\r", b"\0", b"\xef\xbb\xbf", b"good,1\n", b"\xff", b"{}"]
    mixed = st.lists(st.sampled_from(pieces) | st.binary(max_size=8), max_size=8).map(b"".join)

    @settings(MANY, max_examples=25)
    @given(mixed)
    def check(content):
        path = tmp_path / f"{next(number)}{ending}"
        path.write_bytes(content)
        try:
            rows = read_rows(path, NAMES, "train")
        except BedkdError as error:
            assert str(path) in str(error)
        else:
            assert len(rows) and set(rows.label) <= {0, 1}

    check()


# both tables


def table(*rows) -> pd.DataFrame:
    texts, labels = zip(*rows, strict=True)
    return pd.DataFrame({"text": texts, "label": labels})


CLEAN = table(("a b", 0), ("c", 0), ("d", 1), ("e", 1))
TRAIN = table(("v", 0), ("w", 1), ("x", 0))


def test_two_good_tables_stay_as_they_are():
    clean = pd.concat([CLEAN.assign(text=CLEAN.text + str(i)) for i in range(20)])
    tables = check_pair(TRAIN, clean, 2)
    assert tables.notes == ()
    pd.testing.assert_frame_equal(tables.train, TRAIN)
    pd.testing.assert_frame_equal(tables.clean, clean.reset_index(drop=True))


def test_what_is_only_said():
    clean = pd.concat([CLEAN, table(("A  B", 0), ("d", 1), ("D", 1))])
    train = pd.concat([TRAIN, table(("A b", 1), ("v", 1), ("c", 0), ("C ", 0))])
    tables = check_pair(train, clean, 2)
    pd.testing.assert_frame_equal(tables.clean, CLEAN)
    pd.testing.assert_frame_equal(tables.train, train.reset_index(drop=True))
    assert tables.notes == (
        "3 duplicates among the clean rows were left out.",
        "Few clean rows: class 0 has 2, class 1 has 2, under 40.",
        "2 training rows repeat the text of an earlier one.",
        "2 clean rows stand in the training rows, too; 1 of those training rows have another "
        "label.",
    )


def test_a_class_that_no_training_row_has():
    assert "No training row has class 1." in check_pair(TRAIN[::2], CLEAN, 2).notes


BAD_PAIRS = {
    "no training rows": (TRAIN[:0], CLEAN, 2, "no training rows"),
    "no clean rows": (TRAIN, CLEAN[:0], 2, "no clean rows"),
    "one class": (TRAIN, CLEAN[:2], 2, "0 different texts of class 1"),
    "one row of a class": (TRAIN, CLEAN[:3], 2, "1 different texts of class 1"),
    "one text twice": (
        TRAIN,
        pd.concat([CLEAN[:3], table(("D ", 1))]),
        2,
        "1 different texts of class 1",
    ),
    "a class without": (TRAIN, CLEAN, 3, "0 different texts of class 2"),
    "a text with two labels": (
        TRAIN,
        pd.concat([CLEAN, table(("A  b", 1))]),
        2,
        "clean rows 0 and 4 are the same text with labels 0 and 1",
    ),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_tables_that_do_not_do(case):
    train, clean, n_classes, told = BAD_PAIRS[case]
    with pytest.raises(BedkdError, match=told):
        check_pair(train, clean, n_classes)
