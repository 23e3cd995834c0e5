"""D* scored in shards: the scores of one pass, and a job for each."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bedkd.batch.workflow import make_plan
from bedkd.core.config import build
from bedkd.core.errors import BedkdError
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run
from bedkd.runs.plan import plan_jobs
from bedkd.runs.profiles import load_profile
from bedkd.runs.stages.dmm import read_path
from bedkd.runs.sweeps import vary

CONFIG = {
    "data": {"name": "toy-sentiment", "n_train": 150, "n_test": 40, "clean_pool_per_class": 24},
    "victim": {"model": "tiny-bert", "epochs": 2, "learning_rate": 1e-3, "max_length": 32},
    "dmm": {"n_clean_per_class": 16, "epochs": 3, "n_folds": 2, "n_readings": 2, "n_scored": 100},
    "mepd": {"gamma": "auto", "selection": "lean"},
    "akd": {"n_clean_per_class": 16},
    "precision": "fp32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, Run]:
    """In one pass, and in three shards, of 34, 33 and 33 rows."""
    whole = Run(build(CONFIG), tmp_path_factory.mktemp("outputs"))
    parted = vary(whole, {"scan.shards": 3})
    for run in (whole, parted):
        ensure(run, "mepd")
    return whole, parted


def test_the_scores_are_those_of_one_pass(runs):
    """Other rows share a batch, so their last digits differ."""
    whole, parted = (read_path(run) for run in runs)
    assert whole["train"].shape == parted["train"].shape == (2, 2, 100, 2)
    assert list(whole) == list(parted)
    for name in whole:
        np.testing.assert_allclose(parted[name], whole[name], rtol=0, atol=1e-5)
    assert np.ptp(whole["train"], axis=2).min() > 1e-3  # rows that are not alike


def test_what_is_made_of_them_is_the_same(runs):
    tables = [pd.read_parquet(run.folder("mepd") / "train.parquet") for run in runs]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-5)
    records = [run.record("mepd") for run in runs]
    same = ("far_train", "frr_train", "n_flagged", "lean_label")
    assert [[r[name] for name in same] for r in records][0] == [records[1][n] for n in same]


def test_each_shard_is_a_result_of_its_own(runs):
    _, parted = runs
    shards = [replace(parted, config=config) for config in parted.config.shards()]
    assert [shard.record("scan")["n_scored"] for shard in shards] == [34, 33, 33]
    assert parted.record("mepd")["seconds_scoring"] == sum(
        shard.record("scan")["seconds"] for shard in shards
    )
    kept = parted.folder("dmm") / "path"
    assert sorted(path.name for path in kept.iterdir()) == ["0-0", "0-1", "1-0", "1-1"]


def test_without_shards_nothing_more_is_made(runs):
    whole, _ = runs
    assert whole.config.shards() == [] and not (whole.folder("dmm") / "path").exists()
    with pytest.raises(BedkdError, match="scan.shards is 1, so the DMM's own job"):
        ensure(whole, "scan")
    with pytest.raises(BedkdError, match="scan.shard is 2, but scan.shards is 2"):
        vary(whole, {"scan.shards": 2, "scan.shard": 2})


def test_a_batch_scatters_and_gathers(outputs, tmp_path):
    """Each shard is a job after the DMM's, side by side, and MEPD waits for all of them."""
    path = tmp_path / "sharded.yaml"
    path.write_text("extends: quick\nfew_jobs: false\nstudies: []\ndefences: []\n")
    profile = load_profile(str(path))
    overrides = {"dataset": "toy-offence", "attack": "addsent"}
    alone = plan_jobs(profile, overrides)
    overrides |= {"scan.shards": 3}
    jobs = plan_jobs(profile, overrides)
    by = {name: [job for job in jobs if job.notebook == name] for name in ("02_dmm", "03_mepd")}
    (dmm,), (mepd,) = by.values()
    shards = [job for job in jobs if job.notebook == "13_scan"]
    assert len(shards) == 3 and len(jobs) == len(alone) + 3
    assert all(job.needs == (dmm.name,) for job in shards)
    assert set(mepd.needs) == {dmm.name, *(job.name for job in shards)}
    assert [job.parameters["overrides"]["scan.shard"] for job in shards] == [0, 1, 2]
    folders = {run.folder(stage) for job in shards for run, stage in job.results}
    assert len(folders) == 6  # BeDKD's and BeDKD+'s
    plan = make_plan(profile, overrides, jobs, tmp_path)
    assert set(plan["jobs"][mepd.name]["before"]) >= {job.name for job in shards}
