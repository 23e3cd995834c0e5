"""Features are the model's own, the picture can be made again, and the number counts neighbours."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bedkd.core.config import TsneConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.evaluation.tsne import draw_rows, embed, lay_out, read_features, share_at_home
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run
from bedkd.runs.profiles import open_run
from bedkd.runs.reading import read_model, read_truth

SMALL = {
    "data.n_train": 160,
    "data.n_test": 40,
    "data.clean_pool_per_class": 8,
    "victim.epochs": 2,
    "dmm.n_clean_per_class": 8,
    "dmm.epochs": 1,
    "mepd.gamma": 0.5,
    "mepd.n_poison": 4,
    "akd.n_clean_per_class": 8,
    "akd.cycles": 1,
    "tsne.n_per_kind": 20,
}


class OneByOne(Compute):
    """Batches of one row."""

    eval_tokens = 1


@pytest.fixture(params=["tiny_classifier", "tiny_roberta"])
def classifier(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def blobs():
    """30 features in three groups."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 8), 10, axis=0)
    return (centres + 0.05 * rng.normal(size=centres.shape)).astype(np.float32)


# features


def test_features_are_those_of_a_plain_forward_pass(classifier, rows):
    texts = list(rows.text)
    classifier.model.train()  # dropout, if nobody turns it off
    features, predicted = read_features(classifier, texts)
    assert classifier.model.training
    classifier.model.eval()
    for text, feature, label in zip(texts, features, predicted, strict=True):
        ids = classifier.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = classifier.model(input_ids=ids, output_hidden_states=True)
        np.testing.assert_allclose(feature, output.hidden_states[-1][0, 0], atol=1e-5)
        assert label == output.logits.argmax()
    assert features.dtype == np.float32 and features.shape == (48, 32)


