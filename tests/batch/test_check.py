"""What a profile needs and has, said before anything starts; nothing is written."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bedkd import cli
from bedkd.batch import check, estimate
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.runs.folders import list_files, publish
from bedkd.runs.profiles import load_profile, open_run

SMALL = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [badwords, synbkd], seed: [3]}
defences: [onion, w2s]
studies: [victim]
few_jobs: false
focus: [toy-sentiment]
sweeps: {victim: {values: [tiny-bert, tiny-roberta], attack: badwords}}
"""


@pytest.fixture
def profile(tmp_path, outputs, monkeypatch):
    # times are those of the tests' own records, whatever the reference has
    monkeypatch.setattr(estimate, "PROJECT", tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(textwrap.dedent(SMALL))
    return str(path)


@pytest.fixture
def report(capsys):
    """Run the command; gives its exit code and what it prints."""

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(["check", *arguments])
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with a data set and a model of 1,000 parameters."""
    folder = tmp_path / "mirror"
    (folder / "SetFit/sst2").mkdir(parents=True)
    (folder / "SetFit/sst2/train.jsonl").write_text("{}\n")
    (folder / "some/model").mkdir(parents=True)
    weights = {"weight": np.zeros((10, 90), np.float16), "bias": np.zeros(100, np.float16)}
    save_file(weights, folder / "some/model/model.safetensors")
    monkeypatch.setenv("BEDKD_MIRROR", str(folder))
    return folder


def rows_of(text: str, topic: str) -> list[str]:
    """The lines under a topic."""
    found, is_here = [], False
    for line in text.splitlines():
        is_here = line.startswith(topic + " ") or (is_here and line.startswith(" "))
        if is_here:
            found.append(line[16:])
    return found


def everything(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def finish(run, stage, **fields):
    """A result as a stage leaves it, without the work."""
    common = {"stage": stage, "model": run.config.victim.model, "device": "cpu"}
    common |= {"dataset": run.config.data.name, "config": run.config.flat()}
    with publish(run.folder(stage)) as folder:
        (folder / "model").mkdir()
        (folder / "model/model.safetensors").write_bytes(b"0" * 5_000_000)
        write_json(folder / "record.json", common | fields | {"files": list_files(folder)})


# a profile that can start


def test_generated_text_and_models_from_scratch_can_start(report, profile, tmp_path, outputs):
    before = everything(tmp_path)
    code, text = report(profile, "--cores", "2")
    assert code == 0 and text.endswith("small can start.\n")
    assert everything(tmp_path) == before and not outputs.exists()
    assert rows_of(text, "data") == ["toy-sentiment  generated"]
    assert [row.split()[0] for row in rows_of(text, "model")] == ["tiny-bert", "tiny-roberta"]
    assert rows_of(text, "language model") == ["tiny-lm        made from scratch"]
    assert rows_of(text, "proxy") == ["toy-sentiment  generated"]
    assert rows_of(text, "cells") == ["0 of 2 done"]
    # one of them the victim without an attack, which both cells are held against
    assert rows_of(text, "jobs")[0].startswith("0 of 14 done; to do: 01_poisoning 3, 02_dmm 2")
    assert rows_of(text, "time left") == ["unknown: nothing like it was measured yet"]
    assert "2 jobs at a time" in rows_of(text, "device")[0]
    assert "of tiny-bert with 3 MB (assumed)" in rows_of(text, "disk")[0]


def test_what_is_in_the_mirror_is_told_with_its_hash(report, profile, mirror):
    settings = ["--set", "dataset=sst2", "--set", "attack=badwords", "--set", "defences=[]"]
    code, text = report(profile, *settings, "--set", "victim.model=some/model")
    assert code == 0
    (data,), (model,) = rows_of(text, "data"), rows_of(text, "model")
    assert data.startswith("sst2 ") and model.startswith("some/model ")
    assert all(len(row.split("mirror, ")[1]) == 16 for row in (data, model))
    # the victim, and the one without an attack; DMM and CM, of BeDKD and of BeDKD+
    assert "6 of some/model with 0 MB" in rows_of(text, "disk")[0]
    assert "assumed" not in text and rows_of(text, "proxy") == []
    (mirror / "SetFit/sst2/train.jsonl").write_text('{"text": "a"}\n')
    assert rows_of(report(profile, *settings)[1], "data") != [data]


def test_a_file_is_a_data_set(report, profile, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,0\nb,1\n")
    settings = ["--set", f"dataset={tmp_path}/rows.csv", "--set", "attack=badwords"]
    code, text = report(profile, *settings)
    assert code == 0 and "  file, " in rows_of(text, "data")[0]


# a profile that cannot


def test_all_that_is_missing_is_named(report, profile, mirror, no_network, outputs):
    settings = ["--set", "dataset=[sst2,olid]", "--set", "language.model=some/lm"]
    code, text = report(profile, *settings, "--set", "victim.model=some/other")
    assert code == 1 and "small cannot start. Missing:" in text and not outputs.exists()
    listed = [line for line in text.splitlines() if line.startswith("- ")]
    for name in ("cardiffnlp/tweet_eval", "some/other", "some/lm"):
        (line,) = [line for line in listed if repr(name) in line]
        assert f"point BEDKD_MIRROR at a folder that holds {name}/" in line
    for name in ("paraphrases/scpn/sst2", "paraphrases/scpn/olid"):
        (line,) = [line for line in listed if repr(name) in line]
        assert f"is not in the mirror {mirror}" in line
    assert len(listed) == 5
    data = {row.split()[0]: row.split("  ")[-1].strip() for row in rows_of(text, "data")}
    assert data["olid"] == "not found" and data["sst2"].startswith("mirror, ")
    assert rows_of(text, "jobs") == ["not counted: their names hang on what is missing"]


def test_the_model_that_writes_aitext_and_the_table_of_stybkd_are_looked_for(
    report, profile, mirror, no_network
):
    settings = ["--set", "attack=[stybkd,aitext]", "--set", "dataset=sst2", "--set", "defences=[]"]
    code, text = report(profile, *settings, "--set", "generator.model=some/lm")
    assert code == 1
    assert [row.split() for row in rows_of(text, "language model")] == [["some/lm", "not", "found"]]
    listed = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(listed) == 2
    assert any("'paraphrases/bible/sst2'" in line for line in listed)
    assert any("'some/lm'" in line for line in listed)


def test_a_model_that_a_sweep_tries_is_looked_for(report, profile, mirror, no_network):
    path = Path(profile)
    path.write_text(path.read_text().replace("tiny-roberta", "some/giant"))
    code, text = report(profile)
    assert code == 1 and "- model 'some/giant' is not in the mirror" in text


def test_a_model_without_weights_is_no_model(report, profile, mirror):
    (mirror / "some/model/model.safetensors").unlink()
    code, text = report(profile, "--set", "victim.model=some/model")
    assert code == 1 and "holds no safetensors file: the weights of 'some/model'" in text
    (mirror / "some/model/model.safetensors").write_bytes(b"cut off")
    code, text = report(profile, "--set", "victim.model=some/model")
    assert code == 1 and "cannot read the weights" in text


def test_a_device_that_is_not_there(report, profile):
    code, text = report(profile, "--set", "device=nonsense")
    assert code == 1 and "device 'nonsense' cannot be used" in text


def test_too_little_disk(report, profile, monkeypatch):
    usage = check.shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: usage)
    code, text = report(profile)
    assert code == 1 and "- disk space: 1 MB free" in text and "BEDKD_OUTPUTS" in text


def test_bad_input_is_one_line(profile, capsys):
    for settings in (["--set", "dmm.alpa=1"], ["--set", "victim.epochs=0"], ["--cores", "0"]):
        assert cli.main(["check", profile, *settings]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1


# packages


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    lines = '[project]\ndependencies = ["numpy", "torch", "huggingface-hub>=1", "pyyaml"]\n'
    (folder / "pyproject.toml").write_text(lines)
    pins = "# a note\nhuggingface_hub==2.0\nnumpy==1.0\nPyYAML==6.0\ntorch==2.13.0\n"
    (folder / "constraints.txt").write_text(pins)
    return folder


def pretend(monkeypatch, **versions):
    versions = {"numpy": "1.0", "torch": "2.13.0+cpu", "huggingface-hub": "2.0"} | versions
    versions = {"pyyaml": "6.0"} | versions

    def version(name):
        if versions[name] is None:
            raise check.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(check, "version", version)


def test_the_pinned_versions(project, monkeypatch):
    pretend(monkeypatch)
    (line,) = check.check_packages(project)
    assert line.text.endswith("4 of 4 packages found, as in constraints.txt") and not line.problem


def test_another_version_is_a_warning(project, monkeypatch):
    pretend(monkeypatch, torch="2.14.0+cu130", pyyaml="5.9")
    first, *others = check.check_packages(project)
    assert first.text.endswith("4 of 4 packages found")
    texts = ["torch is 2.14.0+cu130, constraints.txt has 2.13.0"]
    assert [line.text for line in others] == [*texts, "pyyaml is 5.9, constraints.txt has 6.0"]
    assert not any(line.problem for line in (first, *others))


def test_a_package_that_is_not_there_is_missing(project, monkeypatch):
    pretend(monkeypatch, numpy=None)
    first, line = check.check_packages(project)
    assert "3 of 4" in first.text and "pip install" in line.problem and "numpy" in line.problem


def test_the_real_lists_can_be_read():
    assert len(check.check_packages(check.PROJECT)) >= 1


# what is left


def test_finished_results_are_counted_and_timed(report, profile, outputs):
    run = open_run(profile, "toy-sentiment", "badwords", 3)
    finish(run, "data", seconds=2.0)
    finish(run, "victim", seconds=600.0)
    finish(run, "dmm", seconds=100.0, seconds_scoring=20.0)
    finish(run, "mepd", seconds=1.0)
    plus = load_profile(profile).plus_run(run)
    finish(plus, "dmm", seconds=30.0, seconds_scoring=10.0)
    finish(plus, "mepd", seconds=1.0)
    before = everything(outputs)
    code, text = report(profile, "--cores", "1")
    assert code == 0 and everything(outputs) == before
    assert rows_of(text, "jobs")[0].startswith(
        "3 of 14 done; to do: 01_poisoning 2, 02_dmm 1, 03_mepd 1, 04_akd 2"
    )
    # the SynBkd cell up to MEPD, with that of BeDKD+, and data and victim without an attack:
    # 2 + 600 + 120 + 1, 40 + 1, and 2 + 600 seconds
    known, unknown = rows_of(text, "time left")
    assert known.startswith("about 23 min with 1 job at a time")
    assert "akd 5" in unknown and "onion 2" in unknown and "victim 2" in unknown  # of tiny-roberta
    assert "of tiny-bert with 5 MB" in rows_of(text, "disk")[0]
    finish(run, "akd", seconds=5000.0, seconds_akd=300.0, seconds_dmm=100.0, seconds_scoring=20.0)
    code, text = report(profile, "--cores", "2")
    assert rows_of(text, "time left")[0].startswith("about 14 min with 2 jobs at a time")


def test_a_finished_profile_has_nothing_left(report, profile):
    settings = ["--set", "defences=[]", "--set", "studies=[]", "--set", "attack=badwords"]
    run = open_run(profile, "toy-sentiment", "badwords", 3)
    for stage in ("data", "victim", "never_poisoned", "dmm", "mepd", "akd"):
        finish(run, stage, seconds=1.0)
    for stage in ("data", "victim"):  # that never saw poison
        finish(replace(run, config=run.config.without_attack()), stage, seconds=1.0)
    for stage in ("dmm", "mepd", "akd"):
        finish(load_profile(profile).plus_run(run), stage, seconds=1.0)
    code, text = report(profile, *settings)
    assert code == 0 and rows_of(text, "cells") == ["1 of 1 done"]
    assert rows_of(text, "jobs") == ["5 of 5 done"] and rows_of(text, "time left") == ["none"]
    (run.folder("akd") / "model/model.safetensors").write_bytes(b"0")  # no longer whole
    assert rows_of(report(profile, *settings)[1], "jobs") == ["4 of 5 done; to do: 04_akd 1"]


def record(run, stage="victim", seconds=10.0, **changes):
    config = run.config.flat() | changes.pop("config", {})
    return {"stage": stage, "device": "cpu", "seconds": seconds, "config": config} | changes


def expect(run, stage, records):
    return estimate.expect_seconds(run, stage, list(estimate.measured(records, "cpu")))


def test_the_median_of_what_cost_the_same(profile):
    run = open_run(profile, "toy-sentiment", "badwords", 3)
    other = open_run(profile, "toy-topics", "addsent", 0)
    assert expect(run, "victim", []) is None
    assert expect(run, "victim", [record(other, seconds=50.0)]) == 50.0  # for want of better
    same = [record(run, seconds=seconds) for seconds in (10.0, 14.0, 99.0)]
    assert expect(run, "victim", [record(other, seconds=50.0), *same]) == 14.0
    assert expect(run, "victim", same[:2]) == 12.0
    unlike = [
        record(run, seconds=1.0, device="NVIDIA H200"),
        record(run, seconds=1.0, config={"victim.epochs": 1}),
        record(run, seconds=1.0, config={"victim.model": "tiny-roberta"}),
        record(run, seconds=1.0, config={"data.n_train": 10}),
        record(run, "dmm", seconds=1.0),
    ]
    assert expect(run, "victim", unlike) is None
    assert expect(run, "victim", [*unlike, *same]) == 14.0
    old = record(run, seconds=7.0)
    del old["config"]["victim.max_length"]  # from before there was such a parameter
    assert expect(run, "victim", [old]) == 7.0


def test_what_changes_no_time_does_not_matter(profile):
    run = open_run(profile, "toy-sentiment", "badwords", 3)
    other = open_run(
        profile, "toy-sentiment", "badwords", 3, {"akd.lambda_": 0.9, "dmm.alpha": 1.0}
    )
    akd = record(
        other, "akd", seconds=999.0, seconds_akd=30.0, seconds_dmm=8.0, seconds_scoring=1.0
    )
    assert expect(run, "akd", [akd]) == 30.0 and expect(run, "dmm", [akd]) == 9.0
    defence = record(other, "onion", seconds=3.0, seconds_inference=4.0)
    assert expect(run, "onion", [defence]) == 7.0


def test_reference_records_count_too(profile, tmp_path):
    run = open_run(profile, "toy-sentiment", "badwords", 3)
    folder = tmp_path / "outputs/reference"
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text(json.dumps(record(run)) + "\n")
    assert expect(run, "victim", estimate.read_records()) == 10.0


def test_a_model_that_only_the_hub_has_is_assumed_to_be_a_bert(monkeypatch, tmp_path):
    location = estimate.hub.Location("some/model", "hub", "f" * 40)
    monkeypatch.setattr(estimate.hub, "locate", lambda name, kind: location)
    assert estimate.weights_bytes("some/model", []) == (estimate.ASSUMED_BYTES, False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "1 h 30 min")]
)
def test_times_are_short(seconds, text):
    assert check.show_seconds(seconds) == text


def test_the_shipped_profiles_can_be_looked_through(monkeypatch, outputs, no_network):
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)
    for name in ("laptop", "paper", "released_code"):
        assert check.check_profile(load_profile(name), {}, 2) == 1
    with pytest.raises(BedkdError, match="unknown attack"):
        check.check_profile(load_profile("quick"), {"attack": "nonsense"}, 2)
