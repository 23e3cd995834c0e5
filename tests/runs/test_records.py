"""Records: whole or absent, comparable, and collected line by line."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from bedkd.core.files import write_json, write_text
from bedkd.runs import records
from bedkd.runs.records import collect, environment, read_record, stable_part, to_frame

ROW = {"profile": "p", "dataset": "sst2", "model": "m", "attack": "badwords", "defence": "bedkd"}


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_roundtrip(tmp_path):
    value = {"asr": 1.25, "text": "naïve ☃", "none": None, "list": [1, 2]}
    write_json(tmp_path / "deep" / "record.json", value)
    assert read_record(tmp_path / "deep") == value
    assert "☃" in (tmp_path / "deep" / "record.json").read_text(encoding="utf-8")


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"asr": 1})

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"asr": 2})
    assert read_record(tmp_path) == {"asr": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "record.json", {"asr": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "record.json", {"asr": object()})
    assert read_record(tmp_path) == {"asr": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_text_is_written_beside_its_place_and_then_moved(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watch(source, target):
        seen.append((Path(source).parent, Path(source).read_text(encoding="utf-8")))
        assert not Path(target).exists()
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_text(tmp_path / "a.txt", "whole\n")
    assert seen == [(tmp_path, "whole\n")]
    assert (tmp_path / "a.txt").read_text() == "whole\n"


def test_written_file_can_be_read_by_others(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize("content", [b"", b'{"asr": 1', b"[1, 2]", b"3", b"null", b"\xff\xfe{}"])
def test_unreadable_record_is_no_record(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    assert read_record(tmp_path) is None


def test_missing_record_is_no_record(tmp_path):
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None
    (tmp_path / "record.json").mkdir()
    assert read_record(tmp_path) is None


def test_stable_part_leaves_out_times_and_memory_alone():
    record = ROW | {"asr": 1.0, "seed": 0, "key": "abc", "config": {"seed": 0}}
    volatile = {
        "seconds": 1.0,
        "seconds_dmm": 2.0,
        "seconds_akd": 3.0,
        "started_at": "2025-01-01T00:00:00+00:00",
        "peak_memory_mb": 512.0,
    }
    assert stable_part(record | volatile) == record


def test_stable_part_holds_though_a_history_with_other_times_has_another_size(tmp_path):
    """`files` keeps sizes; that of history.json changes with the digits of its seconds."""
    from bedkd.runs.folders import list_files

    found = []
    for seconds in (0.5, 0.123456789):
        folder = tmp_path / str(seconds)
        write_json(folder / "history.json", [{"epoch": 1, "seconds": seconds, "loss": 0.25}])
        found.append(stable_part(ROW | {"files": list_files(folder), "seconds": seconds}))
    assert found[0] == found[1]


def test_frame_has_one_row_a_record_and_no_nested_column():
    one = ROW | {"seed": 0, "asr": 1.0, "config": {"dmm.alpha": 0.3}, "versions": {"torch": "2"}}
    frame = to_frame([one, ROW | {"seed": 1, "asr": 2.0, "cacc": 90.0}])
    assert frame.seed.tolist() == [0, 1] and frame.asr.tolist() == [1.0, 2.0]
    assert not {"config", "versions"} & set(frame.columns)
    assert frame.cacc.isna().tolist() == [True, False]
    assert to_frame([]).empty


def test_collect_sorts_and_replaces_what_there_was_of_a_profile(tmp_path):
    path = tmp_path / "reference" / "records.jsonl"
    first = [ROW | {"seed": seed, "asr": seed * 1.0} for seed in (2, 0, 1)]
    collect([*first, ROW | {"profile": "other", "seed": 5}], path)
    assert [row["seed"] for row in read_lines(path)] == [5, 0, 1, 2]
    newer = [ROW | {"seed": 1, "asr": 9.0}, ROW | {"seed": 0, "dataset": "agnews", "asr": 3.0}]
    collect(newer, path)
    found = [(row["profile"], row["dataset"], row["seed"]) for row in read_lines(path)]
    assert found == [("other", "sst2", 5), ("p", "agnews", 0), ("p", "sst2", 1)]


@pytest.mark.parametrize("name", ["dataset", "model", "attack", "defence", "seed", "study"])
def test_collect_keeps_cells_apart(tmp_path, name):
    path = tmp_path / "records.jsonl"
    collect([ROW | {"seed": 0}, ROW | {"seed": 0} | {name: "other"}], path)
    assert len(read_lines(path)) == 2


def test_collect_writes_the_same_bytes_in_any_order(tmp_path):
    """So that a diff reads well."""
    rows = [ROW | {"seed": seed, "asr": 1.0} for seed in range(12)]
    collect(rows, tmp_path / "one")
    collect([dict(reversed(row.items())) for row in reversed(rows)], tmp_path / "two")
    collect([], tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_environment_names_versions(monkeypatch):
    import torch

    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["versions"]) == {"python", *records.LIBRARIES}
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 40


def test_what_is_kept_taints_no_record_and_code_does(tmp_path, monkeypatch):
    """`__file__` in a checkout of its own, whose other files the test changes."""
    paths = ("bedkd/records.py", "outputs/reference/records.jsonl")
    for name in paths:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@here"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(records, "__file__", str(tmp_path / paths[0]))
    commit = records._commit()
    assert len(commit) == 40
    (tmp_path / paths[1]).write_text("new")
    assert records._commit() == commit
    (tmp_path / paths[0]).write_text("new")
    assert records._commit() == commit + "+"
