"""Classifiers: built from nothing, copied, saved and loaded."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bedkd.core.config import VictimConfig
from bedkd.core.errors import BedkdError
from bedkd.core.hub import TINY_MODELS
from bedkd.nn.classifier import load_classifier, new_classifier, save_classifier
from bedkd.nn.supervised import train_victim

CONFIG = VictimConfig(epochs=2, learning_rate=1e-3, batch_size=16, max_length=32)
NAMES = ("negative", "positive")


@pytest.fixture
def saved(tiny_victim, tmp_path):
    save_classifier(tiny_victim, tmp_path / "model", {"base": "tiny-bert", "role": "victim"})
    return tmp_path / "model"


def test_roundtrip_keeps_every_prediction(tiny_victim, saved, rows, compute):
    loaded = load_classifier(saved, compute)
    expected = tiny_victim.predict(list(rows.text))
    assert loaded.predict(list(rows.text)) == pytest.approx(expected, abs=1e-6)
    assert (loaded.max_length, loaded.label_names) == (32, NAMES)
    assert not loaded.model.training


@pytest.mark.parametrize("name", TINY_MODELS)
def test_trained_and_loaded_victim_are_one_to_the_last_bit(name, rows, compute, tmp_path):
    """Or the probabilities kept of the one would differ from the other's, and MEPD not start at 0.

    A built model must compute in the way of a loaded one, the attention kernel included.
    """
    config = replace(CONFIG, model=name)
    built = new_classifier(config, list(rows.text), NAMES, compute, 0)
    save_classifier(built, tmp_path / "model", {})
    loaded = load_classifier(tmp_path / "model", compute)
    assert np.array_equal(loaded.predict(list(rows.text)), built.predict(list(rows.text)))


def test_weights_are_safetensors_and_nothing_else(saved):
    assert (saved / "model.safetensors").is_file()
    unsafe = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
    assert not [path for path in saved.rglob("*") if path.suffix in unsafe]


def test_meta_says_what_it_takes_to_load(saved):
    meta = json.loads((saved / "meta.json").read_text())
    assert meta == {
        "base": "tiny-bert",
        "role": "victim",
        "max_length": 32,
        "label_names": list(NAMES),
    }


def test_pickled_weights_are_not_read(tiny_victim, saved, compute):
    (saved / "model.safetensors").unlink()
    torch.save(tiny_victim.model.state_dict(), saved / "pytorch_model.bin")
    with pytest.raises(BedkdError, match="cannot load the classifier"):
        load_classifier(saved, compute)


@pytest.mark.parametrize("missing", ["meta.json", "config.json", "model.safetensors", None])
def test_missing_files_are_an_error_that_names_the_folder(saved, compute, missing):
    folder = saved if missing else saved / "nowhere"
    if missing:
        (saved / missing).unlink()
    with pytest.raises(BedkdError, match="cannot load the classifier in .*model"):
        load_classifier(folder, compute)


@pytest.mark.parametrize("name", ["meta.json", "config.json", "model.safetensors"])
def test_cut_files_are_an_error_that_names_the_folder(saved, compute, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BedkdError, match="cannot load the classifier in .*model"):
        load_classifier(saved, compute)


def test_copy_shares_no_parameter(tiny_victim, rows):
    copied = tiny_victim.copy()
    mine = {p.data_ptr() for p in tiny_victim.model.state_dict().values()}
    assert not mine & {p.data_ptr() for p in copied.model.state_dict().values()}
    before = tiny_victim.predict(list(rows.text))
    assert np.array_equal(copied.predict(list(rows.text)), before)
    with torch.no_grad():
        for parameter in copied.model.parameters():
            parameter.add_(1)
    assert np.array_equal(tiny_victim.predict(list(rows.text)), before)
    assert not np.array_equal(copied.predict(list(rows.text)), before)


def test_predict_encoded_is_predict(tiny_victim, rows):
    encoded = tiny_victim.encode(list(rows.text))
    expected = tiny_victim.predict(list(rows.text))
    assert np.array_equal(tiny_victim.predict_encoded(encoded), expected)
    assert expected.shape == (48, 2)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_new_tiny_classifier_is_seeded_and_fits_the_labels(name, rows, compute):
    config = replace(CONFIG, model=name)

    def build(seed, names=NAMES):
        return new_classifier(config, list(rows.text), names, compute, seed)

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = build(0).predict(list(rows.text))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert np.array_equal(one, build(0).predict(list(rows.text)))
    assert not np.array_equal(one, build(1).predict(list(rows.text)))
    assert build(0, tuple("abcd")).predict(["x"]).shape == (1, 4)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_max_length_is_cut_to_what_the_model_can_read(name, rows, compute):
    config = replace(CONFIG, model=name, max_length=512)
    classifier = new_classifier(config, list(rows.text), NAMES, compute, 0)
    n_positions = classifier.model.config.max_position_embeddings
    first = 2 if name == "tiny-roberta" else 0
    assert classifier.max_length == n_positions - first == 64
    long = "the story is good . " * 100
    assert len(classifier.encode([long]).rows[0]) == classifier.max_length
    assert classifier.predict([long]).shape == (1, 2)


def test_local_encoder_gets_a_fresh_head(saved, rows, compute):
    """A folder in the Hugging Face layout is a victim like any other."""
    config = replace(CONFIG, model=str(saved))
    one, other = (new_classifier(config, [], tuple("abc"), compute, seed) for seed in (0, 1))
    assert one.predict(["x"]).shape == (1, 3)
    body = "bert.embeddings.word_embeddings.weight"
    one, other = one.model.state_dict(), other.model.state_dict()
    assert torch.equal(one[body], other[body])
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert all(value.dtype != torch.float16 for value in one.values())


def test_folder_without_a_model_is_an_error(tmp_path, compute):
    config = replace(CONFIG, model=str(tmp_path))
    with pytest.raises(BedkdError, match="cannot load model .* as a classifier"):
        new_classifier(config, ["x"], NAMES, compute, 0)


def test_train_victim_is_cross_entropy_by_the_seed(rows, compute):
    def fit(seed, **values):
        config = replace(CONFIG, **values)
        return train_victim(rows, NAMES, config, compute=compute, seed=seed)

    (one, history), (same, _), (other, _) = fit(0), fit(0), fit(1)
    text = list(rows.text)
    assert np.array_equal(one.predict(text), same.predict(text))
    assert not np.array_equal(one.predict(text), other.predict(text))
    assert [row["epoch"] for row in history] == [1, 2]
    trained, history = fit(0, epochs=25, learning_rate=2e-3)
    assert np.mean(trained.predict(text).argmax(axis=1) == rows.label) > 0.95
    assert history[-1]["train_loss"] < 0.2 and not trained.model.training
