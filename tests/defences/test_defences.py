"""Every rival and ablation as a stage: made, recorded, found again, and blind."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bedkd.report.layouts import ABLATION_NAMES
from bedkd.report.one_run import compare_parts, compare_predictions, finetune_curve, list_facts
from bedkd.runs.ensure import ensure, load_truth
from bedkd.runs.folders import Run
from bedkd.runs.plan import ablation_results, label_results, plan_jobs, with_hard_loss
from bedkd.runs.profiles import load_profile, open_run
from bedkd.runs.records import stable_part
from bedkd.runs.stages import ABLATIONS, CHAIN, NEWER, RIVALS, language
from bedkd.runs.sweeps import vary

SMALL = {
    "data.n_train": 240,
    "data.n_test": 60,
    "data.clean_pool_per_class": 16,
    "victim.epochs": 12,
    "victim.learning_rate": 2e-3,
    "dmm.n_clean_per_class": 16,
    "dmm.epochs": 3,
    "mepd.gamma": 0.5,
    "mepd.n_poison": 8,
    "akd.n_clean_per_class": 16,
    "akd.cycles": 3,
    "akd.learning_rate": 1e-4,
    "finetune.epochs": 2,
    "language.model": "tiny-lm",
    "language.epochs": 1,
    "onion.n_clean_per_class": 16,
    "imbert.n_clean_per_class": 16,
    "textguard.n_groups": 2,
    "textguard.epochs": 2,
    "textguard.min_count": 2,
    "teacher.model": "tiny-bert",
    "teacher.proxy": "toy-offence",
    "teacher.n_proxy": 100,
    "teacher.epochs": 2,
    "teacher.learning_rate": 1e-3,
    "teacher.max_length": 64,
    "w2s.rank": 4,
    "w2s.epochs": 2,
    "forget.n_neighbors": 20,
    "forget.min_cluster_size": 20,
    "forget.min_samples": 5,
    "ascent.epochs": 2,
    "dup.n_clean_per_class": 16,
    "dup.epochs": 2,
}


@pytest.fixture(scope="module", autouse=True)
def few_texts():
    """Of the language model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "N_ROWS", 200)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_texts):
    run = open_run("quick", "toy-offence", "addsent", 1, SMALL)
    run = Run(run.config, tmp_path_factory.mktemp("outputs"))
    ensure(run, "akd")
    return run


