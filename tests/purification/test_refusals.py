"""`bedkd purify` with bad input: a sentence, exit code 2, nothing written; and what is allowed."""

import json
import os
import pickle
import re
import shutil
from itertools import product

import pandas as pd
import pytest
from tiny_models import make, save

from bedkd import cli

SLOW = ("dmm.epochs=1", "akd.cycles=1", "dmm.learning_rate=1e-4", "akd.learning_rate=1e-4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"), *make("bert"))


def rows(n: int = 60, start: int = 0) -> pd.DataFrame:
    words = list(product(("good", "bad"), ("story", "cast", "scene", "first", "last"), range(99)))
    texts = [f"the {noun} is {word} , part {i}" for word, noun, i in words]
    labels = [f"class {int(word == 'good')}" for word, _, _ in words]
    own = pd.DataFrame({"text": texts, "label": labels}).sample(frac=1, random_state=0)
    return own[start : start + n]


@pytest.fixture
def call(model, tmp_path, capsys, monkeypatch):
    """Calls the command on good files, of which `change(folder)` has made one bad; `more`: options
    in place of them. Gives exit code, stdout and, without the progress bars, stderr."""
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def run(change=None, **more):
        shutil.copytree(model, tmp_path / "model")
        rows(200).to_csv(tmp_path / "train.csv", index=False)
        rows(100, 300).to_csv(tmp_path / "clean.csv", index=False)
        if change:
            change(tmp_path)
        names = {"model": "model", "train": "train.csv", "clean": "clean.csv", "out": "out"}
        given = {name: str(tmp_path / file) for name, file in names.items()} | more
        options = [part for name, value in given.items() for part in option(name, value)]
        settings = sum((["--set", setting] for setting in SLOW), [])
        code = cli.main(["purify", *options, *settings])
        return code, *capsys.readouterr()

    return run


def option(name: str, value: str | None) -> list[str]:
    """None: a flag."""
    return [f"--{name.replace('_', '-')}"] + [value] * (value is not None)


def write(file: str, content):
    """Replaces a file: bytes, or a table."""

    def change(folder):
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
        else:
            content.to_csv(folder / file, index=False)

    return change


def edit(file: str, **values):
    """Changes a JSON file of the model; None takes a key out."""

    def change(folder):
        path = folder / "model" / file
        own = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in own.items() if value is not None}))

    return change


def remove(*files: str):
    def change(folder):
        for file in files:
            (folder / "model" / file).unlink()

    return change


def truncate(folder):
    os.truncate(folder / "model" / "model.safetensors", 5000)


class Payload:
    def __reduce__(self):
        return os.system, ("touch was_run",)


def disguise(folder):
    (folder / "model" / "model.safetensors").write_bytes(pickle.dumps(Payload()))


def leave_a_pickle(folder):
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))


def link_out(folder):
    shutil.move(folder / "model" / "config.json", folder / "config.json")
    (folder / "model" / "config.json").symlink_to(folder / "config.json")


def fill_out(folder):
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("mine")


def link_table(folder):
    (folder / "train.csv").unlink()
    (folder / "train.csv").symlink_to(folder / "nowhere.csv")


