import json

import datasets
import numpy as np
import pandas as pd
import pytest

from bedkd.core.config import DataConfig
from bedkd.core.errors import BedkdError
from bedkd.data.readers import DATASETS, dataset_revision, get_spec, read_file
from bedkd.data.splits import load_clean_data

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
TRICKY = 'He said, "no"\tand left — à la carte 🙂'


@pytest.fixture(autouse=True)
def private_cache(monkeypatch, tmp_path):
    """`datasets` keeps its copies of what it reads here, not in the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf_cache"))


def write(path, rows: pd.DataFrame) -> str:
    if path.suffix in (".csv", ".tsv"):
        rows.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        lines = [json.dumps(row) for row in rows.to_dict("records")]
        path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def make_rows(n: int = 40, word: str = "row", labels=("bad", "good")) -> pd.DataFrame:
    values = [labels[i % len(labels)] for i in range(n)]
    return pd.DataFrame({"text": [f"{word} {i} of many" for i in range(n)], "label": values})


def load(name: str, test_file: str | None = None, **columns):
    config = DataConfig(name=name, test_file=test_file, clean_pool_per_class=3, **columns)
    return load_clean_data(config, seed=0)


def all_rows(data) -> dict[str, str]:
    """Text to class name, over the three tables."""
    rows = pd.concat([data.train, data.clean_pool, data.test])
    return {t: data.spec.label_names[y] for t, y in zip(rows.text, rows.label, strict=True)}


def refused(*arguments, match: str, **options) -> str:
    with pytest.raises(BedkdError, match=match) as caught:
        load(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


# files


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("has_test_file", [True, False])
def test_a_local_file(tmp_path, ending, has_test_file):
    train, test = make_rows(40), make_rows(10, "test")
    train.loc[5, "text"] = TRICKY
    test_file = write(tmp_path / f"test{ending}", test) if has_test_file else None
    data = load(write(tmp_path / f"train{ending}", train), test_file)
    wanted = dict(zip(train.text, train.label, strict=True))
    if has_test_file:
        assert list(data.test.text) == list(test.text)
        assert list(data.test.label) == [0, 1] * 5
        wanted |= dict(zip(test.text, test.label, strict=True))
    assert all_rows(data) == wanted
    assert data.spec.label_names == ("bad", "good") and data.spec.target_label == 0
    assert len(data.test) == (10 if has_test_file else 8)


def test_a_json_file_is_read_as_lines(tmp_path):
    assert len(read_file(write(tmp_path / "rows.json", make_rows(7)))) == 7


def test_a_file_that_changed_is_read_anew(tmp_path):
    path = tmp_path / "rows.csv"
    assert "old 1 of many" in all_rows(load(write(path, make_rows(30, "old"))))
    rows = all_rows(load(write(path, make_rows(30, "new"))))
    assert len(rows) == 30 and all(text.startswith("new") for text in rows)


@pytest.mark.parametrize(
    "labels, names",
    [
        (("pos", "neg", "mixed"), ("mixed", "neg", "pos")),
        ((2, 1), ("1", "2")),
        ((1.0, 0.0), ("0", "1")),
        ((True, False), ("0", "1")),
        ((-1, 1), ("-1", "1")),
        (("0", "1"), ("0", "1")),
    ],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_of_any_kind(tmp_path, ending, labels, names):
    rows = make_rows(36, labels=labels)
    data = load(write(tmp_path / f"rows{ending}", rows))
    assert data.spec.label_names == names

    def name(value):
        return value if isinstance(value, str) else str(int(value))

    assert all_rows(data) == {t: name(y) for t, y in zip(rows.text, rows.label, strict=True)}


def test_numbers_from_0_stay_what_they_are_beyond_nine(tmp_path):
    rows = make_rows(12 * 8, labels=tuple(range(12)))
    data = load(write(tmp_path / "rows.csv", rows))
    label_of = dict(zip(rows.text, rows.label, strict=True))
    assert [label_of[text] for text in data.train.text] == list(data.train.label)
    assert data.spec.label_names == tuple(str(i) for i in range(12))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_test_file_with_one_of_the_classes(tmp_path, ending):
    train = write(tmp_path / f"train{ending}", make_rows(40, labels=(1, 2)))
    test = write(tmp_path / f"test{ending}", make_rows(6, "test", labels=(2,)))
    data = load(train, test)
    assert data.spec.label_names == ("1", "2")
    assert list(data.test.label) == [1] * 6


def test_a_test_file_may_give_class_numbers_for_named_classes(tmp_path):
    train = write(tmp_path / "train.csv", make_rows(40))
    test = write(tmp_path / "test.csv", make_rows(6, "test", labels=(0, 1)))
    assert list(load(train, test).test.label) == [0, 1] * 3


@pytest.mark.parametrize(
    "text, label",
    [("text", "label"), ("sentence", "class"), ("tweet", "labels"), ("content", "label")],
)
def test_usual_columns_are_found(tmp_path, text, label):
    rows = make_rows().rename(columns={"text": text, "label": label}).assign(extra=1)
    assert len(all_rows(load(write(tmp_path / "rows.csv", rows)))) == 40


def test_named_columns_win(tmp_path):
    rows = make_rows().rename(columns={"text": "review", "label": "verdict"})
    rows = rows.assign(text="decoy", label="decoy")
    name = write(tmp_path / "rows.parquet", rows)
    data = load(name, text_column="review", label_column="verdict")
    assert all_rows(data) == dict(zip(rows.review, rows.verdict, strict=True))


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_words_that_look_like_missing_values_are_words(tmp_path, ending):
    rows = make_rows(40, labels=("NA", "EU"))
    rows.loc[7, "text"], rows.loc[8, "text"] = "null", "None"
    data = load(write(tmp_path / f"rows{ending}", rows))
    assert all_rows(data) == dict(zip(rows.text, rows.label, strict=True))


def test_quotes_in_a_plain_tsv_swallow_no_row(tmp_path):
    """As SST-2 is spread: tabs between the columns, and a quote is a character like any other."""
    texts = [f"row {i} of many" for i in range(40)]
    texts[5], texts[20] = '" a quote opens here', 'and closes " here'
    lines = ["sentence\tlabel", *(f"{text}\t{i % 2}" for i, text in enumerate(texts))]
    (tmp_path / "rows.tsv").write_text("\n".join(lines) + "\n")
    assert list(read_file(str(tmp_path / "rows.tsv")).sentence) == texts


# known data sets


def test_a_name_is_known_or_a_hub_id_or_a_file():
    assert get_spec(DataConfig(name="olid")) is DATASETS["olid"]
    assert get_spec(DataConfig(name="owner/name")) is None
    assert get_spec(DataConfig(name="/some/where/rows.jsonl")) is None


@pytest.mark.parametrize("name", ["SST2", "toy", "", "rows.xlsx", "/some/where/rows.xlsx"])
def test_unknown_names(name):
    with pytest.raises(BedkdError, match="unknown dataset .*known: sst2") as caught:
        get_spec(DataConfig(name=name))
    assert repr(name) in str(caught.value)


# revisions


def test_the_revision_of_a_file_follows_its_bytes(tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    alone = DataConfig(name=write(train, make_rows()))
    both = DataConfig(name=str(train), test_file=write(test, make_rows(6, "test")))
    seen = {dataset_revision(alone), dataset_revision(both)}
    write(test, make_rows(7, "test"))
    seen.add(dataset_revision(both))
    write(train, make_rows(41))
    seen |= {dataset_revision(alone), dataset_revision(both)}
    assert len(seen) == 5
    write(train, make_rows())
    assert dataset_revision(alone) in seen


def test_generated_text_has_one_revision():
    assert dataset_revision(DataConfig(name="toy-topics")) == "generated"


# bad files


def test_garbage_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    assert str(path) in refused(str(path), match="cannot read .* as parquet")


def test_garbage_jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine", "label": 0}\nthis is not JSON\n')
    assert str(path) in refused(str(path), match="cannot read .* as jsonl")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01" * 50])
def test_garbage_csv(tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert str(path) in refused(str(path), match="rows.csv")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_file(tmp_path, ending):
    path = str(tmp_path / f"none{ending}")
    assert path in refused(path, match="no such file")
    train = write(tmp_path / f"train{ending}", make_rows())
    assert path in refused(train, path, match="no such file")
    with pytest.raises(BedkdError, match="no such file"):
        dataset_revision(DataConfig(name=path))


def test_a_directory(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    assert "rows.csv" in refused(str(tmp_path / "rows.csv"), match="no such file|folder|directory")
    assert str(tmp_path) in refused(str(tmp_path), match="unknown dataset")


def test_a_test_file_of_unknown_kind(tmp_path):
    train = write(tmp_path / "train.csv", make_rows())
    (tmp_path / "test.xlsx").write_text("x")
    refused(train, str(tmp_path / "test.xlsx"), match=r"test\.xlsx.*\.csv")


# bad rows


@pytest.mark.parametrize("kind", ["text", "label"])
def test_a_missing_column(tmp_path, kind):
    rows = make_rows().rename(columns={kind: "other"}).assign(more=1)
    message = refused(write(tmp_path / "rows.csv", rows), match=f"has no column '{kind}'")
    assert "other" in message and "more" in message  # what is there instead


@pytest.mark.parametrize("kind", ["text", "label"])
def test_a_missing_column_that_was_named(tmp_path, kind):
    name = write(tmp_path / "rows.csv", make_rows())
    message = refused(name, match="has no column 'nope'", **{f"{kind}_column": "nope"})
    assert "text, label" in message


def test_a_test_file_without_the_train_columns(tmp_path):
    train = write(tmp_path / "train.csv", make_rows())
    test = write(tmp_path / "test.csv", make_rows(5, "test").rename(columns={"text": "body"}))
    assert "test.csv" in refused(train, test, match="has no column 'text'.*body")


@pytest.mark.parametrize("bad", [None, "", "   ", "\t"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_text(tmp_path, ending, bad):
    rows = make_rows()
    rows.loc[17, "text"] = bad
    message = refused(write(tmp_path / f"rows{ending}", rows), match="the text of row 17 is")
    assert f"rows{ending}" in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_text_that_is_a_number(tmp_path, ending):
    rows = make_rows()
    rows["text"] = np.arange(40) + 5
    refused(write(tmp_path / f"rows{ending}", rows), match="the text of row 0 is 5;")


def test_empty_text_in_the_test_file(tmp_path):
    test = make_rows(6, "test")
    test.loc[2, "text"] = " "
    train = write(tmp_path / "train.csv", make_rows())
    message = refused(train, write(tmp_path / "test.csv", test), match="the text of row 2 is")
    assert "test.csv" in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_without_a_label(tmp_path, ending):
    rows = make_rows()
    rows.loc[9, "label"] = None
    refused(write(tmp_path / f"rows{ending}", rows), match="row 9 has no label")


@pytest.mark.parametrize("labels, bad", [(("bad", "good"), "ugly"), ((1, 2), 0), ((0, 1), 1.5)])
def test_a_label_outside_the_label_set(tmp_path, labels, bad):
    train = write(tmp_path / "train.jsonl", make_rows(labels=labels))
    rows = make_rows(6, "test", labels)
    rows["label"] = rows.label.astype(object)
    rows.loc[3, "label"] = bad
    message = refused(train, write(tmp_path / "test.jsonl", rows), match="the label of row 3 is")
    assert str(bad) in message and ", ".join(map(str, labels)) in message


@pytest.mark.parametrize("labels", [("only",), tuple(range(1001))])
def test_too_few_or_too_many_classes(tmp_path, labels):
    name = write(tmp_path / "rows.csv", make_rows(1001, labels=labels))
    refused(name, match=f"'label' has {len(labels)} classes")


def test_a_file_without_rows(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n")
    refused(str(tmp_path / "rows.csv"), match="rows.csv")


def test_a_bad_label_column_is_not_a_thousand_classes(tmp_path):
    name = write(tmp_path / "rows.csv", make_rows(1200))
    refused(name, label_column="text", match="'text' has 1200 classes; give 2 to 1000")
