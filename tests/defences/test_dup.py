"""DUP: what its detector flags, and the student that unlearns it through LoRA."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU, add_trigger, make_rows

from bedkd.core.defence_config import DUPConfig
from bedkd.core.errors import BedkdError, BlindnessError, DivergenceError
from bedkd.data import generated
from bedkd.defences import dup, layer_scores
from bedkd.defences.interface import EquippedView
from bedkd.defences.layer_scores import LayerScores
from bedkd.defences.lora import merge_lora
from bedkd.defences.pairs import Pair
from bedkd.evaluation.sides import DefenderView
from bedkd.nn.classifier import Classifier, load_classifier, save_classifier
from bedkd.nn.tiny import build_tiny_bert
from bedkd.nn.training import forward_all

TRAIN = pd.concat([make_rows(), add_trigger(make_rows())], ignore_index=True)
IS_POISONED = np.arange(len(TRAIN)) >= len(make_rows())
CONFIG = DUPConfig(n_clean_per_class=24, rank=4, lora_alpha=8, epochs=2, batch_size=8)


@pytest.fixture
def view(tiny_victim, rows) -> EquippedView:
    return EquippedView(TRAIN, rows, rows, tiny_victim, tiny_victim.predict(TRAIN.text))


@pytest.fixture
def student(tiny_victim):
    return dup.adapt(tiny_victim, CONFIG, seed=0)


def run(view, config=CONFIG, is_flagged=IS_POISONED, seed=0):
    return dup.defend(view, config, seed=seed, is_flagged=is_flagged)


def logits(classifier, texts=TRAIN.text) -> torch.Tensor:
    return forward_all(classifier.model, classifier.encode(texts), classifier.compute)[0]


def weights(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- the detector ---


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return generated.generate("toy-sentiment", 1600, 5)


@pytest.fixture(scope="module")
def deep(clean) -> Classifier:
    """An untrained BERT of four layers, so that one is left out and the spectral score speaks."""
    shape = {"seed": 0, "hidden_size": 32, "num_layers": 4, "max_length": 32}
    model, tokenizer = build_tiny_bert(list(clean.text), 2, **shape)
    return Classifier(model, tokenizer, 32, ("negative", "positive"), CPU)


@pytest.fixture(scope="module")
def scores(deep, clean) -> LayerScores:
    return LayerScores(deep, clean[:400], clean[400:1000], DUPConfig())


def test_a_twentieth_of_clean_rows_is_flagged(scores, clean):
    found = scores(list(clean.text[1000:]))
    assert 0.02 < np.mean(found > scores.threshold) < 0.09
    assert len(scores.layers) == 3 and (scores.spread < 1).all()


def test_texts_of_another_kind_are_flagged(scores):
    strange = [f"{word} {word} {word}" for word in ("qz", "0 0", "## !", "xkcd", "?!?")]
    assert (scores(strange) > scores.threshold).mean() >= 0.8


def test_spectral_score_by_hand():
    """Steps of (2, 0) and (3, 0): one way. Of (1, 0) and (0, 1): two equal singular values."""
    states = torch.tensor([[[0.0, 0], [2, 0], [5, 0]], [[0, 0], [1, 0], [1, 1]]])
    assert layer_scores.spectral_scores(states).tolist() == pytest.approx([1.0, 0.5])
    assert layer_scores.spectral_scores(torch.ones(1, 3, 2)).tolist() == [0.0]  # no step at all


def test_mahalanobis_distance_by_hand():
    """(3, 4) at precision I is 5 away; (1, 0) at 4 I is 2 away: the mean is 3.5."""
    means, identity = torch.zeros(2, 2), torch.eye(2)
    own = SimpleNamespace(
        layers=[0, 2], means=means, precisions=torch.stack([identity, 4 * identity])
    )
    states = torch.tensor([[[3.0, 4], [9, 9], [1, 0]]])
    assert LayerScores.distances(own, states).tolist() == [3.5]


def test_layers_that_part_the_classes_are_taken(deep, monkeypatch):
    labels = pd.Series([0, 1] * 20)
    noise = torch.tensor(np.random.default_rng(0).normal(size=(40, 4, 3)))
    noise[:, 2] += 9 * torch.tensor(labels.to_numpy())[:, None]
    noise[:, 1] += 3 * torch.tensor(labels.to_numpy())[:, None]
    backwards = torch.arange(40).flip(0)  # batches come longest first
    monkeypatch.setattr(layer_scores, "read_states", lambda *_: [(backwards, noise.flip(0))])
    rows = pd.DataFrame({"text": [""] * 40, "label": labels})
    layers, means, precisions = layer_scores.fit_gaussians(deep, rows, 2)
    assert layers == [1, 2] and precisions.shape == (2, 3, 3)
    torch.testing.assert_close(means, noise[:, [1, 2]].mean(dim=0))


def test_what_is_usual_is_learnt_on_other_clean_rows(deep, clean, monkeypatch):
    seen = []

    def note(victim, fitted, usual, config):
        seen.append((set(fitted.text), set(usual.text)))
        return LayerScores(victim, fitted, usual, config)

    monkeypatch.setattr(layer_scores, "LayerScores", note)
    pool = clean[:400]
    train = TRAIN.assign(label=0)
    view = DefenderView(train, pool, pool, deep, deep.predict(train.text))
    flagged = layer_scores.flag_rows(view, DUPConfig(n_clean_per_class=101))
    ((fitted, usual),) = seen
    assert not fitted & usual and (len(fitted), len(usual)) == (100, 102)
    assert fitted | usual <= set(pool.text)
    other = dataclasses.replace(view, train=train.assign(label=1))
    assert (
        flagged.tolist() == layer_scores.flag_rows(other, DUPConfig(n_clean_per_class=101)).tolist()
    )


def test_too_few_clean_rows_are_refused(view):
    with pytest.raises(BedkdError, match="a class of the pool has only 24"):
        layer_scores.flag_rows(view, dataclasses.replace(CONFIG, n_clean_per_class=30))


# --- unlearning ---


def test_student_is_the_victim_before_it_learns(student, tiny_victim):
    torch.testing.assert_close(logits(student), logits(tiny_victim))


def test_lora_on_query_key_value_and_the_head_alone_learn(student):
    names = {name for name, p in student.model.named_parameters() if p.requires_grad}
    lora, head = {n for n in names if "lora_" in n}, {n for n in names if "modules_to_save" in n}
    assert names == lora | head and len(head) == 2 and all("classifier" in n for n in head)
    assert {n.split(".lora_")[0].split(".")[-1] for n in lora} == {"query", "key", "value"}


def test_merged_is_the_same_and_can_be_kept(view, student, tmp_path, compute):
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05
    before = logits(student)
    assert (before - logits(view.victim)).abs().max() > 0.01
    merged = merge_lora(student)
    torch.testing.assert_close(logits(merged), before, atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in merged.model.parameters())
    save_classifier(merged, tmp_path, {})
    torch.testing.assert_close(logits(load_classifier(tmp_path, compute)), logits(merged))


def test_roberta_has_the_same_layers_and_a_model_without_is_refused(roberta_victim, tiny_victim):
    torch.testing.assert_close(
        logits(dup.adapt(roberta_victim, CONFIG, seed=0)), logits(roberta_victim)
    )
    for layer in tiny_victim.model.bert.encoder.layer:
        layer.attention.self = torch.nn.Identity()
    with pytest.raises(BedkdError, match="no query, key and value in a model of type 'bert'"):
        dup.adapt(tiny_victim, CONFIG, seed=0)


def test_loss_by_hand():
    """p = (3/4, 1/4) of the victim, (1/2, 1/2) of the student; clean rows have log 2."""
    two = torch.zeros(1, 2)
    pair = Pair(
        two, torch.tensor([0]), torch.tensor([[np.log(3.0), 0]]).float(), two, torch.tensor([1])
    )
    kl = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    config = dataclasses.replace(CONFIG, kl_weight=0.3, ce_weight=2.0)
    assert float(dup.dup_loss(pair, config)) == pytest.approx(2 * np.log(2) - 0.3 * kl)


def test_flagged_rows_are_driven_from_what_the_victim_says(view):
    """Slowly: where student and victim agree, the KL has no slope, and only dropout parts them."""
    with torch.no_grad():  # a victim less sure of itself, or nothing would ever move
        view.victim.model.classifier.weight.mul_(0.1)
    before = weights(view.victim.model)
    config = dataclasses.replace(CONFIG, epochs=30, learning_rate=1e-2)
    defended = run(view, config)
    assert is_same(weights(view.victim.model), before)
    kl = [row["kl"] for row in defended.history]
    assert kl[-1] > 10 * kl[0] and len(kl) == 30
    triggered, clean = TRAIN[IS_POISONED], TRAIN[~IS_POISONED]
    assert np.mean(defended.predict(triggered.text).argmax(axis=1) == 0) < 0.5  # before: 1
    assert np.mean(defended.predict(clean.text).argmax(axis=1) == clean.label) > 0.9
    assert defended.facts["n_flagged"] == 24 and defended.facts["n_clean"] == 48


def test_labels_of_flagged_rows_play_no_part(view):
    turned = dataclasses.replace(view, train=TRAIN.assign(label=1 - TRAIN.label))
    one, other = (weights(run(v).model.model) for v in (view, turned))
    assert is_same(one, other)
    assert not is_same(one, weights(run(view, seed=1).model.model))


def test_nothing_flagged_leaves_the_victim(view):
    defended = run(view, is_flagged=np.zeros(len(TRAIN), dtype=bool))
    assert defended.model is view.victim and defended.history == []


def test_rows_that_say_more_than_text_and_label_are_refused(view):
    peeking = dataclasses.replace(view, train=TRAIN.assign(is_poisoned=IS_POISONED))
    with pytest.raises(BlindnessError, match="is_poisoned"):
        run(peeking)


def test_divergence_names_what_to_lower(view):
    with pytest.raises(DivergenceError, match="DUP diverged in epoch .* lower dup.learning_rate"):
        run(view, dataclasses.replace(CONFIG, learning_rate=1e30))
