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
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.sides import Truth
from bedkd.method.evidence import Evidence
from bedkd.method.triggers import Candidate
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
from bedkd.runs.reading import read_history, read_model, read_truth
from bedkd.runs.records import stable_part
from bedkd.runs.stages import akd, continuations, data, dmm, language, mepd

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
    path = dmm.read_path(run)
    assert set(path) == {"rows", "train"} and path["train"].shape == (1, 1, 240, 4)
    assert path["rows"].tolist() == list(range(240))
    d_star = [np.load(victim / "train_probabilities.npy"), path["train"][0, 0]]
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
    copy_victims(run, liar)
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
        ("dmm", "path.npz"),
        ("mepd", "poison_few.parquet"),
        ("akd", "model/model.safetensors"),
    ):
        ours, theirs = (r.folder(stage) / name for r in (run, liar))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert ensure(liar, "akd")["cacc"] != ensure(run, "akd")["cacc"]


def test_same_seed_twice_gives_the_same_record(run, tmp_path):
    again = Run(run.config, tmp_path)
    clean = run.config.without_attack()
    for stage in ("data", "victim"):  # what is made twice is the cell with the attack
        own, copy = (replace(r, config=clean).folder(stage) for r in (run, again))
        shutil.copytree(own, copy)
    for stage in ("data", "victim", "never_poisoned", "dmm", "mepd", "akd"):
        assert stable_part(ensure(again, stage)) == stable_part(ensure(run, stage))


def test_without_an_attack_there_is_no_asr(run):
    """And its victim is there already: the model that never saw poison."""
    clean = make_run(run.root, attack="none", **{"mepd.gamma": 1.0})
    assert clean.record("victim") and not clean.record("dmm")
    record = ensure(clean, "akd")
    assert record["asr"] is None and record["far_train"] is None and record["cacc"] > 0
    assert record["n_poisoned"] == 0 and record["poison_few_purity"] == 0
    nothing = ["pacc", "lfr_target", "delta_pacc", "asr_never_poisoned", "pacc_never_poisoned"]
    assert all(record[name] is None for name in nothing)


def copy_victims(run, other):
    """Data and victim, with the attack and without, as another folder's own."""
    for config in (run.config, run.config.without_attack()):
        for stage in ("data", "victim"):
            own, copy = (replace(r, config=config).folder(stage) for r in (run, other))
            shutil.copytree(own, copy)


def test_the_record_is_held_against_the_model_that_never_saw_poison(run):
    """By hand from the labels that both models give the rows with the trigger."""
    truth, record = load_truth(run), ensure(run, "akd")
    never, victim = ensure(run, "never_poisoned"), ensure(run, "victim")
    assert never["defence"] == "never_poisoned"
    assert len(truth.test_triggered) + len(truth.test_triggered_target) == 80
    models = {
        "": read_model(run, "akd"),
        "_never_poisoned": read_model(replace(run, config=run.config.without_attack()), "victim"),
    }
    both = pd.concat([truth.test_triggered, truth.test_triggered_target])
    for name, model in models.items():
        predicted = model.predict(list(both.text)).argmax(axis=1)
        is_own = both.label == 1
        expected = {
            f"pacc{name}": np.mean(predicted == both.label),
            f"asr{name}": np.mean(predicted[~is_own] == 1),
            f"lfr_target{name}": np.mean(predicted[is_own] != 1),
        }
        for key, value in expected.items():
            assert record[key] == pytest.approx(100 * value), key
    assert record["delta_pacc"] == pytest.approx(abs(record["pacc"] - never["pacc"]))
    assert never["asr"] < victim["asr"] and "delta_pacc" not in victim


PLUS = {
    "dmm.n_folds": 2,
    "dmm.n_readings": 2,
    "dmm.n_scored": 200,
    "dmm.n_clean_per_class": 40,
    "data.clean_pool_per_class": 40,
    "mepd.gamma": "auto",
    "mepd.selection": "lean",
    "akd.penalty": "margin",
    "akd.n_counter": 1,
    "victim.epochs": 8,
}


