"""Where a batch runs: the options of Snakemake's that a place stands for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from bedkd.batch.cluster import (
    FOLDER,
    Place,
    choose_place,
    find_snakefile,
    name_folders,
    plan_gpus,
    settle_compute,
    snakemake_options,
)
from bedkd.batch.gpus import VISIBLE
from bedkd.core import devices
from bedkd.core.errors import BedkdError
from bedkd.core.files import HERE
from bedkd.runs.keys import stage_values
from bedkd.runs.profiles import PROJECT, load_profile

BATCH = Path("/a/batch")
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/config.yaml"))


@pytest.fixture
def mine(tmp_path):
    """A profile of the user's own, with an executor that is part of Snakemake."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/profile.yaml").write_text("executor: local\ncores: 2\n")
    return tmp_path / "mine"


# what cannot be


@pytest.mark.parametrize(
    "options, words",
    [
        ({"cores": 0}, ("--cores is 0", "1 or more")),
        ({"gpus": -1}, ("--gpus is -1", "0 or more")),
        ({"gpus": 1, "jobs_per_gpu": 0}, ("--jobs-per-gpu is 0", "1 or more")),
        ({"jobs_per_gpu": 2}, ("--jobs-per-gpu is 2", "--gpus")),
        ({"cluster": "slrum"}, ("unknown cluster 'slrum'", "kubernetes, slurm", "config.yaml")),
        ({"cluster": "/nowhere"}, ("unknown cluster '/nowhere'", "slurm")),
        ({"cluster": ""}, ("unknown cluster ''", "slurm")),
        ({"cluster": "slurm", "gpus": 1, "jobs_per_gpu": 2}, ("--jobs-per-gpu", "shard")),
    ],
)
def test_bad_places(options, words):
    with pytest.raises(BedkdError) as caught:
        choose_place(**options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "content, word",
    [
        ("executor: [unclosed", "valid YAML"),
        ("- slurm\n", "key: value"),
        ("executor: no-such\n", "executor 'no-such', which is not installed"),
    ],
)
def test_bad_profiles(mine, content, word):
    (mine / "profile.yaml").write_text(content)
    with pytest.raises(BedkdError, match="profile.yaml") as caught:
        choose_place(cluster=str(mine))
    assert word in str(caught.value)


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BedkdError, match="--gpus is 2"):
        plan_gpus(choose_place(gpus=2))


# what Snakemake is told


def test_here():
    assert snakemake_options(choose_place(3), BATCH) == ["--cores", "3"]
    assert choose_place() == Place(cores=os.cpu_count())
    assert plan_gpus(choose_place(3)) == {"resources": {}, "slots": []}
    assert find_snakefile(choose_place(3), BATCH) == PROJECT / "Snakefile"


def test_here_with_gpus(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = choose_place(8, gpus=2, jobs_per_gpu=2)
    assert snakemake_options(place, BATCH) == ["--cores", "8", "--resources", "gpu=4"]
    assert plan_gpus(place) == {"resources": {"gpu": 1}, "slots": ["0", "1", "0", "1"]}


def test_a_folder_of_ones_own(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    monkeypatch.setenv("BEDKD_OUTPUTS", "/scratch")
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)
    place = choose_place(cluster="mine", gpus=2)
    named = ["--workflow-profile", str(mine), "--envvars", "BEDKD_OUTPUTS"]
    assert snakemake_options(place, BATCH) == [*named, "--resources", "gpu=2"]
    assert plan_gpus(place) == {"resources": {"gpu": 1}, "slots": []}  # assigned there
    assert plan_gpus(place, 4)["resources"] == {"gpu": 4}
    options = snakemake_options(choose_place(5, "mine"), BATCH)
    assert options[2:4] == ["--jobs", "5"]


@pytest.mark.parametrize(
    "asked, gpus, settled",
    [
        ({}, 0, ("cpu", "fp32")),
        ({}, 2, ("cuda", "bf16")),
        ({"device": "cuda", "precision": "fp32"}, 0, ("cuda", "fp32")),
        ({"device": "cpu"}, 2, ("cpu", "fp32")),
    ],
)
def test_auto_is_settled_before_jobs_go_to_other_machines(mine, monkeypatch, asked, gpus, settled):
    """A login node without a GPU would name the results otherwise than the nodes that make them."""
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: False)
    profile = replace(load_profile("quick"), config={})
    place = choose_place(cluster=str(mine), gpus=gpus)
    overrides = settle_compute(profile, {"seed": 3} | asked, place)
    assert overrides == {"seed": 3, "device": settled[0], "precision": settled[1]}
    (run, *_) = profile.runs(overrides)
    assert stage_values(run.config, "victim")["device"] == settled[0]
    assert settle_compute(profile, asked, choose_place(3)) == asked  # here, auto is auto


