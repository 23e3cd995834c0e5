import time
from pathlib import Path

import pandas as pd
import pytest

from bedkd import cli
from bedkd.batch import cluster, workflow
from bedkd.core.errors import BedkdError


@pytest.fixture(autouse=True)
def outputs(monkeypatch, tmp_path) -> Path:
    """Where results would go. Nothing may run in these tests."""

    def run(*arguments, **options):
        raise AssertionError("bad input went as far as Snakemake")

    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(workflow.subprocess, "Popen", run)
    return tmp_path / "outputs"


@pytest.fixture
def refused(outputs, capsys):
    """Call the command line with bad input; gives its one sentence on stderr."""

    def call(*arguments: str) -> str:
        assert cli.main(["reproduce", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("bedkd: ") and printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        assert not outputs.exists()
        return printed.err

    return call


@pytest.fixture
def rows_csv(tmp_path) -> str:
    rows = pd.DataFrame({"text": ["a b", "c d"] * 20, "label": [0, 1] * 20})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    return str(tmp_path / "rows.csv")


# what reaches the workflow


def test_arguments_reach_the_workflow(monkeypatch):
    called = []

    def reproduce(profile, settings, place, is_dry_run):
        called.append((profile.name, settings, place, is_dry_run))
        return 1

    monkeypatch.setattr(cli, "reproduce", reproduce)
    settings = ["--set", "seed=[0,1]", "--set", "dmm.alpha=0.5", "--set", "attack.trigger=a=b c"]
    assert cli.main(["reproduce", "quick", "--cores", "3", "--dry-run", *settings]) == 1
    wanted = {"seed": [0, 1], "dmm.alpha": 0.5, "attack.trigger": "a=b c"}
    assert called == [("quick", wanted, cluster.Place(cores=3), True)]


def test_the_number_of_cores_has_a_default(monkeypatch):
    called = []
    monkeypatch.setattr(cli, "reproduce", lambda *arguments: called.append(arguments) or 0)
    assert cli.main(["reproduce", "quick"]) == 0
    (_, _, place, _) = called[0]
    assert place.cores >= 1 and place.cluster is None and place.gpus == 0


def test_errors_of_the_workflow_are_one_line_too(monkeypatch, refused):
    def reproduce(*arguments):
        raise BedkdError("another run is at work")

    monkeypatch.setattr(cli, "reproduce", reproduce)
    assert refused("quick") == "bedkd: another run is at work\n"


@pytest.mark.parametrize("arguments", [[], ["reproduce"], ["nonsense"], ["reproduce", "a", "b"]])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: bedkd" in capsys.readouterr().err


# names


def test_unknown_profile(refused):
    message = refused("quickly")
    assert "'quickly'" in message and "quick" in message and "paper" in message


def test_missing_profile_file(refused, tmp_path):
    assert "mine.yaml" in refused(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    "content, word",
    [
        ("grid: [unclosed", "valid YAML"),
        ("- a\n- b\n", "key: value"),
        ("gird: {dataset: sst2}\n", "'gird'"),
        ("extends: quick\nconfig: {dmm: {alpa: 1}}\n", "dmm.alpa"),
        ("extends: nowhere\n", "'nowhere'"),
        ("extends: quick\ngrid: {dataset: []}\n", "dataset is empty"),
        ("extends: quick\ngrid: {seeds: [1]}\n", "seeds"),
    ],
)
def test_bad_profile_file(refused, tmp_path, content, word):
    (tmp_path / "mine.yaml").write_text(content)
    assert word in refused(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("value", ["sst3", "[toy-topics,sst3]"])
def test_unknown_dataset(refused, value):
    message = refused("quick", "--set", f"dataset={value}")
    assert "'sst3'" in message and "sst2" in message and ".csv" in message


@pytest.mark.parametrize("value", ["badword", "[badwords,badword]"])
def test_unknown_attack(refused, value):
    message = refused("quick", "--set", f"attack={value}")
    assert "'badword'" in message and "none, badwords, addsent, synbkd" in message


@pytest.mark.parametrize("key", ["dmm.alpa", "alpha", "dmm.akd.alpha", "dnn.alpha", "dmm."])
def test_unknown_parameter(refused, key):
    message = refused("quick", "--set", f"{key}=1")
    assert "dmm" in message and ("unknown parameter" in message or "must be" in message)


@pytest.mark.parametrize("key", ["data.name", "attack.name"])
def test_what_the_grid_decides_is_not_silently_ignored(refused, key):
    grid_key = {"data.name": "dataset", "attack.name": "attack"}[key]
    assert grid_key in refused("quick", "--set", f"{key}=nonsense")


# values


@pytest.mark.parametrize("rate", ["0", "1", "1.5", "-0.2", "many", ".nan"])
def test_poison_rate(refused, rate):
    message = refused("quick", "--set", f"attack.poison_rate={rate}")
    assert "poison_rate" in message and rate.strip(".") in message


@pytest.mark.parametrize(
    "setting, words",
    [
        ("attack.label_mode=some", ("label_mode", "'some'", "mixed")),
        ("attack.fallback=any", ("fallback", "'any'", "rules")),
        ("attack.target_label=Sports", ("target_label", "'Sports'", "int")),
        ("data.n_train=0", ("n_train", "0")),
        ("data.n_train=1.5", ("n_train", "1.5")),
        ("dmm.alpha=2", ("alpha", "2")),
        ("seed=one", ("seed", "'one'", "int")),
        ("seed=true", ("seed", "True", "number")),
        ("dataset=7", ("7",)),
        ("dmm=3", ("dmm", "3")),
        ("dmm.n_clean_per_class=1000", ("1000", "320", "clean_pool_per_class")),
        ("data.clean_pool_per_class=10", ("160", "10", "clean_pool_per_class")),
    ],
)
def test_values_out_of_range(refused, setting, words):
    message = refused("quick", "--set", setting)
    assert all(word in message for word in words)


@pytest.mark.parametrize("key", ["dataset", "attack", "seed"])
@pytest.mark.parametrize("value", ["[]", "null", ""])
def test_an_empty_grid(refused, key, value):
    message = refused("quick", "--set", f"{key}={value}")
    assert key in message or {"dataset": "data.name", "attack": "attack.name"}[key] in message


def test_settings_that_contradict_each_other(refused):
    message = refused("quick", "--set", "dmm=3", "--set", "dmm.alpha=0.5")
    assert "dmm" in message


@pytest.mark.parametrize("setting", ["dmm.alpha", "=1", "=", ""])
def test_set_without_key_or_value(refused, setting):
    message = refused("quick", "--set", setting)
    assert "KEY=VALUE" in message and repr(setting) in message


def test_set_with_a_value_that_is_no_yaml(refused):
    message = refused("quick", "--set", "dmm.alpha=[1")
    assert "dmm.alpha" in message and "'[1'" in message


@pytest.mark.parametrize("cores", ["0", "-2"])
def test_cores(refused, cores):
    message = refused("quick", "--cores", cores)
    assert f"--cores is {cores}" in message and "1 or more" in message


# files and folders


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.jsonl"])
def test_a_missing_file(refused, tmp_path, name):
    message = refused("quick", "--set", f"dataset={tmp_path / name}")
    assert "no such file" in message and name in message


def test_a_missing_test_file(refused, rows_csv, tmp_path):
    settings = ["--set", f"dataset={rows_csv}", "--set", f"data.test_file={tmp_path}/none.csv"]
    message = refused("quick", *settings)
    assert "no such file" in message and "none.csv" in message


def test_a_test_file_of_unknown_kind(refused, rows_csv):
    settings = ["--set", f"dataset={rows_csv}", "--set", "data.test_file=test.xlsx"]
    message = refused("quick", *settings)
    assert "test.xlsx" in message and ".parquet" in message


@pytest.mark.parametrize(
    "content, words",
    [
        (b"words,label\na,0\nb,1\n", ("no column 'text'", "words, label")),
        (b"text,kind\na,0\nb,1\n", ("no column 'label'", "text, kind")),
        ("text,label\ncafé,0\nb,1\n".encode("latin-1"), ("cannot read", "utf-8")),
        (b"text,label\na,1\nb,1\n", ("has 1 classes", "2 to 1000")),
        (b"text,label\na,1\nb,\n", ("row 1 has no label",)),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_file_that_cannot_do_is_refused_before_any_job(
    refused, tmp_path, monkeypatch, content, words, options
):
    """And named as it was given: from where the user stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_bytes(content)
    message = refused("quick", "--set", "dataset=rows.csv", *options)
    assert all(word in message for word in ("rows.csv", *words))


def test_columns_of_the_test_file(refused, rows_csv, tmp_path):
    (tmp_path / "test.csv").write_text("sentence,label\na,0\n")
    settings = ["--set", f"dataset={rows_csv}", "--set", f"data.test_file={tmp_path}/test.csv"]
    assert "test.csv has no column 'text'" in refused("quick", *settings)


def test_a_directory_in_place_of_a_file(refused, tmp_path):
    assert str(tmp_path) in refused("quick", "--set", f"dataset={tmp_path}")
    (tmp_path / "rows.csv").mkdir()
    assert "rows.csv" in refused("quick", "--set", f"dataset={tmp_path}/rows.csv")


def test_a_paraphrase_table_that_is_nowhere(refused, tmp_path, no_network):
    path = str(tmp_path / "nowhere")
    settings = ["--set", "attack=synbkd", "--set", f"attack.paraphrases={path}"]
    assert path in refused("quick", *settings)


@pytest.mark.parametrize("profile", ["laptop", "paper", "released_code"])
def test_a_mirror_that_points_nowhere(refused, monkeypatch, tmp_path, profile):
    monkeypatch.setenv("BEDKD_MIRROR", str(tmp_path / "nowhere"))
    message = refused(profile)
    assert "BEDKD_MIRROR" in message and str(tmp_path / "nowhere") in message
    assert "not a folder" in message


@pytest.mark.parametrize("profile", ["laptop", "paper", "released_code"])
def test_no_mirror_and_no_network(refused, monkeypatch, no_network, profile):
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)
    started = time.monotonic()
    message = refused(profile)
    assert time.monotonic() - started < 10
    assert "BEDKD_MIRROR" in message and "does not answer" in message


def test_a_model_that_is_nowhere(refused, monkeypatch, no_network):
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)
    message = refused("quick", "--set", "victim.model=some/model")
    assert "'some/model'" in message and "BEDKD_MIRROR" in message


def test_a_mirror_without_the_data(refused, monkeypatch, tmp_path, no_network):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("BEDKD_MIRROR", str(tmp_path / "mirror"))
    message = refused("laptop")
    assert str(tmp_path / "mirror") in message and "does not answer" in message
