"""A reference is one campaign of one clean commit, and carries results, nothing of the machine."""

import json
import shlex

import matplotlib.pyplot as plt
import pytest

from bedkd.cli import build_parser
from bedkd.core.errors import BedkdError
from bedkd.report import campaign, reference
from bedkd.report.campaign import ABOUT, SCORES, place_run
from bedkd.report.loading import name_cell, open_batch
from bedkd.report.reference import MAX_BYTES, WIDGET, keep_notebook, keep_reference
from bedkd.runs.nested import parse_setting
from bedkd.runs.plan import list_results
from bedkd.runs.profiles import load_profile
from bedkd.runs.records import LIBRARIES

PROFILE = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [addsent], seed: [3, 4]}
defences: [finetune]
studies: []
few_jobs: false
"""
HISTORY = [
    {"epoch": n, "asr": 90.0 / n, "cacc": 90.0, "pacc": 80.0, "lfr_target": 5.0} for n in (1, 2)
]
COMMIT, OTHER = "a" * 40, "b" * 40
ELSEWHERE = tuple((name, "9.9") for name in LIBRARIES)


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A profile of two cells, whose reference is kept in `project/outputs/reference`."""
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(reference, "PROJECT", tmp_path / "project")
    (tmp_path / "mine.yaml").write_text(PROFILE)
    return load_profile(str(tmp_path / "mine.yaml"))


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "project/outputs/reference"


def make_record(run, stage, commit=COMMIT, device="cpu", versions=()) -> dict:
    c = run.config
    record = dict.fromkeys((*ABOUT, *SCORES), 1.0) | name_cell(run)
    return record | {
        "stage": stage,
        "key": run.key(stage),
        "defence": {"victim": "none", "akd": c.method}.get(stage, stage),
        "model": c.victim.model,
        "config": c.flat(),
        "device": device,
        "precision": "float32",
        "versions": dict(versions),
        "commit": commit,
        "asr": 50.0 + c.seed,
        "delta_pacc": 2.0,
        "started_at": "2026-01-01T00:00:00+00:00",
        "files": {"weights": 10},
        **dict.fromkeys(("far_train", "frr_train", "far_test", "frr_test", "n_flagged"), 3.0),
        **dict.fromkeys(("poison_few_purity", "n_test_triggered", "n_test_triggered_target"), 7.0),
    }


def write(run, stage, **more):
    folder = run.folder(stage)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(b"0123456789")
    (folder / "record.json").write_text(json.dumps(make_record(run, stage, **more)))


def finish(profile, skipped=(), **more):
    """All results of the profile, but for the stages `skipped` of seed 4."""
    batch = open_batch(profile.path)
    for run, stage in list_results(batch.jobs):
        if not (run.config.seed == 4 and stage in skipped):
            write(run, stage, **more)
    return batch


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_whole_profile_is_kept(profile, kept):
    batch = finish(profile)
    for folder in (batch.folder / "figures", batch.folder / "notebooks/05_defences"):
        folder.mkdir(parents=True)
    (batch.folder / "figures/figure4.png").write_bytes(b"")
    job = next(job for job in batch.jobs if job.notebook == "05_defences")
    write_notebook(batch.job_file(job, "ipynb"), [])
    said = keep_reference(profile, {})
    assert said == f"Kept in {kept}: 10 records of commit aaaaaaaaa"
    rows = read_lines(kept / "records.jsonl")
    assert {(row["profile"], row["commit"]) for row in rows} == {("mine", COMMIT)}
    assert {row["seed"]: row["victim_key"] for row in rows} == {
        run.config.seed: run.key("victim") for run in batch.runs
    }
    names = ["none", "bedkd", "bedkd_plus", "never_poisoned", "finetune"]
    assert sorted(row["defence"] for row in rows) == sorted(2 * names)
    assert (kept / "figures/mine/figure4.png").exists()
    (notebook,) = (kept / "notebooks/mine").iterdir()
    assert notebook.name == "05_defences-finetune-toy-sentiment-addsent-s3.ipynb"
    assert "53.50" in (kept / "tables/mine/table1.md").read_text()  # of seeds 3 and 4
    assert (kept / "tables/mine/costs.md").exists()
    assert not (kept / "tables/mine/missing.md").exists()


