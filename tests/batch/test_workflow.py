"""The batch, for real: Snakemake, papermill and kernels on two small cells."""

import base64
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest

from bedkd.batch import run_job as run_job_module
from bedkd.batch import workflow
from bedkd.batch.run_job import job_file
from bedkd.batch.workflow import describe_jobs, digest_results, hold_lock, make_plan, note_lost_jobs
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.runs.plan import plan_jobs
from bedkd.runs.profiles import PROJECT, load_profile
from bedkd.runs.records import read_record, stable_part
from bedkd.runs.stages import CHAIN, STAGES

PROFILE = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [none, addsent], seed: [3]}
defences: [finetune]
studies: [n_poison]
few_jobs: false
focus: [toy-sentiment]
sweeps: {n_poison: [4, 8]}
config:
  data: {n_train: 200, n_test: 60, clean_pool_per_class: 16}
  victim: {epochs: 2}
  dmm: {n_clean_per_class: 16, epochs: 2}
  mepd: {gamma: 0.5, n_poison: 8}
  akd: {n_clean_per_class: 16, cycles: 2, evaluate_every: 1, learning_rate: 1.0e-5}
plus: {dmm: {epochs: 2}, akd: {cycles: 2, learning_rate: 1.0e-5}}
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "small.yaml"
    path.write_text(textwrap.dedent(PROFILE))
    return path


def reproduce(profile, outputs, *options, variables=None, **how):
    environment = os.environ | {"BEDKD_OUTPUTS": str(outputs)} | (variables or {})
    environment |= {"PYTHONUNBUFFERED": "1"}  # a text and its newline are two writes
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile), "--cores", "2"]
    how |= {"env": environment, "capture_output": True, "text": True}
    return subprocess.run([*command, *options], **how)


@pytest.fixture(scope="module")
def batch(profile, tmp_path_factory):
    """A finished batch: its outputs folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    result = reproduce(profile, outputs)
    assert result.returncode == 0, result.stdout + result.stderr
    # the chain and a rival of two cells, a sweep of the attacked one, two summaries
    n_jobs = 2 * (len(CHAIN) + 1) + 1 + 2
    said = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("[")]
    assert said == [f"[{n}/{n_jobs}]" for n in range(1, n_jobs + 1)]
    assert len(ended(result)) == n_jobs
    assert " left\n" in result.stdout
    assert "Look at" in result.stdout.splitlines()[-1]
    return outputs


def ended(result, how="done"):
    """The notebooks that the batch says have ended so."""
    return re.findall(rf"^\[\d+/\d+\] +{how} +(\S+) .+$", result.stdout, re.MULTILINE)


def records(outputs):
    found = {
        path.parent.name: read_record(path.parent) for path in outputs.glob("runs/*/*/record.json")
    }
    return {name: stable_part(record) for name, record in found.items()}


def find_result(outputs, stage, attack):
    """Of the cell itself, not of the sweep's other point."""
    for path in outputs.glob(f"runs/{stage}/*{attack}*/record.json"):
        if json.loads(path.read_text())["config"]["mepd.n_poison"] == 8:
            return path.parent
    raise AssertionError(f"no {stage} of {attack}")


def tables(outputs):
    """Every table's numbers."""
    files = sorted((outputs / "small/tables").glob("*.csv"))
    return {path.name: path.read_text() for path in files if path.name != "costs.csv"}


def test_tables_and_figures(batch):
    table = (batch / "small/tables/table1.csv").read_text()
    heads = ["No defence", "BeDKD+", "BeDKD", "Never poisoned", "Fine-tuning"]
    columns = [f"{head} {metric}" for head in heads for metric in ("ASR", "CACC")]
    assert table.startswith(",".join(["Dataset", "Attack", *columns]))
    assert [line.split(",")[1] for line in table.splitlines()[1:]] == [
        "Clean",
        "AddSent",
        "Average",
    ]
    curves = "curves-asr-toy-sentiment-addsent"
    for name in ("figure3", "figure4", "figure4_train", "cycles", curves):
        for ending in ("png", "pdf"):
            assert (batch / f"small/figures/{name}.{ending}").stat().st_size > 1000


