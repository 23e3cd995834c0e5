"""The report: one file, every number with its source, what failed in its place."""

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from bedkd.report.figures import save_figure
from bedkd.report.loading import load_records, name_cell, open_batch
from bedkd.report.overview import compare_cells, describe_verdict
from bedkd.report.page import describe_table, name_table, write_report
from bedkd.report.tables import make_table, make_tables
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
        write_record(batch.profile.plus_run(run), "akd")
        if run.config.attack.name != "none":
            write_record(run, "never_poisoned")
    return batch


def write_record(run, stage):
    c = run.config
    record = name_cell(run) | {
        "defence": {"victim": "none", "akd": c.method}.get(stage, stage),
        "model": c.victim.model,
        "asr": None if c.attack.name == "none" else 50.0 + c.seed,
        "cacc": 90.0 + c.seed,
        "pacc": None if c.attack.name == "none" else 60.0 + c.seed,
        "lfr_target": None if c.attack.name == "none" else 5.0,
        "delta_pacc": None if c.attack.name == "none" else 20.0,
        "n_test_triggered": 300,
        "n_test_triggered_target": 290,
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
    table = make_table("table1", load_records(batch).assign(dataset="sst2"))
    described = describe_table("table1", table)
    clean = next(row for row in described["body"] if row["names"][1] == "Clean")
    heads = [head for head, span in described["head"][0] for _ in range(span)]
    first = clean["cells"][heads.index("No defence") + 1]
    shown = [first[name] for name in ("own", "half_width", "paper", "difference")]
    assert shown == ["93.50", "6.35", "91.97", "+1.53 ✓"]  # 12.706 * 0.707 / sqrt(2)
    assert len(first["links"]) == 2
    assert described["starts"] == [0, 2, 4, 6, 8] and sum(n for _, n in described["head"][0]) == 10
    lost = next(row for row in described["body"] if row["names"][1] == "AddSent")
    assert lost["cells"][heads.index("BeDKD")]["kind"] == "failed"


def test_nothing_is_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path))
    page = write_report("quick").read_text()
    n_jobs = len(plan_jobs(load_profile("quick"), {}))
    assert (
        f"<small>0 of {n_jobs} jobs done" in page
        and '<p class="verdict">Nothing to compare yet: ' in page
        and "No run is finished" in page
        and ">missing<" in page
    )


def test_a_failure_before_it_counts_for_all_that_follow(batch):
    (run,) = (r for r in batch.runs if (r.config.attack.name, r.config.seed) == ("addsent", 4))
    assert batch.state(run, "mepd") == "failed" and batch.state(run, "finetune") == "ok"
    other = replace(batch, makers={})
    assert other.state(run, "mepd") == "missing"


def test_the_first_screen_says_whether_it_works(batch):
    """Sentence and picture stand before any table; a picture that is not there leaves no hole."""
    whole = write_report(batch.profile.path).read_text()
    assert '<p class="verdict">Nothing to compare yet: BeDKD 1 failed.</p>' in whole
    page = write_report(batch.profile.path, {"seed": 3}).read_text()
    verdict = page.index('<p class="verdict">BeDKD+ takes the mean ASR from 53.0% to 53.0% ')
    assert verdict < page.index('<h2 id="table1">') and 'class="overview"' not in page
    save_figure(plt.figure(), batch.folder / "figures/overview")
    page = write_report(batch.profile.path, {"seed": 3}).read_text()
    picture = page.index('<figure class="overview"><img alt=')
    assert verdict < picture < page.index('<h2 id="table1">') and page.count("<figure") == 1


def test_links_to_tables_and_figures_tell_them_apart(batch):
    for name in ("curves-asr-toy", "curves-cacc-toy", "figure4"):
        save_figure(plt.figure(), batch.folder / "figures" / name)
    page = write_report(batch.profile.path).read_text()
    links = dict(re.findall('<a href="#([^"]+)">([^<]+)</a> ', page))
    assert links["curves-asr-toy"] == "One parameter, asr-toy"
    assert links["curves-cacc-toy"] == "One parameter, cacc-toy"
    assert links["figure4"] == "Figure 4" and links["table1"] == "Table 1"


def test_names_of_tables():
    named = {name: name_table(name) for name in ("table4", "robustness", "sweep_temperature_dmm")}
    assert list(named.values()) == ["Table 4", "Robustness", "By T of DMM"]


def test_generated_texts_have_no_marks_on_the_page(batch):
    page = write_report(batch.profile.path).read_text()
    assert not set("✓✗") & set(page) and "toy-sentiment: generated texts" in page


def test_tables_of_a_batch(batch):
    tables = make_tables(batch)
    assert list(tables) == ["table1", "robustness", "detection"]
    heads = list(tables["table1"].numbers().columns.get_level_values(0).unique())
    assert heads == ["No defence", "BeDKD+", "BeDKD", "Never poisoned", "Fine-tuning"]
    robust = tables["robustness"].texts()
    assert robust.loc[("toy-sentiment", "AddSent"), ("BeDKD", "PACC")] == "failed"
    assert robust.loc[("toy-sentiment", "AddSent"), ("BeDKD+", "LFR target")].startswith("5.00")
    assert list(tables["detection"].numbers().xs("AddSent", level="Attack").index) == [
        ("toy-sentiment", "BeDKD+"),
        ("toy-sentiment", "BeDKD"),
    ]
    clean = make_tables(open_batch(batch.profile.path, {"attack": ["none"]}))
    assert list(clean) == ["table1", "detection"]


def test_without_parameters_of_its_own_bedkd_plus_is_no_result(batch):
    """Nor BeDKD's twice, which would look like one more seed."""
    plain = replace(batch, profile=replace(batch.profile, plus={}))
    assert set(load_records(plain).defence) == {"none", "bedkd", "never_poisoned", "finetune"}
    table = make_tables(plain)["table1"]
    cell = table.cells[(table.cells.defence == "bedkd") & (table.cells.attack == "none")]
    assert cell.n.tolist() == [0, 2] and len(cell.sources.iloc[0]) == 2  # ASR, CACC
    verdict = describe_verdict(compare_cells(load_records(plain)))
    assert verdict == "Nothing to compare yet: BeDKD 1 failed."