def test_what_is_missing_is_said_with_the_command_that_makes_it(profile, kept):
    batch = finish(profile, skipped=("finetune", "akd"))
    (job,) = (j for j in batch.jobs if j.notebook == "04_akd" and j.parameters["seed"] == 4)
    batch.job_file(job, "failed").parent.mkdir(parents=True)
    batch.job_file(job, "failed").write_text("out of memory\n")
    options = {"seed": [3, 4], "akd.n_counter": 0}
    batch = open_batch(profile.path, options)
    assert "; 3 missing, tables/mine/missing.md has" in keep_reference(profile, options)
    page = (kept / "tables/mine/missing.md").read_text()
    assert page.startswith("3 of 10 results of `mine` are missing.\n")
    assert page.count("toy-sentiment addsent seed") == 1
    assert "| bedkd failed, bedkd_plus failed, finetune |" in page
    command = shlex.split(page.split("`")[-2])
    parsed = build_parser().parse_args(command[1:])
    assert (parsed.command, parsed.profile) == ("reproduce", "mine.yaml")
    (run,) = profile.runs(dict(map(parse_setting, parsed.set)))
    assert run in batch.runs and not run.record("finetune") and run.config.seed == 4
    assert "missing" in (kept / "tables/mine/table1.md").read_text()
    assert len(read_lines(kept / "records.jsonl")) == 7


def test_a_result_without_its_files_is_missing(profile, kept):
    batch = finish(profile)
    (batch.runs[0].folder("finetune") / "weights").unlink()
    assert "9 records" in keep_reference(profile, {})
    assert "| finetune |" in (kept / "tables/mine/missing.md").read_text()


def test_nothing_is_finished(profile, kept):
    with pytest.raises(BedkdError, match="nothing of mine is finished; run `bedkd reproduce mine"):
        keep_reference(profile, {})
    assert not kept.exists()


@pytest.mark.parametrize(("stage", "commit"), [("dmm", f"{OTHER}+"), ("finetune", None)])
def test_a_tree_with_changes_is_refused(profile, kept, stage, commit):
    """Of a stage that no table shows, too: what follows it is made from it."""
    run = finish(profile).runs[0]
    write(run, stage, commit=commit)
    with pytest.raises(BedkdError, match="changes that are in no commit") as caught:
        keep_reference(profile, {})
    assert f"runs/{stage}/{run.folder(stage).name}: " in str(caught.value)
    assert f"commit: {commit or 'none'})" in str(caught.value)
    assert "`bedkd reproduce mine` again from a clean commit" in str(caught.value)
    assert not kept.exists()


def test_several_commits_are_refused(profile, kept):
    run = finish(profile).runs[0]
    write(run, "victim", commit=OTHER)
    with pytest.raises(BedkdError, match="results of 2 commits: ") as caught:
        keep_reference(profile, {})
    assert f"1 of bbbbbbbbb (runs/victim/{run.folder('victim').name}, …)" in str(caught.value)
    assert " of aaaaaaaaa (runs/" in str(caught.value) and not kept.exists()


