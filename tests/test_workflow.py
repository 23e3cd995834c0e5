"""The batch, for real: Snakemake, papermill and kernels on two small cells."""

import json
import subprocess
import sys
import textwrap
import time

import pytest

from bedkd.errors import BedkdError
from bedkd.profiles import load_profile
from bedkd.records import read_record, stable_part
from bedkd.store import CHAIN
from bedkd.workflow import hold_lock, make_plan

PROFILE = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [none, addsent], seed: [3]}
config:
  data: {n_train: 200, n_test: 60, clean_pool_per_class: 16}
  victim: {epochs: 2}
  dmm: {n_clean_per_class: 16, epochs: 2}
  mepd: {gamma: 0.5, n_poison: 8}
  akd: {n_clean_per_class: 16, cycles: 2, evaluate_every: 1, learning_rate: 1.0e-5}
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "small.yaml"
    path.write_text(textwrap.dedent(PROFILE))
    return path


def reproduce(profile, outputs, *options):
    import os

    environment = os.environ | {"BEDKD_OUTPUTS": str(outputs)}
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile), "--cores", "2"]
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def batch(profile, tmp_path_factory):
    """A finished batch: its outputs folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    result = reproduce(profile, outputs)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("done ") == 2 * len(CHAIN) + 2
    assert "Look at" in result.stdout.splitlines()[-1]
    return outputs


def records(outputs):
    found = {
        path.parent.name: read_record(path.parent) for path in outputs.glob("runs/*/*/record.json")
    }
    return {name: stable_part(record) for name, record in found.items()}


def test_tables_and_figures(batch):
    table = (batch / "small/tables/table1.csv").read_text()
    assert table.startswith("Dataset,Attack,No defence ASR,No defence CACC,BeDKD ASR,BeDKD CACC")
    assert [line.split(",")[1] for line in table.splitlines()[1:]] == [
        "Clean",
        "AddSent",
        "Average",
    ]
    for name in ("gamma_test", "gamma_train", "cycles"):
        for ending in ("png", "pdf"):
            assert (batch / f"small/figures/{name}.{ending}").stat().st_size > 1000


def test_record_fields(batch):
    (path,) = batch.glob("runs/akd/*addsent*/record.json")
    record = json.loads(path.read_text())
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


def test_same_seed_twice_gives_the_same_records(profile, batch, tmp_path):
    assert reproduce(profile, tmp_path, "--set", "attack=addsent").returncode == 0
    first = {name: record for name, record in records(batch).items() if "addsent" in name}
    assert records(tmp_path) == first and len(first) == 5


def test_nothing_to_do(profile, batch):
    started = time.perf_counter()
    result = reproduce(profile, batch)
    assert result.returncode == 0 and "done " not in result.stdout
    assert time.perf_counter() - started < 20


def test_what_is_gone_or_broken_is_made_again_and_nothing_else(profile, batch):
    before = records(batch)
    (record,) = batch.glob("runs/mepd/*none*/record.json")
    record.unlink()
    (weights,) = batch.glob("runs/akd/*addsent*/model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    result = reproduce(profile, batch)
    assert result.returncode == 0 and result.stdout.count("gone or not whole") == 2
    done = sorted(line.split()[1] for line in result.stdout.splitlines() if line.startswith("done"))
    # the notebook after a remade one is executed again too, and finds its result by its key
    assert done == ["03_mepd", "04_akd", "04_akd", "10_tables", "11_figures"]
    assert records(batch) == before


def test_a_changed_parameter_reruns_what_follows_it(profile, batch):
    plans = [
        make_plan(load_profile(str(profile)), changes)["jobs"]
        for changes in ({}, {"dmm.epochs": 3})
    ]
    kept = {name.split("/")[0] for name in set(plans[0]) & set(plans[1])}
    new = {name.split("/")[0] for name in set(plans[1]) - set(plans[0])}
    assert kept == {"01_poisoning", "10_tables", "11_figures"}
    assert new == {"02_dmm", "03_mepd", "04_akd"}


def test_dry_run_makes_nothing(profile, tmp_path):
    result = reproduce(profile, tmp_path, "--dry-run")
    assert result.returncode == 0 and not (tmp_path / "runs").exists()
    assert "run_notebook" in result.stdout + result.stderr


def test_a_failing_cell_stops_no_other_and_says_why(tmp_path):
    rows = ["text,label"] + [f"a fine film number {i},{i % 2}" for i in range(80)]
    (tmp_path / "good.csv").write_text("\n".join(rows))
    rows[5] = ",1"
    (tmp_path / "bad.csv").write_text("\n".join(rows))
    path = tmp_path / "mine.yaml"
    path.write_text(
        textwrap.dedent(PROFILE).replace(
            "toy-sentiment", f"{tmp_path}/good.csv, {tmp_path}/bad.csv"
        )
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
    )
    assert result.returncode == 1
    assert "the text of row 4 is" in result.stderr and "Traceback" not in result.stderr
    done = [line for line in result.stdout.splitlines() if line.startswith("done")]
    assert len(done) == len(CHAIN)  # the other cell, from end to end
    assert not list((tmp_path / "outputs/runs").glob("*/bad-*"))


def test_two_batches_at_once_are_refused(tmp_path):
    with (
        hold_lock(tmp_path),
        pytest.raises(BedkdError, match="another run is at work"),
        hold_lock(tmp_path),
    ):
        pass
