"""The chain of stages on a small run: records, reuse, and a defender who sees no truth."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bedkd.core.files import write_json
from bedkd.data import splits
from bedkd.report.loading import load_scores
from bedkd.report.one_run import (
    compare_predictions,
    compare_selections,
    load_poison_few,
    load_poisoned,
)
from bedkd.runs.ensure import ensure, load_truth, load_view
from bedkd.runs.folders import Run, list_files
from bedkd.runs.profiles import open_run
from bedkd.runs.reading import read_history, read_model
from bedkd.runs.records import stable_part
from bedkd.runs.stages import akd, data, dmm, mepd

SMALL = {
    "data.n_train": 240,
    "data.n_test": 80,
    "data.clean_pool_per_class": 16,
    "victim.epochs": 24,
    "victim.learning_rate": 2e-3,
    "dmm.n_clean_per_class": 16,
    "dmm.epochs": 3,
    "mepd.gamma": 0.5,
    "mepd.n_poison": 8,
    "akd.n_clean_per_class": 16,
    "akd.cycles": 3,
    "akd.evaluate_every": 2,
    "akd.learning_rate": 1e-4,
}


def make_run(root, attack="addsent", **changes):
    run = open_run("quick", "toy-topics", attack, 1, SMALL | changes)
    return Run(run.config, root)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("outputs"))
    ensure(run, "akd")
    return run


def test_records_of_all_stages(run):
    victim, clean = ensure(run, "victim"), ensure(run, "akd")
    assert (victim["defence"], clean["defence"]) == ("none", "bedkd")
    assert victim["n_train"] == 240 and victim["n_poisoned"] == 48 and victim["n_test"] == 80
    assert clean["n_clean"] == 64 and clean["n_poison"] == ensure(run, "mepd")["n_selected"]
    assert clean["seconds"] == pytest.approx(
        clean["seconds_dmm"] + clean["seconds_scoring"] + clean["seconds_akd"]
    )
    assert victim["config"]["akd.cycles"] == 3 and victim["target_label"] == 1


def test_asr_and_cacc_are_those_of_the_saved_model(run):
    truth, model = load_truth(run), read_model(run, "akd")
    assert set(truth.test_triggered.label) == {0, 2, 3}
    clean = model.predict(list(truth.test_clean.text)).argmax(axis=1)
    triggered = model.predict(list(truth.test_triggered.text)).argmax(axis=1)
    record = ensure(run, "akd")
    assert record["cacc"] == pytest.approx(100 * np.mean(clean == truth.test_clean.label))
    assert record["asr"] == pytest.approx(100 * np.mean(triggered == 1))


def test_metrics_are_read_no_oftener_than_a_tenth_of_the_run_pays_for(run):
    """140 test rows or so against 72 rows a cycle: not within these three cycles."""
    history, victim = read_history(run, "akd"), ensure(run, "victim")
    assert list(history.epoch) == [0, 1, 2, 3]
    assert list(history.asr.notna()) == [True, False, False, True]
    assert (history.asr[0], history.cacc[0]) == (victim["asr"], victim["cacc"])


def test_a_finished_stage_is_not_made_again(run, monkeypatch):
    monkeypatch.setattr("bedkd.runs.ensure.make", None)
    assert ensure(run, "akd")["stage"] == "akd"


def test_far_and_frr_are_counted_on_the_truth_of_their_own_rows(run):
    """By hand from what the models said; a γ at which all four differ, so that none stands in for
    another."""
    truth, record = load_truth(run), dict(ensure(run, "mepd"))
    victim, student = (run.folder(name) for name in ("victim", "dmm"))
    d_star = [np.load(folder / "train_probabilities.npy") for folder in (victim, student)]
    tests = [np.load(folder / "test_probabilities.npz") for folder in (victim, student)]

    def moved(before, after):
        return np.abs(before.astype(float) - after).mean(axis=1)

    is_poisoned = truth.train.is_poisoned.to_numpy()
    parts = {
        "far_train": moved(*d_star)[is_poisoned],
        "frr_train": moved(*d_star)[~is_poisoned],
        "far_test": moved(*(test["triggered"] for test in tests)),
        "frr_test": moved(*(test["clean"] for test in tests)),
    }
    assert record["far_train"] == pytest.approx(100 * np.mean(parts["far_train"] >= 0.5))
    assert record["n_flagged"] == int((moved(*d_star) < 0.5).sum())
    assert len(load_scores(run, "test")) == 80 + len(truth.test_triggered)
    gamma = float(np.median(np.concatenate(list(parts.values()))))
    expected = {
        name: 100 * np.mean(scores >= gamma if name.startswith("far") else scores < gamma)
        for name, scores in parts.items()
    }
    assert len(set(expected.values())) == 4
    few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    found = mepd.describe_detection(truth, moved(*d_star), mepd.score_tests(run), few, gamma)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_view_opens_no_truth(run, tmp_path):
    copy = Run(run.config, tmp_path)
    shutil.copytree(run.root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(copy.folder("data") / "truth")
    view = load_view(copy)
    assert list(view.train.columns) == list(view.clean_pool.columns) == ["text", "label"]
    assert view.victim_probabilities.shape == (240, 4)


def test_a_false_truth_changes_no_defence(run, tmp_path):
    """All that the defence makes is the same to the byte when the truth it may not see is a lie."""
    liar = Run(run.config, tmp_path)
    for stage in ("data", "victim"):
        shutil.copytree(run.folder(stage), liar.folder(stage))
    folder = liar.folder("data") / "truth"
    train = pd.read_parquet(folder / "train.parquet")
    train.assign(is_poisoned=train.is_poisoned.to_numpy()[::-1]).to_parquet(
        folder / "train.parquet"
    )
    clean = pd.read_parquet(folder / "clean.parquet")
    clean.assign(label=(clean.label + 1) % 4).to_parquet(folder / "clean.parquet")
    # sizes changed, and a stage that is not whole would be made again: say that it is whole
    record = ensure(run, "data")
    write_json(
        liar.folder("data") / "record.json", record | {"files": list_files(liar.folder("data"))}
    )
    ensure(liar, "akd")
    for stage, name in (
        ("dmm", "model/model.safetensors"),
        ("dmm", "train_probabilities.npy"),
        ("mepd", "poison_few.parquet"),
        ("akd", "model/model.safetensors"),
    ):
        ours, theirs = (r.folder(stage) / name for r in (run, liar))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert ensure(liar, "akd")["cacc"] != ensure(run, "akd")["cacc"]


def test_same_seed_twice_gives_the_same_record(run, tmp_path):
    again = Run(run.config, tmp_path)
    for stage in ("data", "victim", "dmm", "mepd", "akd"):
        assert stable_part(ensure(again, stage)) == stable_part(ensure(run, stage))


def test_without_an_attack_there_is_no_asr(tmp_path):
    run = make_run(tmp_path, attack="none", **{"mepd.gamma": 1.0})
    record = ensure(run, "akd")
    assert record["asr"] is None and record["far_train"] is None and record["cacc"] > 0
    assert record["n_poisoned"] == 0 and record["poison_few_purity"] == 0


def test_nothing_flagged_is_plain_distillation(tmp_path):
    run = make_run(tmp_path, **{"mepd.gamma": 0.0})
    record = ensure(run, "akd")
    assert record["n_poison"] == 0 and record["poison_few_purity"] is None
    assert "punish_loss" not in read_history(run, "akd")


def test_a_stage_that_fails_leaves_nothing(tmp_path, monkeypatch):
    run = make_run(tmp_path)

    def fail(run, stage, folder):
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    monkeypatch.setattr("bedkd.runs.stages.data.make", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure(run, "data")
    assert not list((tmp_path / "runs/data").iterdir())


def test_two_at_once_make_a_result_once(tmp_path, monkeypatch, capsys):
    made, make_data = [], data.make

    def make_slowly(run, stage, folder):
        made.append(folder)
        time.sleep(0.3)
        return make_data(run, stage, folder)

    monkeypatch.setattr(data, "make", make_slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: ensure(make_run(tmp_path), "data"), range(2))
    assert len(made) == 1 and first == second
    assert capsys.readouterr().out.count("waiting for it") == 1
    assert [path.name for path in (tmp_path / "runs/data").iterdir()] == [
        make_run(tmp_path).folder("data").name
    ]


def test_inspection(run):
    poisoned = load_poisoned(run)
    assert len(poisoned) == 48 and (poisoned.text != poisoned.clean_text).all()
    few = load_poison_few(run)
    assert list(few.text) == list(load_view(run).train.text.iloc[few.row])
    table = compare_selections(run)
    assert list(table.index) == ["file_order", "random", "lowest_mepd", "teacher_agreement"]
    own = table.loc[run.config.mepd.selection, "purity (%)"]
    assert own == pytest.approx(ensure(run, "mepd")["poison_few_purity"])
    shown = compare_predictions(run, 5)
    assert len(shown) == 5 and list(shown.columns) == ["text", "true", "victim", "BeDKD"]


def test_clean_rows_of_their_own(tmp_path):
    """`is_clean_shared: false`: AKD's rows are none of the DMM's."""
    changes = {"data.clean_pool_per_class": 32, "akd.is_clean_shared": False}
    run = make_run(tmp_path, **changes)
    seen = {}
    original = splits.draw_clean_few

    def spy(pool, n, start=0):
        seen[start] = set(original(pool, n, start).text)
        return original(pool, n, start)

    with pytest.MonkeyPatch.context() as patch:
        for stage in (akd, dmm):
            patch.setattr(stage, "draw_clean_few", spy)
        ensure(run, "akd")
    assert set(seen) == {0, 16} and not seen[0] & seen[16]
    assert replace(run.config.akd, is_clean_shared=True) != run.config.akd