def test_the_campaign_before_is_replaced(profile, kept):
    """What another profile left stays, and a notebook that is of no job."""
    finish(profile)
    stale = ["tables/mine/table4.md", "figures/mine/figure3.png", "notebooks/mine/02_dmm-x.ipynb"]
    others = ["tables/other/table4.md", "notebooks/mine/12_speed-x.ipynb"]
    for name in (*stale, *others):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).write_text("old")
    lines = [{"profile": name, "study": "seed", "seed": 9} for name in ("mine", "other")]
    (kept / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keep_reference(profile, {})
    assert not any((kept / name).exists() for name in stale)
    assert all((kept / name).read_text() == "old" for name in others)
    rows = read_lines(kept / "records.jsonl")
    assert len(rows) == 11 and [row["profile"] for row in rows].count("other") == 1
    assert [path.name for path in kept.iterdir() if path.name.startswith(".")] == []


def test_a_sweep_with_one_finished_value_is_kept_no_second_time(tmp_path, kept, monkeypatch):
    """The value that the cell has anyway; with two of them all are kept, and their table."""
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(reference, "PROJECT", tmp_path / "project")
    swept = PROFILE.replace("studies: []", "studies: [lambda]\nfocus: [toy-sentiment]")
    (tmp_path / "mine.yaml").write_text(f"{swept}sweeps: {{lambda: [0.3, 0.6]}}\n")
    profile = load_profile(str(tmp_path / "mine.yaml"))
    batch = open_batch(profile.path)
    others = {run.folder("akd") for value, run in batch.sweeps["lambda"] if value == 0.6}
    finished = [pair for pair in list_results(batch.jobs) if pair[0].folder("akd") not in others]
    for run, stage in finished:
        write(run, stage)
    keep_reference(profile, {})
    assert not any(row.get("study") for row in read_lines(kept / "records.jsonl"))
    assert not (kept / "tables/mine/sweep_lambda.md").exists()
    assert "bedkd (lambda 0.6)" in (kept / "tables/mine/missing.md").read_text()
    finish(profile)
    keep_reference(profile, {})
    values = {row["value"] for row in read_lines(kept / "records.jsonl") if row.get("study")}
    assert values == {0.3, 0.6} and (kept / "tables/mine/sweep_lambda.md").exists()


# records made elsewhere


@pytest.fixture
def elsewhere(profile, tmp_path):
    """What a machine with a GPU and other libraries has: the same cells, under other keys."""

    def place(run):
        return place_run(run, tmp_path / "elsewhere", ELSEWHERE)

    return open_batch(profile.path, {"device": "cuda", "precision": "fp32"}, place)


def record_all(batch, **more) -> list[dict]:
    options = {"device": "NVIDIA H200", "versions": ELSEWHERE} | more
    return [make_record(run, stage, **options) for run, stage in list_results(batch.jobs)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_records_made_elsewhere_are_kept(profile, kept, elsewhere, tmp_path):
    records = record_all(elsewhere)
    assert elsewhere.runs[0].key("victim") != profile.runs({})[0].key("victim")
    source = write_lines(tmp_path / "home.jsonl", records)
    plt.rcdefaults()  # as in a shell, where no notebook has set the style
    assert "10 records of commit aaaaaaaaa" in keep_reference(profile, {}, source)
    assert plt.rcParams["figure.constrained_layout.use"]  # else titles run into one another
    rows = read_lines(kept / "records.jsonl")
    assert {row["key"] for row in rows} < {record["key"] for record in records}
    assert all(row["files"] == {"weights": 10} for row in rows)
    table = (kept / "tables/mine/table1.md").read_text()
    assert "53.50" in table and "computed on NVIDIA H200" in table and "missing" not in table
    cells = (kept / "tables/mine/table1_cells.csv").read_text()
    assert f"finetune/{elsewhere.runs[0].folder('finetune').name}" in cells
    assert (kept / "figures/mine/overview.png").exists()
    assert not (tmp_path / "outputs").exists()


def test_run_folders_that_came_home_without_their_weights_will_do(
    profile, kept, elsewhere, tmp_path
):
    for record, (run, stage) in zip(
        record_all(elsewhere), list_results(elsewhere.jobs), strict=True
    ):
        folder = run.folder(stage)
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
        if stage == "akd":
            (folder / "history.json").write_text(json.dumps(HISTORY))
    assert "10 records" in keep_reference(profile, {}, tmp_path / "elsewhere")
    drawn = {path.stem for path in (kept / "figures/mine").iterdir()}
    assert drawn == {"overview", "cycles", "cycles_plus"}  # what the files that came home will do


def test_what_they_lack_is_made_there(profile, kept, elsewhere, tmp_path):
    records = [record for record in record_all(elsewhere) if record["stage"] != "finetune"]
    keep_reference(profile, {}, write_lines(tmp_path / "home.jsonl", records))
    page = (kept / "tables/mine/missing.md").read_text()
    assert page.count("--set device=cuda --set precision=fp32") == 2


@pytest.mark.parametrize(("here", "is_kept"), [(COMMIT, True), (f"{COMMIT}+", False)])
def test_a_record_of_no_checkout_has_the_commit_whose_key_it_has(
    profile, kept, elsewhere, tmp_path, monkeypatch, here, is_kept
):
    monkeypatch.setattr(campaign, "environment", lambda: {"commit": here})
    source = write_lines(tmp_path / "home.jsonl", record_all(elsewhere, commit=None))
    if is_kept:
        keep_reference(profile, {}, source)
        assert {row["commit"] for row in read_lines(kept / "records.jsonl")} == {COMMIT}
    else:
        with pytest.raises(BedkdError, match="changes that are in no commit"):
            keep_reference(profile, {}, source)


def test_another_key_for_a_victim_is_refused(profile, kept, elsewhere, tmp_path):
    records = record_all(elsewhere)
    victims = (record for record in records if record["stage"] == "victim")
    victim = next(record for record in victims if record["attack"] == "addsent")
    source = write_lines(tmp_path / "home.jsonl", [*records, victim | {"key": "0123456789ab"}])
    expected = f"has the key 0123456789ab, but here it is {victim['key']}"
    with pytest.raises(BedkdError, match=expected) as caught:
        keep_reference(profile, {}, source)
    assert str(caught.value).startswith("victim of toy-sentiment addsent seed ")
    source = write_lines(tmp_path / "home.jsonl", [*records, victim | {"seed": 7, "key": "0"}])
    with pytest.raises(BedkdError, match="seed 7 has the key 0, and the profile has no such cell"):
        keep_reference(profile, {}, source)
    assert not kept.exists()


@pytest.mark.parametrize("other", [{"precision": "bfloat16"}, {"versions": {"torch": "8.8"}}])
def test_records_of_two_machines_are_refused(profile, kept, elsewhere, tmp_path, other):
    first, *rest = record_all(elsewhere)
    source = write_lines(tmp_path / "home.jsonl", [first | other, *rest])
    with pytest.raises(BedkdError, match="one victim would have several keys.* of 2 machines"):
        keep_reference(profile, {}, source)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no records"),
        ("{", "line 1 is no record: Expecting"),
        ("[1]", "line 1 is no record: it must be a JSON object"),
        ('{"stage": "mepd"}', "line 1 is no whole record: it has no key, dataset"),
    ],
)
def test_what_is_no_record_is_refused(profile, tmp_path, text, message):
    (tmp_path / "home.jsonl").write_text(text)
    with pytest.raises(BedkdError, match=message):
        keep_reference(profile, {}, tmp_path / "home.jsonl")