def test_record_fields(batch):
    record = json.loads((find_result(batch, "akd", "addsent") / "record.json").read_text())
    names = [
        "dataset",
        "attack",
        "model",
        "defence",
        "seed",
        "target_label",
        "poison_rate",
        "label_mode",
        "n_train",
        "n_test",
        "n_test_triggered",
        "asr",
        "cacc",
        "far_train",
        "frr_train",
        "far_test",
        "frr_test",
        "n_flagged",
        "poison_few_purity",
        "config",
        "key",
        "seconds",
        "peak_memory_mb",
        "device",
        "versions",
        "commit",
        "started_at",
    ]
    assert not set(names) - set(record)
    assert record["defence"] == "bedkd" and 0 <= record["asr"] <= 100 and record["n_train"] == 200
    assert record["config"]["mepd.gamma"] == 0.5


def test_nothing_to_do(profile, batch):
    result = reproduce(profile, batch)
    assert result.returncode == 0 and not ended(result)


def test_what_is_gone_or_broken_is_made_again_and_nothing_else(profile, batch):
    before = records(batch)
    (find_result(batch, "mepd", "none") / "record.json").unlink()
    weights = find_result(batch, "akd", "addsent") / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = reproduce(profile, batch)
    assert result.returncode == 0 and result.stdout.count("gone or not whole") == 2
    # the sweep shares a point with the broken cell
    expected = ["03_mepd", "04_akd", "07_sensitivity", "10_tables", "11_figures"]
    assert sorted(ended(result)) == expected
    assert records(batch) == before


FIRST_RERUN = [  # a changed value, and the notebook that it reruns with all that follow
    ({"data.n_train": 220}, "01_poisoning"),
    ({"seed": 4}, "01_poisoning"),
    ({"attack.trigger": "no cross, no crown"}, "01_poisoning"),
    ({"attack.poison_rate": 0.1}, "01_poisoning"),
    ({"dmm.alpha": 0.4}, "02_dmm"),
    ({"mepd.gamma": 0.4}, "03_mepd"),
    ({"akd.lambda_": 0.4}, "04_akd"),
]
CHAIN_NOTEBOOKS = ("01_poisoning", "02_dmm", "03_mepd", "04_akd")


def test_long_jobs_and_those_before_them_come_first(profile, tmp_path):
    loaded = load_profile(str(profile))
    jobs = make_plan(loaded, {}, plan_jobs(loaded, {}), tmp_path)["jobs"]
    ranks = {name.rsplit("-", 1)[0]: job["priority"] for name, job in jobs.items()}
    first = ["07_sensitivity/n_poison-toy-sentiment-addsent-s3"]
    first += [f"{STAGES[stage].notebook}/toy-sentiment-addsent-s3" for stage in reversed(CHAIN)]
    expected = {name: rank for rank, name in enumerate(first, start=1)}
    # AKD waits for the victim without an attack, which its numbers are held against
    expected["01_poisoning/toy-sentiment-none-s3"] = expected["04_akd/toy-sentiment-addsent-s3"] + 1
    assert {name: rank for name, rank in ranks.items() if rank} == expected


def test_few_jobs_are_a_kernel_for_each_cell(profile, tmp_path):
    loaded = replace(load_profile(str(profile)), few_jobs=True)
    jobs = plan_jobs(loaded, {})
    plan = make_plan(loaded, {}, jobs, tmp_path)["jobs"]
    groups = [job["members"] for job in plan.values() if "members" in job]
    assert [name for members in groups for name in members] == [job.name for job in jobs]
    assert [{plan[name]["title"].split()[1] for name in members} for members in groups] == [
        {"none"},
        {"addsent"},
    ]
    for members in groups:
        assert plan[members[-1]]["members"] == members and plan[members[-1]]["before"] == []


def test_a_member_to_be_run_takes_its_kernels_last_along(profile, tmp_path, monkeypatch):
    """For that one is Snakemake's job; all others of the kernel are left alone."""
    loaded = replace(load_profile(str(profile)), few_jobs=True)
    jobs = plan_jobs(loaded, {"attack": "addsent"})
    monkeypatch.setattr(workflow, "find_todo", lambda jobs, folder: {jobs[1].name})
    plan = make_plan(loaded, {}, jobs, tmp_path)["jobs"]
    assert [name for name, job in plan.items() if job["is_todo"]] == [jobs[1].name, jobs[-1].name]