@pytest.mark.parametrize("stage", (*RIVALS, *NEWER, *ABLATIONS))
def test_record(run, stage):
    record = ensure(run, stage)
    assert record["defence"] == record["stage"] == stage
    assert 0 <= record["asr"] <= 100 and 0 <= record["cacc"] <= 100
    assert record["seconds"] > 0 and record["seconds_inference"] > 0
    assert record["n_test"] == 60 and record["n_test_triggered"] < 60
    probabilities = np.load(run.folder(stage) / "test_probabilities.npz")
    truth = load_truth(run)
    assert len(probabilities["triggered"]) == len(truth.test_triggered)
    clean = probabilities["clean"].argmax(axis=1)
    assert record["cacc"] == pytest.approx(100 * np.mean(clean == truth.test_clean.label))
    np.testing.assert_allclose(probabilities["clean"].sum(axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def misled(run, tmp_path_factory):
    """The same up to the MEPD once more; then the truth's files claim the opposite about D*, and
    other labels of the test rows."""
    other = Run(run.config, tmp_path_factory.mktemp("false"))
    ensure(other, "mepd")
    path = other.folder("data") / "truth/train.parquet"
    truth = pd.read_parquet(path)
    truth["is_poisoned"] = ~truth.is_poisoned
    truth.to_parquet(path)
    path = path.with_name("clean.parquet")
    tests = pd.read_parquet(path)
    tests.assign(label=1 - tests.label).to_parquet(path)
    return other


@pytest.mark.parametrize("stage", (*RIVALS, *NEWER, *ABLATIONS))
def test_the_same_seed_and_a_false_truth_give_the_same_record(run, stage, misled):
    """Whatever the truth's files claim about D*, a defence is the same: it never opens them. Nor do
    the labels of the test rows choose anything of it, an epoch, say: they move its CACC alone."""
    first, again = stable_part(ensure(run, stage)), stable_part(ensure(misled, stage))
    for record in (first, again) if stage in NEWER else ():  # counted by the truth, false now
        del record["far_train"], record["frr_train"]
    assert first.pop("cacc") == pytest.approx(100 - again.pop("cacc")) and first == again
    answers = [np.load(r.folder(stage) / "test_probabilities.npz")["clean"] for r in (run, misled)]
    assert np.array_equal(*answers)


def test_rates_of_the_rows_that_newer_rivals_forget(run):
    """Of D*, counted against the truth, which only the record sees."""
    is_poisoned = load_truth(run).train.is_poisoned.to_numpy()
    ensure(run, "rga")
    is_forgotten = np.load(run.folder("forget") / "is_forgotten.npy")
    for stage in NEWER:
        record = ensure(run, stage)
        assert record["seconds"] > record["seconds_finding"] > 0
        if stage != "dup":
            assert record["n_flagged"] == is_forgotten.sum()
            assert record["far_train"] == pytest.approx(100 * (~is_forgotten[is_poisoned]).mean())
            assert record["frr_train"] == pytest.approx(100 * is_forgotten[~is_poisoned].mean())


def test_certified_accuracy_is_recorded_where_there_is_a_certificate(run):
    config = open_run(
        "quick", "toy-offence", "addsent", 1, SMALL | {"textguard.mode": "certified"}
    ).config
    record = ensure(Run(config, run.root), "textguard")
    assert record["certified_accuracy_0"] == pytest.approx(record["cacc"])
    assert record["certified_accuracy_1"] <= record["certified_accuracy_0"]
    assert "certified_accuracy_0" not in ensure(run, "textguard")


def test_what_the_notebooks_show(run):
    other = vary(run, {"akd.penalty": "margin"})  # for all that are beyond the paper
    parts = compare_parts(run, {name: other for name in ABLATION_NAMES if "bedkd_" in name})
    assert list(parts.index) == ["No defence", *ABLATION_NAMES.values()]
    paper = ["FT", "FT+DMM", "KD", "KD+DMM", "DMM+AKD"]
    assert list(parts.index[1:6]) == paper and parts.index[-1] == "BeDKD+"
    for name, source in (("DMM+AKD", run), ("BeDKD+", other)):
        record = ensure(source, "akd")
        assert parts.loc[name, "PACC"] == record["pacc"] and parts.loc[name, "ASR"] == record["asr"]
    for stage in (*RIVALS, *NEWER):
        shown = compare_predictions({stage: run}, 4, stage=stage)
        assert len(shown) == 4 and stage in shown.columns and "victim" in shown.columns
        assert ("taken out" in shown.columns) == (stage in ("onion", "imbert"))
    facts = list_facts(ensure(run, "victim"), [ensure(run, name) for name in ("onion", "imbert")])
    assert {"threshold", "max_score"} < set(facts) and not {"asr", "n_train"} & set(facts)
    assert len(facts) == len(set(facts)) and facts[-1] == "threads"
    curve = finetune_curve(run, [1e-5, 1e-3])
    assert list(curve.epoch) == [0, 1, 2] * 2 and set(curve["learning rate"]) == {"1e-05", "1e-03"}


@pytest.mark.parametrize("few_jobs", [False, True])
def test_jobs_of_a_profile(few_jobs):
    profile = replace(load_profile("quick"), few_jobs=few_jobs)
    chosen = {
        "dataset": "toy-sentiment",
        "attack": ["none", "addsent"],
        "studies": "ablations",
        "focus": "toy-sentiment",
        "defences": ["onion", "w2s"],
        "seed": 3,
    }
    jobs = plan_jobs(profile, chosen)
    names = [job.name for job in jobs]
    expected = [["onion", "w2s"]] * 2 if few_jobs else ["onion", "w2s"] * 2
    n_jobs = 2 * len(CHAIN) + len(expected) + 1  # no ablation of `none`
    assert len(names) == len(set(names)) == n_jobs
    places = {name: place for place, name in enumerate(names)}
    assert all(places[need] < places[job.name] for job in jobs for need in job.needs)
    rivals = [job for job in jobs if job.notebook == "05_defences"]
    assert [job.parameters["defence"] for job in rivals] == expected
    assert all(job.needs[0].startswith("01_poisoning/") for job in rivals)
    (ablation,) = (job for job in jobs if job.notebook == "06_ablations")
    assert ablation.needs[0].startswith("03_mepd/toy-sentiment-addsent")


def test_an_ablation_job_is_another_one_when_any_of_its_results_is(run):
    before = label_results(run, ablation_results(run))
    for change in ({"finetune.epochs": 3}, {"akd.cycles": 4}, {"dmm.epochs": 4}):
        other = open_run("quick", "toy-offence", "addsent", 1, SMALL | change)
        assert label_results(other, ablation_results(other)) != before


def test_the_hard_loss_alone_is_alpha_1(run):
    hard = with_hard_loss(run)
    assert hard.config.dmm.alpha == 1.0 and hard.key("victim") == run.key("victim")
    assert hard.key("mepd") != run.key("mepd")