def test_scores_are_needed_where_there_is_a_model(profile, elsewhere, tmp_path):
    records = record_all(elsewhere)
    for record in records:
        if record["stage"] in ("finetune", "mepd"):  # which is none
            del record["pacc"]
    source = write_lines(tmp_path / "home.jsonl", records)
    with pytest.raises(BedkdError, match="it has no pacc") as caught:
        keep_reference(profile, {}, source)
    n = next(n for n, record in enumerate(records, 1) if record["stage"] == "finetune")
    assert f"home.jsonl, line {n} is no whole record" in str(caught.value)


def test_a_folder_that_is_not_there(profile, tmp_path):
    with pytest.raises(BedkdError, match="nowhere holds no records; give a JSON Lines file"):
        keep_reference(profile, {}, tmp_path / "nowhere")


# notebooks


def write_notebook(path, outputs):
    metadata = {"papermill": {"input_path": "/home/me/x.ipynb"}, "kernelspec": {"name": "python3"}}
    code = {"cell_type": "code", "metadata": {"papermill": {"duration": 1}}, "outputs": outputs}
    text = {"cell_type": "markdown", "metadata": {"papermill": {}}, "source": ["# title"]}
    path.write_text(json.dumps({"cells": [text, code | {"source": ["1"]}], "metadata": metadata}))


def test_paths_and_bars_are_left_out(tmp_path):
    shown = {"output_type": "display_data", "data": {"text/plain": ["kept"]}}
    write_notebook(
        tmp_path / "in.ipynb", [{"output_type": "display_data", "data": {WIDGET: {}}}, shown]
    )
    keep_notebook(tmp_path / "in.ipynb", tmp_path / "reference/out.ipynb")
    copy = json.loads((tmp_path / "reference/out.ipynb").read_text())
    assert "papermill" not in json.dumps(copy) and copy["metadata"] == {
        "kernelspec": {"name": "python3"}
    }
    assert "outputs" not in copy["cells"][0] and copy["cells"][1]["outputs"] == [shown]


def test_a_notebook_too_large_to_show_is_refused(tmp_path):
    write_notebook(tmp_path / "in.ipynb", [{"data": {"text/plain": "x" * MAX_BYTES}}])
    with pytest.raises(BedkdError, match="at most 1 MB"):
        keep_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