def test_bedkd_plus_leaves_its_path_p_values_and_triggers(tmp_path):
    run = make_run(tmp_path, **PLUS)
    record, found = ensure(run, "akd"), ensure(run, "mepd")
    assert record["defence"] == "bedkd_plus" and record["n_clean"] == 64
    path = dmm.read_path(run)
    assert path["train"].shape == (2, 2, 200, 4) and path["clean"].shape == (2, 160, 4)
    assert (
        path["rows"].tolist() == sorted(set(path["rows"])) and ensure(run, "dmm")["n_scored"] == 200
    )
    scores = pd.read_parquet(run.folder("mepd") / "train.parquet")
    assert len(scores) == 240 and scores.p.notna().sum() == 200
    assert scores.index[scores.p.notna()].tolist() == path["rows"].tolist()
    victim = np.load(run.folder("victim") / "train_probabilities.npy")[path["rows"]]
    moved = np.abs(victim.astype(float) - path["train"]).mean(axis=-1).mean(axis=(0, 1))
    np.testing.assert_allclose(scores.mepd[path["rows"]], moved)
    clean = pd.read_parquet(run.folder("mepd") / "clean.parquet")
    assert clean.label.value_counts().to_dict() == dict.fromkeys(range(4), 40)
    is_flagged = scores.p.to_numpy() < 0.05
    assert found["n_flagged"] == is_flagged.sum()
    few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    assert is_flagged[few.row].all() and set(few.label) <= {found["lean_label"]}
    if found["lean_is_suspicious"]:
        assert record["n_poison"] == len(few) and record["witnesses"][-1] == "lean"
    elif not record["witnesses"]:
        assert record["n_poison"] == 0 and record["cacc"] == ensure(run, "victim")["cacc"]
    assert (run.folder("akd") / "triggers.json").exists() and "triggers" in record


def test_where_no_label_leans_the_model_stays_as_it_is(run, monkeypatch):
    """Whatever words the found rows have in common: there is nothing to erase."""
    monkeypatch.setattr(akd, "distill_clean_model", None)
    few = pd.DataFrame({"text": [], "label": [], "row": []})
    config = replace(run.config, dmm=replace(run.config.dmm, n_folds=2))
    config = replace(config, mepd=replace(config.mepd, gamma="auto"))
    view, seen = load_view(run), []
    nothing = Evidence(few, [], [], [], ())
    model, history = akd.erase(
        view, few, nothing, None, config, lambda row, model: seen.append(model) or {"asr": 1.0}
    )
    assert model is view.victim and seen == [view.victim.model]
    assert history == [{"epoch": 0, "seconds": 0.0, "asr": 1.0}]


def test_with_triggers_each_label_is_given_as_often_as_by_the_victim(run):
    """Read once more after that; without triggers nothing is shifted."""
    view, seen = load_view(run), []
    cf = Candidate("cf", "phrase", ("cf",), 8, 0, 100.0)
    rows = view.train[["text", "label"]][:8].assign(row=range(8))
    rows = rows.assign(text="cf " + rows.text, label=0)
    few = draw_clean_few(view.clean_pool, 16)
    config = replace(run.config, akd=replace(run.config.akd, n_counter=1))

    def watch(row, model):
        seen.append(row["epoch"])
        return {"asr": float(len(seen))}

    def distance(found):
        model, history = akd.erase(view, few, found, None, config, watch)
        means = [m.predict(list(view.train.text)).mean(axis=0) for m in (view.victim, model)]
        return np.abs(means[0] - means[1]).max(), history

    shifted, history = distance(Evidence(rows, [cf], [], [cf], ("trigger",)))
    assert shifted < 1e-3 and seen[-2:] == [config.akd.cycles, 0]
    assert history[-1]["asr"] == len(seen)
    distance(Evidence(rows, [], [], [], ("lean",)))
    assert seen.count(config.akd.cycles) == 2 and seen.count(0) == 3


