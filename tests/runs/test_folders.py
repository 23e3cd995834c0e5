"""Folders that are whole or absent."""

from dataclasses import replace

import pytest

from bedkd.core.config import RunConfig
from bedkd.core.files import write_json
from bedkd.runs.folders import Run, is_complete, list_files, publish

BASE = RunConfig()


def test_folder_names_the_cell_and_the_key(tmp_path):
    run = Run(replace(BASE, seed=3), tmp_path)
    folder = run.folder("dmm")
    assert folder == tmp_path / "runs" / "dmm" / f"toy-sentiment-badwords-s3-{run.key('dmm')}"


def test_publish_shows_the_folder_when_it_is_whole(tmp_path):
    target = tmp_path / "runs" / "dmm" / "x"
    with publish(target) as scratch:
        (scratch / "a.txt").write_text("1")
        assert not target.exists() and scratch.parent == target.parent
    assert (target / "a.txt").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_publish_leaves_nothing_after_an_exception(tmp_path, error):
    target = tmp_path / "x"
    with pytest.raises(error), publish(target) as scratch:
        (scratch / "a.txt").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_publish_leaves_the_old_folder_after_an_exception(tmp_path):
    target = tmp_path / "x"
    with publish(target) as scratch:
        (scratch / "a.txt").write_text("old")
    with pytest.raises(ValueError), publish(target) as scratch:
        (scratch / "a.txt").write_text("new")
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (target / "a.txt").read_text() == "old"


def test_publish_replaces_what_was_there(tmp_path):
    for value in ("old", "new"):
        with publish(tmp_path / "x") as scratch:
            (scratch / f"{value}.txt").write_text(value)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new.txt"]


def test_publish_leaves_a_whole_result_where_it_is(finished):
    """Two processes make the same stage: the slower one's copy is dropped, nobody's is pulled."""
    folder = finished.folder("dmm")
    before = folder.stat().st_ino
    with publish(folder) as scratch:
        (scratch / "record.json").write_text("{}")
    assert folder.stat().st_ino == before and finished.record("dmm")["asr"] == 1.0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.fixture
def finished(tmp_path):
    """A run whose DMM stage is done."""
    run = Run(BASE, tmp_path)
    with publish(run.folder("dmm")) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"0123456789")
        (folder / "history.json").write_text("[]")
        write_json(folder / "record.json", {"asr": 1.0, "files": list_files(folder)})
    return run


def test_files_are_listed_with_their_sizes(finished):
    assert list_files(finished.folder("dmm")) == {"history.json": 2, "model/weights": 10}


def test_finished_stage_has_a_record(finished):
    assert finished.record("dmm")["asr"] == 1.0
    assert finished.record("akd") is None
    assert replace(finished, config=replace(BASE, seed=1)).record("dmm") is None


@pytest.mark.parametrize("damage", ["cut", "longer", "missing", "folder"])
def test_damaged_file_undoes_the_record(finished, damage):
    folder = finished.folder("dmm")
    record = finished.record("dmm")
    file = folder / "model" / "weights"
    if damage in ("cut", "longer"):
        file.write_bytes(b"0" * (9 if damage == "cut" else 11))
    else:
        file.unlink()
    if damage == "folder":
        file.mkdir()
    assert not is_complete(folder, record)
    assert finished.record("dmm") is None


def test_of_another_machines_results_the_record_is_enough(finished):
    """Under its own key, which its libraries are in."""
    other = replace(finished, libraries=(("torch", "9.9"),))
    assert other.key("dmm") != finished.key("dmm") and other.record("dmm") is None
    finished.folder("dmm").rename(other.folder("dmm"))
    (other.folder("dmm") / "model" / "weights").unlink()
    assert other.record("dmm")["asr"] == 1.0


def test_record_that_cannot_be_read_undoes_the_stage(finished):
    (finished.folder("dmm") / "record.json").write_text('{"asr": 1')
    assert finished.record("dmm") is None