def test_a_failing_notebook_stops_none_that_shares_its_kernel(tmp_path, monkeypatch):
    def execute(name, parameters, output, kernel):
        if name == "a":
            raise BedkdError("no such file")

    monkeypatch.setattr(run_job_module, "execute", execute)
    spec = {"parameters": {}, "source": "x", "is_todo": True}
    jobs = {"a/x": spec, "b/x": spec | {"is_todo": False}, "c/x": spec}
    jobs["c/x"] = spec | {"members": list(jobs)}
    write_json(tmp_path / "plan.json", {"jobs": jobs, "summaries": {}, "slots": []})
    assert run_job_module.run_job(tmp_path / "plan.json", "c/x") == 0
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("notebooks/*/*")]
    assert sorted(left) == ["notebooks/a/x.failed", "notebooks/c/x.done"]


def test_a_finished_job_that_snakemake_calls_incomplete_is_run_again(profile, batch):
    """Killed between a job's stamp and Snakemake's note of its end, a batch leaves this: the plan
    has nothing to do in that job, Snakemake takes its stamp away and wants it run."""
    folder = batch / "small"
    plan = json.loads((folder / "plan.json").read_text())
    done, again = (name for name, job in plan["jobs"].items() if job["title"].endswith("finetune"))
    stamp = job_file(folder, done, "done")
    incomplete = base64.b64encode(str(stamp.relative_to(folder)).encode()).decode()
    (folder / ".snakemake/incomplete" / incomplete).touch()
    job_file(folder, again, "done").unlink()  # so that Snakemake is called at all
    result = reproduce(profile, batch)
    assert result.returncode == 0, result.stdout + result.stderr
    assert stamp.exists() and len(ended(result)) == 1


def follow(first):
    """The notebooks from `first` on; the rival follows the victim, the sweep every stage."""
    rest = CHAIN_NOTEBOOKS[CHAIN_NOTEBOOKS.index(first) :]
    rival = ("05_defences",) if first == "01_poisoning" else ()
    return {*rest, *rival, "07_sensitivity"}


@pytest.mark.parametrize(("changes", "first"), FIRST_RERUN)
def test_a_changed_value_reruns_what_follows_it_and_nothing_else(profile, changes, first):
    """A job of another name, or from another notebook, is run; any other is done already."""
    loaded, only = load_profile(str(profile)), {"attack": ["addsent"]}
    before, after = (describe_jobs(plan_jobs(loaded, only | c)) for c in ({}, changes))
    rerun = {
        name for name, job in after.items() if before.get(name, {}).get("source") != job["source"]
    }
    assert {name.split("/")[0] for name in rerun} == follow(first)
    kept = {name.rsplit("-", 1)[0] for name in set(after) - rerun}
    clean = "01_poisoning/toy-sentiment-none-s3"
    is_clean_kept = first != "01_poisoning" or next(iter(changes)).startswith("attack.")
    assert (clean in kept) == is_clean_kept  # the victim that never saw poison knows no attack
    kept = {name.split("/")[0] for name in kept - {clean}}
    assert kept == {*CHAIN_NOTEBOOKS, "05_defences"} - follow(first)


