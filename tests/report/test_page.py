"""The report: one file, every number with its source, what failed in its place."""

import json
import re
from dataclasses import replace

import pytest

from bedkd.report.batch_tables import make_tables
from bedkd.report.loading import load_records, name_cell, open_batch
from bedkd.report.page import describe_table, write_report
from bedkd.report.tables import make_table
from bedkd.runs.plan import plan_jobs, with_hard_loss
from bedkd.runs.profiles import load_profile

PROFILE = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [none, addsent], seed: [3, 4]}
defences: [finetune]
studies: []
few_jobs: false
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
                failed = batch.job_file(job, "failed")
                failed.parent.mkdir(parents=True)
                failed.write_text("the DMM diverged in epoch 3 <nan>\n")
            elif (attack, seed, stage) != ("none", 4, "finetune"):
                write_record(run, stage)
    return batch


def write_record(run, stage):
    c = run.config
    record = name_cell(run) | {
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
    rates = {"far_train": 1.0, "frr_train": 2.0, "far_test": 3.0, "frr_test": 4.0}
    record |= rates if c.attack.name != "none" else dict.fromkeys(rates)
    record |= {"n_flagged": 7, "poison_few_purity": 100.0}
    folder = run.folder(stage)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))


def test_states(batch):
    rows = load_records(batch)
    states = {(r.attack, r.seed, r.defence): r.state for r in rows.itertuples()}
    assert states["addsent", 4, "bedkd"] == "failed" and states["none", 4, "finetune"] == "missing"
    assert sum(state == "ok" for state in states.values()) == len(states) - 2


def test_rates_on_the_training_and_the_test_rows_are_not_mixed_up(batch):
    """From the records to Table 3 and `detection`, and from there to the page."""
    studied = {"studies": ["ablations"], "focus": ["toy-sentiment"]}
    for run in (run for run in batch.runs if run.config.attack.name == "addsent"):
        for variant in (run, with_hard_loss(run)):
            write_record(variant, "mepd")
    for name, seed in (("table3", [3, 4]), ("detection", [3])):  # seed 4's AKD has failed
        table = make_tables(open_batch(batch.profile.path, studied | {"seed": seed}))[name]
        rates = table.numbers().xs("AddSent", level="Attack")[["FAR D*", "FRR D*", "FAR", "FRR"]]
        assert rates.drop_duplicates().to_numpy().tolist() == [[1, 2, 3, 4]]
        described = describe_table(name, table)
        heads = [head for head, _ in described["head"][-1]]
        for row in (row for row in described["body"] if "AddSent" in row["names"]):
            shown = dict(zip(heads, (cell["own"][0] for cell in row["cells"]), strict=True))
            assert "".join(shown[head] for head in rates) == "1234"


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
    n_jobs = len(plan_jobs(load_profile("quick"), {}))
    assert (
        f"<p>0 of {n_jobs} jobs done" in page
        and "No run is finished" in page
        and ">missing<" in page
    )


def test_a_failure_before_it_counts_for_all_that_follow(batch):
    (run,) = (r for r in batch.runs if (r.config.attack.name, r.config.seed) == ("addsent", 4))
    assert batch.state(run, "mepd") == "failed" and batch.state(run, "finetune") == "ok"
    other = replace(batch, makers={})
    assert other.state(run, "mepd") == "missing"
