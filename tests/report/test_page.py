"""The report: one file, every number with its source, what failed in its place."""

import json
import re
from dataclasses import replace

import pytest

from bedkd.report import loading as summaries
from bedkd.report.loading import load_records, open_batch
from bedkd.report.page import describe_table, write_report
from bedkd.report.tables import make_table

PROFILE = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [none, addsent], seed: [3, 4]}
defences: [finetune]
studies: []
"""


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """A profile whose records are written by hand; one job failed, one was never run."""
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path))
    path = tmp_path / "mine.yaml"
    path.write_text(PROFILE)
    batch = open_batch(str(path))
    for run in batch.runs:
        for stage in ("victim", "akd", "finetune"):
            attack, seed = run.config.attack.name, run.config.seed
            if (attack, seed, stage) == ("addsent", 4, "akd"):
                job = batch.makers[run.folder("dmm")]  # not its own: one before it
                failed = batch.folder / "notebooks" / f"{job.name}.failed"
                failed.parent.mkdir(parents=True)
                failed.write_text("the DMM diverged in epoch 3 <nan>\n")
            elif (attack, seed, stage) != ("none", 4, "finetune"):
                write_record(run, stage)
    return batch


def write_record(run, stage):
    c = run.config
    record = summaries.describe_cell(run) | {
        "defence": {"victim": "none", "akd": "bedkd"}.get(stage, stage),
        "model": c.victim.model,
        "asr": None if c.attack.name == "none" else 50.0 + c.seed,
        "cacc": 90.0 + c.seed,
        "n_train": 2600,
        "n_test": 600,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "seconds": 1.5,
        "commit": "abc123",
        "started_at": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "9.9"},
        "config": c.flat(),
    }
    for name in ("far_test", "frr_test", "far_train", "frr_train"):
        record[name] = None if c.attack.name == "none" else 1.0
    record |= {"n_flagged": 7, "poison_few_purity": 100.0}
    folder = run.folder(stage)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))


def test_states(batch):
    rows = load_records(batch)
    states = {(r.attack, r.seed, r.defence): r.state for r in rows.itertuples()}
    assert states["addsent", 4, "bedkd"] == "failed" and states["none", 4, "finetune"] == "missing"
    assert sum(state == "ok" for state in states.values()) == len(states) - 2


def test_page(batch):
    page = write_report(batch.profile.path).read_text()
    assert (
        page.startswith("<!doctype html>") and "<script src" not in page and "href=http" not in page
    )
    assert "the DMM diverged in epoch 3 &lt;nan&gt;" in page
    failed = re.search(r'<a href="(notebooks/02_dmm/[^"]+\.ipynb)">executed notebook with', page)
    assert failed and "toy-sentiment-addsent-s4" in failed.group(1)


def test_every_link_to_a_record_arrives(batch):
    page = write_report(batch.profile.path).read_text()
    targets = set(re.findall(r'<details id="([^"]+)"', page))
    links = set(re.findall(r'<td[^>]*><a href="#([^"]+)"', page))
    assert links and links <= targets
    for path in re.findall(r'href="\.\./(runs/[^"]+)"', page):
        assert (batch.folder.parent / path).is_file()
    for said in (
        "abc123",
        "torch 9.9",
        "mepd.gamma: 0.1",
        "notebooks/04_akd/toy-sentiment-addsent-s3",
    ):
        assert said in page


def test_a_cell_leads_to_all_its_seeds(batch):
    table = make_table("table1", load_records(batch))
    described = describe_table("table1", table)
    clean = next(row for row in described["body"] if row["names"][1] == "Clean")
    heads = [head for head, span in described["head"][0] for _ in range(span)]
    first = clean["cells"][heads.index("No defence") + 1]
    assert first["own"] == "93.50 ± 6.35" and len(first["links"]) == 2  # 12.706 * 0.707 / sqrt(2)
    assert first["paper"].startswith("91.97 (+1.53 ✓")
    lost = next(row for row in described["body"] if row["names"][1] == "AddSent")
    assert lost["cells"][heads.index("BeDKD")]["kind"] == "failed"


def test_nothing_is_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path))
    page = write_report("quick").read_text()
    assert "0 of 123 jobs done" in page and "No run is finished" in page and ">missing<" in page


def test_a_failure_before_it_counts_for_all_that_follow(batch):
    (run,) = (r for r in batch.runs if (r.config.attack.name, r.config.seed) == ("addsent", 4))
    assert batch.state(run, "mepd") == "failed" and batch.state(run, "finetune") == "ok"
    other = replace(batch, makers={})
    assert other.state(run, "mepd") == "missing"