def test_where_files_are_carried(mine):
    """The batch's folder is the storage, and the Snakefile lies in it."""
    (mine / "profile.yaml").write_text("executor: local\ndefault-storage-provider: fs\n")
    place = choose_place(cluster=str(mine))
    options = snakemake_options(place, BATCH)
    assert options[-4:] == ["--directory", "/a/batch", "--default-storage-prefix", "/a/batch"]
    copy = find_snakefile(place, mine)
    assert copy == mine / "Snakefile" and copy.read_bytes() == (PROJECT / "Snakefile").read_bytes()


def test_jobs_find_the_folders_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BEDKD_OUTPUTS", raising=False)
    monkeypatch.setenv("BEDKD_MIRROR", "hub")
    monkeypatch.delenv(HERE, raising=False)
    with name_folders():
        assert os.environ[HERE] == str(tmp_path)
        assert os.environ["BEDKD_OUTPUTS"] == str(PROJECT / "outputs")
        assert os.environ["BEDKD_MIRROR"] == str(tmp_path / "hub")
    assert "BEDKD_OUTPUTS" not in os.environ and os.environ["BEDKD_MIRROR"] == "hub"


def test_a_job_that_cannot_run_says_so_where_the_batch_looks(tmp_path):
    jobs = {"99_nothing/x": {"parameters": {}, "title": "nothing", "source": ""}}
    (tmp_path / "plan.json").write_text(json.dumps({"jobs": jobs, "summaries": {}, "slots": []}))
    command = [sys.executable, "-m", "bedkd.batch.run_job", "plan.json", "99_nothing/x"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "no notebook" in result.stderr
    assert "no notebook" in (tmp_path / "notebooks/99_nothing/x.failed").read_text()


# the profiles of the project, and Snakemake itself


def dry_run(tmp_path, *options):
    """`bedkd reproduce --dry-run` of one small cell."""
    profile = tmp_path / "small.yaml"
    grid = "{dataset: [toy-sentiment], attack: [none], seed: [3]}"
    small = f"grid: {grid}\ndefences: []\nstudies: []\nfew_jobs: false\n"
    profile.write_text(f"extends: quick\n{small}")
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile), "--dry-run", *options]
    environment = os.environ | {"BEDKD_OUTPUTS": str(tmp_path / "outputs")}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_snakemake_takes_a_folder_and_counts_gpus(tmp_path, mine):
    result = dry_run(tmp_path, "--cluster", str(mine), "--gpus", "2")
    assert result.returncode == 0 and "4 of 4 jobs" in result.stdout, result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_short_and_name_their_executor(name):
    text = (FOLDER / name / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["executor"] == name and len(text.splitlines()) < 30


@pytest.mark.cluster
@pytest.mark.parametrize("name", NAMES)
def test_snakemake_takes_the_profile(tmp_path, name):
    result = dry_run(tmp_path, "--cluster", name, "--cores", "3", "--gpus", "1")
    assert result.returncode == 0 and "4 of 4 jobs" in result.stdout, result.stderr


@pytest.mark.skipif(bool(find_spec("snakemake_executor_plugin_slurm")), reason="it is installed")
def test_a_missing_executor_says_what_to_install():
    with pytest.raises(BedkdError, match=r"\.\[cluster\]"):
        choose_place(cluster="slurm")