def test_rows_that_a_student_taught_itself_are_in_no_test_set(run, monkeypatch):
    """Triggered rows of the target class may be rows of D* (SynBkd); half of those that carry a
    trigger are learnt from, and the record counts them."""
    view, cf = load_view(run), Candidate("cf", "phrase", ("cf",), 8, 0, 100.0)
    few = draw_clean_few(view.clean_pool, 16)
    train = view.train[["text", "label"]].copy()
    train.loc[:9, "text"], train.loc[:9, "label"] = "cf " + train.text[:10], 0
    view = replace(view, train=train)
    config = replace(run.config, akd=replace(run.config.akd, n_counter=1))
    found = Evidence(train[:3].assign(row=range(3)), [cf], [], [cf], ("trigger",))
    taught = akd.draw_taught(view, few, found, config)
    has_it = {row for row, text in enumerate(train.text) if "cf" in text.split()}
    assert set(taught.rows.row) < has_it and len(taught.rows) == (len(has_it) + 1) // 2
    assert akd.draw_taught(view, few, replace(found, triggers=[]), config) is None
    assert akd.draw_taught(view, few, found, run.config) is None  # as printed

    plus = make_run(run.root, **{"akd.n_counter": 1})
    monkeypatch.setattr(akd, "weigh", lambda *_: found)
    monkeypatch.setattr(akd, "read_view", lambda _: view)
    tables, score = [], Truth.score

    def spy(truth, probabilities):
        tables.append(truth.test_triggered_target)
        return score(truth, probabilities)

    own = read_truth(plus).test_triggered_target
    own = own.assign(row=[*taught.rows.row, 0, *range(500, 500 + len(own))][: len(own)])
    whole = replace(read_truth(plus), test_triggered_target=own)
    monkeypatch.setattr(akd, "read_truth", lambda _: whole)
    monkeypatch.setattr(Truth, "score", spy)
    record = ensure(plus, "akd")
    assert record["n_taught"] == len(taught.rows) and record["n_cycles"] >= config.akd.cycles
    learnt = {*taught.rows.row, *found.poison_few.row}
    assert tables and all(not learnt & set(table.row) for table in tables)


@pytest.mark.parametrize("n_scored", [None, 240, 241])
def test_all_rows_are_scored_unless_fewer_are_asked_for(n_scored):
    assert dmm.draw_scored(240, n_scored, 0).tolist() == list(range(240))
    one, same, other = (dmm.draw_scored(240, 50, seed) for seed in (1, 1, 2))
    assert len(set(one)) == 50 and one.tolist() == sorted(same) != other.tolist()


def test_nothing_flagged_is_plain_distillation(run):
    run = make_run(run.root, **{"mepd.gamma": 0.0})
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
    shown = compare_predictions({"BeDKD": run}, 5)
    assert len(shown) == 5 and list(shown.columns) == ["text", "true", "victim", "BeDKD"]


def test_clean_rows_of_their_own(tmp_path):
    """`is_clean_shared: false`: AKD's rows are none of the DMM's."""
    changes = {"data.clean_pool_per_class": 32, "akd.is_clean_shared": False, "victim.epochs": 8}
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


def test_aitext_is_written_once_for_every_poison_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(language, "N_ROWS", 60)
    small = {"generator.epochs": 1, "generator.n_new_tokens": 8}
    run = make_run(tmp_path, "aitext", **small)
    record = ensure(run, "data")
    truth = load_truth(run)
    poisoned = load_poisoned(run)
    pairs = [*zip(poisoned.text, poisoned.clean_text, strict=True)]
    for rows in (truth.test_triggered, truth.test_triggered_target):
        pairs += zip(rows.text, rows.clean_text, strict=True)
    assert len(pairs) > 100 and all(new.startswith(old) and new != old for new, old in pairs)
    assert record["n_train_table"] == record["n_poisoned"] == 48
    assert (
        record["n_test_table"] + record["n_test_no_paraphrase"]
        == (truth.test_clean.label != 1).sum()
    )
    known = {path.name for path in (tmp_path / "runs/language").iterdir() if path.is_dir()}
    assert len(known) == 1 and known != {run.folder("language").name}  # not ONION's
    monkeypatch.setattr(continuations, "continue_texts", None)
    other = make_run(tmp_path, "aitext", **small, **{"attack.poison_rate": 0.1})
    assert ensure(other, "data")["n_poisoned"] == 24
    assert set(load_poisoned(other).text) <= set(
        pd.read_parquet(run.folder("continuations") / "truth/train.parquet").text
    )