@pytest.fixture
def project(tmp_path):
    """A copy of the sources, to be edited."""
    for name in ("bedkd", "notebooks", "params"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    shutil.copy(PROJECT / "Snakefile", tmp_path)
    return tmp_path


def to_do(project, profile, outputs):
    """The notebooks that a batch with the project's sources would run."""
    environment = {"PYTHONPATH": str(project), "BEDKD_OUTPUTS": str(outputs)}
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile), "--dry-run"]
    result = subprocess.run(
        command, cwd=project, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = [line.split()[2] for line in result.stdout.splitlines() if "would run" in line]
    return sorted(found)


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_changed_line_reruns_what_it_is_part_of_and_nothing_else(project, profile, batch):
    assert to_do(project, profile, batch) == []
    akd = "bedkd/method/akd.py"
    edit(project / akd, "COLLAPSE_PATIENCE = 3", "COLLAPSE_PATIENCE = 4")
    assert to_do(project, profile, batch) == ["04_akd", "04_akd", "07_sensitivity"]
    shutil.copy(PROJECT / akd, project / akd)
    edit(project / "notebooks/03_mepd.ipynb", "set_style()", "set_style()  ")
    assert to_do(project, profile, batch) == ["03_mepd"] * 2


def test_all_edited_notebooks_of_a_chain_are_executed_again(project, profile, batch, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(batch, outputs)
    for name in ("02_dmm", "03_mepd", "07_sensitivity"):
        edit(project / f"notebooks/{name}.ipynb", "set_style()", "set_style()  # edited")
    result = reproduce(profile, outputs, cwd=project, variables={"PYTHONPATH": str(project)})
    assert result.returncode == 0, result.stderr
    # and the summaries, whose results are the same, are not
    assert sorted(ended(result)) == ["02_dmm"] * 2 + ["03_mepd"] * 2 + ["07_sensitivity"]
    for path in outputs.glob("small/notebooks/0[237]_*/*.ipynb"):
        assert "# edited" in path.read_text()
    assert records(outputs) == records(batch)


def test_tables_follow_the_papers_numbers_and_a_failures_reason(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path))
    numbers = tmp_path / "paper_tables.yaml"
    numbers.write_text("table1: 91.97")
    monkeypatch.setattr(workflow, "SUMMARY_FILES", (numbers,))
    loaded = load_profile(str(profile))
    jobs = plan_jobs(loaded, {})
    plan = make_plan(loaded, {}, jobs, tmp_path)

    def digest():
        return digest_results(loaded, jobs, plan, tmp_path)

    first = digest()
    numbers.write_text("table1: 91.79")
    corrected = digest()
    failed = job_file(tmp_path, jobs[0].name, "failed")
    failed.parent.mkdir(parents=True)
    failed.write_text("out of memory")
    one = digest()
    failed.write_text("no such file")
    assert len({first, corrected, one, digest()}) == 4


# what is under way when the whole process tree is killed: a file that has just appeared
MOMENTS = (
    "small/plan.json",
    "small/notebooks/01_poisoning/*.ipynb",
    "runs/victim/.*",
    "small/notebooks/02_dmm/*.ipynb",
    "runs/dmm/.*",
    "small/notebooks/03_mepd/*.ipynb",
    "runs/akd/.*",
    "small/notebooks/07_sensitivity/*.ipynb",
    "small/notebooks/10_tables/*.ipynb",
    "small/tables/table1.csv",
)


def kill_when(profile, outputs, moment):
    """Start the batch, and kill -9 all of its processes as soon as `moment` is there anew."""
    started = time.time()
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile), "--cores", "2"]
    command += ["--set", "attack=addsent"]
    environment = os.environ | {"BEDKD_OUTPUTS": str(outputs)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as batch:
        while not any(path.stat().st_mtime >= started - 0.1 for path in existing(outputs, moment)):
            assert batch.poll() is None, f"the batch ended before {moment} was there"
            time.sleep(0.005)
        kill_all(outputs)


def kill_all(outputs):
    """kill -9 every process of the batch that writes to `outputs`, also one whose parent is gone
    or that is begun while the others are killed. At the instant of its exec a process has no
    environment to be known by, so it ends when none is found twice.
    """
    looks_in_vain = 0
    while looks_in_vain < 2:
        processes = [process for process in psutil.process_iter() if is_of(process, outputs)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        looks_in_vain = 0 if processes else looks_in_vain + 1
        time.sleep(0.02)


def is_of(process, outputs):
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.environ().get("BEDKD_OUTPUTS") == str(outputs)
    return False


def existing(outputs, pattern):
    return [path for path in outputs.glob(pattern) if path.exists()]


@pytest.mark.slow
def test_killed_at_any_of_ten_moments_it_ends_as_if_undisturbed(profile, batch, tmp_path):
    assert len(MOMENTS) == 10
    n_kills = int(os.environ.get("BEDKD_KILLS", len(MOMENTS)))  # fewer where minutes are short
    step = len(MOMENTS) // n_kills
    for moment in MOMENTS[step // 2 :: step]:
        kill_when(profile, tmp_path, moment)
        whole = [path for path in tmp_path.glob("runs/*/[!.]*/") if read_record(path)]
        assert len(whole) == len(list(tmp_path.glob("runs/*/[!.]*/")))  # nothing half there
    result = reproduce(profile, tmp_path, "--set", "attack=addsent")
    assert result.returncode == 0, result.stdout + result.stderr
    # what was done stays done: the kills came in the order of the work
    assert "01_poisoning" not in result.stdout and "02_dmm" not in result.stdout
    undisturbed, own = records(batch), records(tmp_path)
    # with data and victim of the cell without an attack, which the others are held against
    assert own == {n: r for n, r in undisturbed.items() if n in own}
    assert {n for n in undisturbed if "addsent" in n} <= own.keys()
    for name, text in tables(tmp_path).items():
        rows = [line for line in text.splitlines() if "AddSent" in line]
        assert rows == [line for line in tables(batch)[name].splitlines() if "AddSent" in line]
    assert "AddSent" in tables(tmp_path)["table1.csv"]


def test_while_the_snakemake_of_a_killed_batch_lives_another_is_refused(profile, tmp_path):
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile), "--cores", "1"]
    environment = os.environ | {"BEDKD_OUTPUTS": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as batch:
        while not existing(tmp_path, "small/notebooks/01_poisoning/*.ipynb"):
            assert batch.poll() is None
            time.sleep(0.05)
        batch.kill()
    refused = reproduce(profile, tmp_path)
    assert refused.returncode == 2 and "another run is at work" in refused.stderr
    kill_all(tmp_path)
    assert reproduce(profile, tmp_path, "--dry-run").returncode == 0


@pytest.mark.slow
def test_a_full_disk_is_said_and_loses_nothing(profile, batch, tmp_path):
    """The limit on a file's size stands for a quota: weights are over it, records are not."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    options = ["--set", "attack=addsent", "--set", "studies=[]", "--set", "defences=[]"]
    result = reproduce(profile, tmp_path, *options, preexec_fn=limit)
    assert result.returncode == 1
    assert "no space left while writing" in result.stderr and "run again" in result.stderr
    assert not list(tmp_path.glob("runs/victim/*"))
    assert (tmp_path / "small/report.html").exists()
    assert reproduce(profile, tmp_path, *options).returncode == 0
    theirs = records(batch)
    assert all(theirs[name] == record for name, record in records(tmp_path).items())


def test_dry_run_makes_nothing(profile, tmp_path):
    result = reproduce(profile, tmp_path, "--dry-run")
    assert result.returncode == 0 and not (tmp_path / "runs").exists()
    lines = result.stdout.splitlines()
    assert lines.count("would run  04_akd         toy-sentiment addsent seed 3") == 1
    assert len([line for line in lines if line.startswith("would run")]) == 2 * (len(CHAIN) + 1) + 1


def test_a_failing_cell_stops_no_other_and_says_why(tmp_path):
    rows = ["text,label"] + [f"a fine film number {i},{i % 2}" for i in range(80)]
    (tmp_path / "good.csv").write_text("\n".join(rows))
    rows[5] = ",1"
    (tmp_path / "bad.csv").write_text("\n".join(rows))
    path = tmp_path / "mine.yaml"
    path.write_text(
        # the files are named from where the batch is started
        textwrap.dedent(PROFILE).replace("toy-sentiment", "good.csv, bad.csv")
    )
    result = reproduce(
        path,
        tmp_path / "outputs",
        "--set",
        "attack=addsent",
        "--set",
        "data.clean_pool_per_class=8",
        "--set",
        "dmm.n_clean_per_class=8",
        "--set",
        "akd.n_clean_per_class=8",
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "the text of row 4 is" in result.stderr and "Traceback" not in result.stderr
    jobs = ended(result)
    assert jobs.count("10_tables") == jobs.count("11_figures") == 1
    # the other cell from end to end with its victim without an attack, its rival and its sweep, and
    # the summaries
    assert len(jobs) == len(CHAIN) + 1 + 2 + 2
    report = (tmp_path / "outputs/mine/report.html").read_text()
    assert "failed" in report and "the text of row 4 is" in report
    table = (tmp_path / "outputs/mine/tables/table1.md").read_text()
    assert "failed" in next(line for line in table.splitlines() if "bad.csv" in line)
    assert not list((tmp_path / "outputs/runs").glob("*/bad-*"))


def test_a_job_that_ended_without_a_word_is_lost(tmp_path):
    jobs = {"a": [], "b": [], "c": ["a"], "d": ["b"], "e": []}
    plan = {"jobs": {name: {"needs": needs} for name, needs in jobs.items()}}
    for name in ("a.done", "e.failed"):
        path = job_file(tmp_path, *name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("its own words")
    note_lost_jobs(plan, list(jobs), tmp_path)
    said = {path.name: path.read_text() for path in (tmp_path / "notebooks").glob("*.failed")}
    assert set(said) == {"b.failed", "c.failed", "e.failed"}  # d waits for b
    assert "killed" in said["c.failed"] and said["e.failed"] == "its own words"


def test_two_batches_at_once_are_refused(tmp_path):
    with (
        hold_lock(tmp_path),
        pytest.raises(BedkdError, match="another run is at work"),
        hold_lock(tmp_path),
    ):
        pass