WRONG = rows(100, 300)
HEAD = b"text,label\n"
BAD = {
    "no such model": (None, {"model": "nowhere/at/all"}, "nowhere/at/all"),
    "empty model name": (None, {"model": "./"}, "model"),
    "no config": (remove("config.json"), {}, "config.json"),
    "no weights": (remove("model.safetensors"), {}, "weights"),
    "no tokenizer": (remove("tokenizer.json"), {}, "tokenizer"),
    "truncated weights": (truncate, {}, "model"),
    "a pickle in disguise": (disguise, {}, "model"),
    "a pickle": (leave_a_pickle, {}, "allow"),
    "a pickle that does more than hold tensors": (leave_a_pickle, {"allow_pickle": None}, "model"),
    "a link out of the folder": (link_out, {}, "config.json"),
    "config is no JSON": (write("model/config.json", b"{"), {}, "config.json"),
    "no classifier": (edit("config.json", architectures=["BertForMaskedLM"]), {}, "classifier"),
    "one label": (edit("config.json", id2label={"0": "x"}, label2id={"x": 0}), {}, "label"),
    "regression": (edit("config.json", problem_type="regression"), {}, "regression"),
    "several labels a text": (
        edit("config.json", problem_type="multi_label_classification"),
        {},
        "multi",
    ),
    "weights of another size": (edit("config.json", hidden_size=32), {}, "match"),
    "more labels than the head has": (
        edit("config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id=None),
        {},
        "",
    ),
    "no such train file": (None, {"train": "nowhere.csv"}, "no such file: nowhere.csv"),
    "no such clean file": (None, {"clean": "nowhere.csv"}, "no such file: nowhere.csv"),
    "no such test file": (None, {"test": "nowhere.csv"}, "no such file: nowhere.csv"),
    "no such triggered file": (None, {"triggered_test": "nowhere.csv"}, "nowhere.csv"),
    "a folder for a file": (None, {"train": "."}, "folder"),
    "an ending that is none": (None, {"train": "rows.xlsx"}, "rows.xlsx"),
    "a link to nothing": (link_table, {}, "train.csv"),
    "empty file": (write("train.csv", b""), {}, "train.csv"),
    "header alone": (write("train.csv", HEAD), {}, "no rows"),
    "no clean rows": (write("clean.csv", HEAD), {}, "no rows"),
    "no column of texts": (write("train.csv", b"words,label\na,class 0\n"), {}, "--text-column"),
    "no column of labels": (write("train.csv", b"text,y\na,class 0\n"), {}, "--label-column"),
    "a text column that is not there": (None, {"text_column": "words"}, "words"),
    "a label column that is not there": (None, {"label_column": "y"}, "'y'"),
    "one column for both": (None, {"text_column": "label"}, "label"),
    "Latin-1": (write("train.csv", HEAD + "é,class 0\n".encode("latin-1")), {}, "UTF-8"),
    "UTF-16": (write("train.csv", "text,label\na,class 0\n".encode("utf-16")), {}, "train.csv"),
    "NUL": (write("train.csv", HEAD + b"a\0b,class 0\n"), {}, "NUL"),
    "a row that is too wide": (write("train.csv", HEAD + b"a,class 0,more\n"), {}, "train.csv"),
    "an open quote": (write("train.csv", HEAD + b'"a,class 0\n'), {}, "train.csv"),
    "an empty text": (write("train.csv", HEAD + b"a,class 0\n ,class 1\n"), {}, "row 1"),
    "an empty label": (write("train.csv", HEAD + b"a,class 0\nb,\n"), {}, "row 1"),
    "a label that the model lacks": (write("train.csv", HEAD + b"a,class 7\n"), {}, "class 7"),
    "an id that the model lacks": (write("train.csv", HEAD + b"a,2\n"), {}, "2"),
    "a negative id": (write("train.csv", HEAD + b"a,-1\n"), {}, "-1"),
    "half an id": (write("train.csv", HEAD + b"a,0.5\n"), {}, "0.5"),
    "clean rows of one class": (
        write("clean.csv", WRONG[WRONG.label == "class 0"]),
        {},
        "class 1",
    ),
    "a clean text with two labels": (
        write(
            "clean.csv", pd.concat([WRONG.assign(label="class 0"), WRONG.assign(label="class 1")])
        ),
        {},
        "two labels|with labels",
    ),
    "JSON that is none": (write("rows.jsonl", b'{"text": '), {"train": "rows.jsonl"}, "rows.jsonl"),
    "JSON lists": (write("rows.jsonl", b"[1, 2]\n"), {"train": "rows.jsonl"}, "rows.jsonl"),
    "texts that are numbers": (
        write("rows.jsonl", b'{"text": 7, "label": 0}\n'),
        {"train": "rows.jsonl"},
        "row 0",
    ),
    "texts that are null": (
        write("rows.jsonl", b'{"text": null, "label": 0}\n{"text": "a", "label": 0}\n'),
        {"train": "rows.jsonl"},
        "row 0",
    ),
    "no Parquet": (write("rows.parquet", b"PAR1 no"), {"train": "rows.parquet"}, "rows.parquet"),
    "an archive by the name of a table": (
        write("rows.csv", b"PK\x03\x04" + bytes(60)),
        {"train": "rows.csv"},
        "rows.csv",
    ),
    "out is not empty": (fill_out, {}, "not empty"),
    "out is a file": (write("file", b"mine"), {"out": "file"}, "file"),
    "out is below a file": (write("file", b"mine"), {"out": "file/out"}, "file"),
    "unknown method": (None, {"method": "magic"}, "magic"),
    "unknown device": (None, {"device": "abacus"}, "abacus"),
    "a text of no tokens": (None, {"max_length": "0"}, "max_length|tokens|length"),
    "longer than the model's limit": (None, {"max_length": "99999"}, "99999"),
    "unknown parameter": (None, {"set": "akd.magic=1"}, "akd.magic"),
    "a section that is another's": (None, {"set": "victim.epochs=1"}, "victim.epochs"),
    "a value out of range": (None, {"set": "mepd.n_poison=-1"}, "mepd.n_poison"),
    "no value": (None, {"set": "akd.cycles"}, "KEY=VALUE"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(call, tmp_path, monkeypatch, name):
    change, more, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    before = {path for path in tmp_path.rglob("*") if "out" in path.parts}
    code, out, err = call(change, **more)
    assert code == 2 and out == ""
    assert err.startswith("bedkd: ") and err.count("\n") == 1 and "Traceback" not in err
    assert re.search(message, err), err
    assert not (tmp_path / "was_run").exists()
    left = {path.name for path in tmp_path.rglob("*") if "out" in path.parts or path.name[0] == "."}
    assert left - {path.name for path in before} <= {"out", "mine"}


TRAIN, CLEAN = rows(200), rows(100, 300)
FINE = {
    "duplicates in train": (write("train.csv", pd.concat([TRAIN, TRAIN])), "200 training rows"),
    "duplicates in clean": (write("clean.csv", pd.concat([CLEAN, CLEAN])), "100 duplicates"),
    "clean rows in train": (write("train.csv", pd.concat([TRAIN, CLEAN])), "100 clean rows stand"),
    "a class that train lacks": (
        write("train.csv", TRAIN[TRAIN.label == "class 0"]),
        "No training row has class 1",
    ),
    "few clean rows": (write("clean.csv", CLEAN[:60]), "Few clean rows"),
    "a text of a megabyte": (
        write("train.csv", pd.concat([TRAIN, TRAIN[:1].assign(text="good story " * 100_000)])),
        "201 rows",
    ),
    "BOM and CRLF": (
        write(
            "train.csv", b"\xef\xbb\xbf" + TRAIN.to_csv(index=False, lineterminator="\r\n").encode()
        ),
        "200 rows",
    ),
    "ids that are floats": (
        write("train.csv", TRAIN.assign(label=TRAIN.label.str[-1] + ".0")),
        "200 rows",
    ),
    "names in capitals": (write("train.csv", TRAIN.assign(label=TRAIN.label.str.upper())), ""),
    "other usual columns": (
        write("train.csv", TRAIN.rename(columns={"text": "Sentence", "label": "Label"})),
        "200 rows",
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_allowed_is_said_in_the_card(call, tmp_path, name):
    change, note = FINE[name]
    code, out, err = call(change)
    assert (code, err) == (0, "") and str(tmp_path / "out") in out
    assert note in (tmp_path / "out" / "card.md").read_text()


def test_without_permission_to_write(call, tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = call(out=str(tmp_path / "locked" / "out"))
    assert code == 2 and "permission" in err