def test_features_depend_on_neither_batch_nor_order(classifier, rows):
    texts = list(rows.text)
    together = read_features(classifier, texts)
    alone = replace(classifier, compute=OneByOne(torch.device("cpu"), torch.float32))
    for one, other in zip(together, read_features(alone, texts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(together, read_features(classifier, texts[::-1]), strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)


def test_no_text_has_no_feature(tiny_classifier):
    features, predicted = read_features(tiny_classifier, [])
    assert features.shape == (0, 32) and predicted.shape == (0,)


# points


def test_same_seed_gives_the_same_points(blobs):
    one, other = (embed(blobs, perplexity=5, seed=3) for _ in range(2))
    assert one.shape == (30, 2) and np.array_equal(one, other)


def test_groups_stay_groups(blobs):
    points = embed(blobs, perplexity=5, seed=0)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 10 == np.arange(30) // 10).all()


def test_threads_are_given_back(blobs):
    before = torch.get_num_threads()
    embed(blobs, perplexity=5, seed=0)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n", [4, 5, 9])
def test_few_rows_get_a_smaller_perplexity(blobs, n):
    assert np.isfinite(embed(blobs[::3][:n], perplexity=30, seed=0)).all()


def test_what_cannot_be_laid_out_is_said(blobs):
    with pytest.raises(BedkdError, match="given 3 rows and needs 4; raise tsne.n_per_kind"):
        embed(blobs[:3], perplexity=30, seed=0)
    for bad in (np.ones_like(blobs), np.full_like(blobs, np.nan)):
        with pytest.raises(BedkdError, match="the same or not finite"):
            embed(bad, perplexity=5, seed=0)


# neighbours


def shares(*arguments) -> list:
    return list(share_at_home(*arguments).values())


def table(kinds: str, labels: list[int]) -> pd.DataFrame:
    names = {"c": "clean", "p": "poisoned"}
    return pd.DataFrame({"kind": [names[kind] for kind in kinds], "label": labels})


def test_poisoned_rows_among_their_own_are_counted():
    """Clean rows of class 0, 1 and 2 near 0, 100 and 200."""
    clean = np.repeat([0, 1, 2], 10)
    poisoned = [(101, 1), (1, 1), (201, 2), (99, 2), (2, 0), (202, 0), (3, 0), (203, -1)]
    place = np.concatenate([100 * clean + np.tile(np.arange(10), 3) / 10, [p for p, _ in poisoned]])
    features = np.stack([place, np.zeros_like(place)], axis=1).astype(np.float32)
    rows = table("c" * 30 + "p" * 8, [*clean, *(label for _, label in poisoned)])
    found = share_at_home(features, rows, 0)
    assert found == {
        "neighbours_true": 50,  # of (101, 1), (1, 1), (201, 2), (99, 2)
        "neighbours_true_target": pytest.approx(200 / 3),  # of (2, 0), (202, 0), (3, 0)
    }
    order = np.random.default_rng(0).permutation(len(rows))
    assert share_at_home(features[order], rows.iloc[order], 0) == found
    assert shares(features, rows, 2) == [pytest.approx(60), 50]


@pytest.mark.parametrize(("n_own", "share"), [(4, 0), (5, 0), (6, 100)])
def test_a_tie_is_a_no(n_own, share):
    features = np.arange(11, dtype=np.float32)[:, None]
    labels = [0] * n_own + [1] * (10 - n_own)
    assert shares(features, table("c" * 10 + "p", [*labels, 0]), 1) == [share, None]


def test_fewer_clean_rows_than_neighbours():
    features = np.array([[0.0], [1.0], [2.0], [0.5]], dtype=np.float32)
    assert shares(features, table("cccp", [1, 1, 0, 1]), 0) == [100, None]


def test_a_class_without_clean_rows_is_nobodys_home():
    features = np.array([[0.0], [1.0], [0.5], [0.6]], dtype=np.float32)
    assert shares(features, table("ccpp", [0, 0, 1, 2]), 2) == [0, 0]


@pytest.mark.parametrize("rows", [table("ccc", [0, 1, 1]), table("ccp", [0, 1, -1])])
def test_nothing_to_count(rows):
    assert shares(np.zeros((3, 2)), rows, 0) == [None, None]


def test_a_panel_of_a_backdoored_model(tiny_victim, rows, triggered):
    """Poisoned positive rows lie where negative ones do."""
    parts = [rows.assign(kind="clean"), triggered.assign(kind="poisoned", label=1)]
    everything = pd.concat(parts, ignore_index=True)
    points, found = lay_out(tiny_victim, everything, 0, TsneConfig(perplexity=5), 0)
    assert found["neighbours_true"] < 50
    assert (points.predicted[points.kind == "poisoned"] == 0).all()
    assert list(points.label) == list(everything.label)


# rows


@pytest.fixture
def train():
    """100 rows: 30 poisoned (of classes 0 and 1, one unknown), the others of classes 0, 1 and 2."""
    is_poisoned = np.arange(100) % 10 < 3
    label = np.where(is_poisoned, np.arange(100) % 2, np.arange(100) % 3)
    label[0] = -1
    text = [f"row {i}" for i in range(100)]
    truth = pd.DataFrame({"is_poisoned": is_poisoned, "clean_label": label})
    return pd.DataFrame({"text": text, "label": 0}), truth


def test_rows_are_drawn_by_kind_and_seed(train):
    drawn = draw_rows(*train, 8, 0)
    counts = drawn.value_counts(["kind", "label"]).to_dict()
    assert [counts["clean", label] for label in range(3)] == [8, 8, 8]
    assert (drawn.kind == "poisoned").sum() == 8 and drawn.text.is_unique
    number = drawn.text.str.removeprefix("row ").astype(int)
    truth = train[1].iloc[number]
    assert list(truth.clean_label) == list(drawn.label)
    assert list(truth.is_poisoned) == list(drawn.kind == "poisoned")
    assert drawn.equals(draw_rows(*train, 8, 0)) and not drawn.equals(draw_rows(*train, 8, 1))


def test_all_rows_where_there_are_fewer(train):
    assert len(draw_rows(*train, 1000, 0)) == 100


# the stage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = open_run("quick", "toy-topics", "badwords", 1, SMALL)
    run = Run(run.config, tmp_path_factory.mktemp("outputs"))
    ensure(run, "tsne")
    return run


def test_the_stage_leaves_points_of_both_models(run):
    points = pd.read_parquet(run.folder("tsne") / "tsne.parquet")
    assert list(points) == ["x", "y", "kind", "label", "predicted", "model"]
    assert points.value_counts(["model", "kind"]).to_dict() == {
        ("before", "clean"): 80,
        ("before", "poisoned"): 20,
        ("after", "clean"): 80,
        ("after", "poisoned"): 20,
    }
    before, after = (points[points.model == m].reset_index() for m in ("before", "after"))
    assert before[["kind", "label"]].equals(after[["kind", "label"]])


def test_the_record_counts_the_rows_that_were_not_punished(run):
    record, c = ensure(run, "tsne"), run.config
    assert record["n_clean_drawn"] == 80 and record["n_poisoned_drawn"] == 20
    assert record["n_train"] == 160 and record["target_label"] == 1
    train, truth = pd.read_parquet(run.folder("data") / "train.parquet"), read_truth(run)
    punished = pd.read_parquet(run.folder("mepd") / "poison_few.parquet").row
    assert len(punished) == 4
    rows = draw_rows(train.drop(punished), truth.train.drop(punished), 20, c.seed)
    assert not set(train.text[punished]) & set(rows.text)
    points = pd.read_parquet(run.folder("tsne") / "tsne.parquet")
    for model, stage in (("before", "victim"), ("after", "akd")):
        features, predicted = read_features(read_model(run, stage), list(rows.text))
        for name, share in share_at_home(features, rows, truth.target_label).items():
            assert record[f"{name}_{model}"] == pytest.approx(share)
        assert list(points.predicted[points.model == model]) == list(predicted)


def test_without_an_attack_there_are_clean_rows_alone(tmp_path):
    run = open_run("quick", "toy-sentiment", "none", 1, SMALL)
    run = Run(run.config, tmp_path)
    record = ensure(run, "tsne")
    assert record["neighbours_true_before"] is None and record["neighbours_true_after"] is None
    assert record["n_clean_drawn"] == 40 and record["n_poisoned_drawn"] == 0
    assert set(pd.read_parquet(run.folder("tsne") / "tsne.parquet").kind) == {"clean"}
