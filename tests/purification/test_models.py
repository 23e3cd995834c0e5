"""Models from somebody else: each architecture in and out again, each trap one clear sentence."""

import json
import os
import pickle
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, make, save

from bedkd.core.config import AKDConfig, DMMConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.method.akd import distill_clean_model
from bedkd.method.dmm import distill_dmm
from bedkd.nn.classifier import load_classifier
from bedkd.nn.training import forward_all
from bedkd.purification import foreign
from bedkd.purification import models as module
from bedkd.purification.configurations import CLEANED
from bedkd.purification.models import (
    adopt,
    check_memory,
    estimate_memory,
    load_model,
    save_model,
)

CPU = Compute(torch.device("cpu"), torch.float32)
NAMES = list(ARCHITECTURES)
UNEQUAL = ["good", "the story is bad", "the cast is good from the first scene to the last ."]
FAST = {"n_clean_per_class": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each architecture as plain transformers saves it; not to be changed."""
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name, *make(name)) for name in NAMES}


@pytest.fixture
def bert(folders, tmp_path):
    """A folder of one's own to spoil."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "model"))


def one_by_one(model, tokenizer, texts, max_length=64) -> np.ndarray:
    """What plain transformers says of each text alone."""
    answers = []
    for text in texts:
        inputs = tokenizer([text], truncation=True, max_length=max_length, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            answers.append(model(**inputs).logits.softmax(dim=-1))
    return torch.cat(answers).numpy()


def change(file: Path, **values) -> None:
    content = json.loads(file.read_text()) | values
    content = {key: value for key, value in content.items() if value is not ...}
    file.write_text(json.dumps(content))


def refused(folder, compute, **options) -> str:
    with pytest.raises(BedkdError) as caught:
        load_model(folder, compute, **options)
    message = str(caught.value)
    assert message.isprintable() and "bedkd-model-" not in message
    return message


# every architecture


@pytest.mark.parametrize("name", NAMES)
def test_in_is_what_transformers_says(name, folders, compute):
    loaded = load_model(folders[name], compute)
    expected = one_by_one(*make(name), UNEQUAL)
    assert np.ptp(expected, axis=0).min() > 1e-3  # or equality would mean nothing
    assert loaded.predict(UNEQUAL) == pytest.approx(expected, abs=1e-5)
    assert loaded.label_names == ("class 0", "class 1") and loaded.max_length == 64
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


class Accelerated(Compute):
    """A CPU that wants what an accelerator has."""

    attention = "sdpa"


@pytest.mark.parametrize("name", NAMES)
def test_the_attention_of_an_accelerator(name, folders, tmp_path):
    """Where the architecture has it."""
    wanted = Accelerated(torch.device("cpu"), torch.float32)
    loaded = load_model(folders[name], wanted)
    expected = load_model(folders[name], CPU).predict(UNEQUAL)
    assert loaded.predict(UNEQUAL) == pytest.approx(expected, abs=1e-5)
    again = load_classifier(save_model(loaded, tmp_path / "out"), wanted)
    assert again.predict(UNEQUAL) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_distilled_in_bfloat16(name, folders, rows):
    low = Compute(torch.device("cpu"), torch.bfloat16)
    victim = load_model(folders[name], low)
    expected = load_model(folders[name], CPU).predict(UNEQUAL)
    assert victim.predict(UNEQUAL) == pytest.approx(expected, abs=0.05)
    few = rows.groupby("label").head(4)
    dmm, history = distill_dmm(victim, few, DMMConfig(epochs=1, **FAST), seed=0)
    assert np.isfinite(history[-1]["flipped_loss"])
    assert {p.dtype for p in dmm.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_texts_up_to_the_last_token(name, folders, compute):
    loaded = load_model(folders[name], compute)
    long = "the story is good . " * 30
    assert len(loaded.encode([long]).rows[0]) == 64
    expected = one_by_one(*make(name), [long, *UNEQUAL])
    assert loaded.predict([long, *UNEQUAL]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_beside_longer_texts(name, folders, compute):
    """Distillation compares the last ones of all tokens but the padding."""
    loaded = load_model(folders[name], compute)
    encoded = loaded.encode(UNEQUAL)
    _, together = forward_all(loaded.model, encoded, compute, with_hidden=True)
    for row, text in enumerate(UNEQUAL):
        _, alone = forward_all(loaded.model, loaded.encode([text]), compute, with_hidden=True)
        n = len(encoded.rows[row])
        assert torch.allclose(together[row, :n], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_distilled_saved_and_loaded_by_a_pipeline(name, folders, compute, rows, tmp_path):
    victim = load_model(folders[name], compute)
    few = rows.groupby("label").head(8)
    config = DMMConfig(epochs=1, **FAST)
    dmm, history = distill_dmm(victim, few, config, seed=0)
    assert np.isfinite(history[-1]["flipped_loss"])
    assert not np.allclose(dmm.predict(UNEQUAL), victim.predict(UNEQUAL), atol=1e-4)
    config = AKDConfig(cycles=2, penalty="margin", **FAST)
    clean, _ = distill_clean_model(victim, few, rows[40:44], config, seed=0)
    folder = save_model(clean, tmp_path / "out" / "clean")
    classify = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    for batch_size in (1, 3):
        answers = classify(UNEQUAL, top_k=None, batch_size=batch_size)
        found = [
            [{a["label"]: a["score"] for a in row}[n] for n in victim.label_names]
            for row in answers
        ]
        assert np.array(found) == pytest.approx(clean.predict(UNEQUAL), abs=1e-5)
    again = load_model(folder, compute)
    assert again.predict(UNEQUAL) == pytest.approx(clean.predict(UNEQUAL), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_adopted_from_memory_it_is_a_copy(name, compute):
    model, tokenizer = make(name)
    model.train().half()
    model.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pad, config = tokenizer.pad_token, model.config.to_dict()
    own = adopt(model, tokenizer, compute)
    expected = one_by_one(make(name)[0].half().float(), make(name)[1], UNEQUAL)
    assert own.predict(UNEQUAL) == pytest.approx(expected, abs=1e-5)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in own.model.parameters())
    with torch.no_grad():
        for parameter in own.model.parameters():
            parameter.add_(1)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert (tokenizer.pad_token, model.config.to_dict()) == (pad, config)


@pytest.mark.parametrize("n", [2, 3, 20])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_any_number_of_labels(name, n, compute, rows, tmp_path):
    made = make(name, n)
    loaded = load_model(save(tmp_path / "model", *made), compute)
    assert loaded.label_names == tuple(f"class {i}" for i in range(n))
    assert loaded.predict(UNEQUAL) == pytest.approx(one_by_one(*made, UNEQUAL), abs=1e-5)
    few = rows[:n].assign(label=range(n))
    dmm, _ = distill_dmm(loaded, few, DMMConfig(epochs=1, **FAST), seed=0)
    folder = save_model(dmm, tmp_path / "out")
    assert load_model(folder, compute).label_names == loaded.label_names
    saved = json.loads((folder / "config.json").read_text())
    assert saved["id2label"] == {str(i): f"class {i}" for i in range(n)}


# padding and length


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_without_padding_gets_the_end_of_texts(name, folders, compute):
    loaded = load_model(folders[name], compute)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id is not None


def test_a_token_that_ends_every_text_is_no_padding(compute):
    from tiny_models import byte_pairs

    model, _ = make("llama")
    tokenizer = byte_pairs("<|begin|>", "<|end|>", bos="<|begin|>", eos="<|end|>")
    own = adopt(model, tokenizer, compute)
    assert own.tokenizer.pad_token == "<|begin|>"
    assert own.predict(UNEQUAL) == pytest.approx(one_by_one(model, tokenizer, UNEQUAL), abs=1e-5)


def test_padding_that_only_the_model_knows(compute):
    model, tokenizer = make("gpt2")
    model.config.pad_token_id = 7
    own = adopt(model, tokenizer, compute)
    assert own.tokenizer.pad_token_id == 7
    assert own.predict(UNEQUAL) == pytest.approx(one_by_one(model, tokenizer, UNEQUAL), abs=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "roberta"])
def test_padding_of_two_minds(name, compute):
    model, tokenizer = make(name)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(9)
    own = adopt(model, tokenizer, compute)
    assert own.tokenizer.pad_token_id == own.model.config.pad_token_id
    assert own.tokenizer.pad_token_id == (1 if name == "roberta" else 9)
    assert own.predict(UNEQUAL) == pytest.approx(one_by_one(model, tokenizer, UNEQUAL), abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_side_of_padding_does_not_matter(side, compute):
    model, tokenizer = make("gpt2")
    tokenizer.padding_side = side
    own = adopt(model, tokenizer, compute)
    assert own.predict(UNEQUAL) == pytest.approx(one_by_one(model, tokenizer, UNEQUAL), abs=1e-5)


@pytest.mark.parametrize("wanted, found", [(None, 40), (10, 10), (40, 40)])
def test_max_length(wanted, found, compute):
    model, tokenizer = make("bert")
    tokenizer.model_max_length = 40
    own = adopt(model, tokenizer, compute, max_length=wanted)
    assert own.max_length == found
    assert len(own.encode(["good " * 99]).rows[0]) == found


def test_as_many_tokens_as_are_asked_for_but_512_otherwise(compute):
    model, tokenizer = make("roberta", max_position_embeddings=602)
    tokenizer.model_max_length = 10**30
    assert adopt(model, tokenizer, compute).max_length == 512
    assert adopt(model, tokenizer, compute, max_length=600).max_length == 600
    with pytest.raises(BedkdError, match="reads at most 600 tokens .* max_length is 601"):
        adopt(model, tokenizer, compute, max_length=601)


# weights


def shard(folder: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    assert not (folder / "model.safetensors").exists()


def pickle_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def test_weights_in_several_files(bert, folders, compute):
    expected = load_model(bert, compute).predict(UNEQUAL)
    shard(bert)
    assert np.array_equal(load_model(bert, compute).predict(UNEQUAL), expected)


def test_a_pickle_if_it_is_allowed(bert, compute):
    expected = load_model(bert, compute).predict(UNEQUAL)
    pickle_weights(bert)
    assert "--allow-pickle" in refused(bert, compute)
    loaded = load_model(bert, compute, allow_pickle=True)
    assert np.array_equal(loaded.predict(UNEQUAL), expected)


def test_safetensors_win_over_a_pickle(bert, compute):
    (bert / "pytorch_model.bin").write_bytes(b"\x80\x04 no weights")
    assert load_model(bert, compute, allow_pickle=True).label_names == ("class 0", "class 1")


class Trap:
    """What a pickle would run."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def set_pickle_trap(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Trap(folder / "sprung")}, folder / name)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_pickle_runs_nothing(name, allow_pickle, bert, compute):
    set_pickle_trap(bert, name)
    assert str(bert) in refused(bert, compute, allow_pickle=allow_pickle)
    assert not (bert / "sprung").exists()


def test_the_trap_is_one(bert):
    set_pickle_trap(bert, "pytorch_model.bin")
    torch.load(bert / "pytorch_model.bin", weights_only=False)
    assert (bert / "sprung").exists()


def test_a_pickle_of_more_than_tensors_says_so(bert, compute):
    set_pickle_trap(bert, "pytorch_model.bin")
    message = refused(bert, compute, allow_pickle=True)
    assert "holds more than tensors" in message and "weights_only" not in message


def test_half_the_precision_is_read_in_full(bert, compute):
    weights = load_file(bert / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, bert / "model.safetensors")
    change(bert / "config.json", dtype="float16", torch_dtype="float16")
    assert load_model(bert, compute).model.dtype == torch.float32


def test_a_checkpoint_of_torch_distributed_is_not_read(bert, compute):
    """transformers would take it, and not what stands beside it."""
    (bert / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"x")
    (bert / ".metadata").write_bytes(pickle.dumps(Trap(bert / "sprung")))
    assert load_model(bert, compute).predict(UNEQUAL).shape == (3, 2)
    assert not (bert / "sprung").exists()


def test_files_of_a_trainer_do_not_matter(bert, compute):
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (bert / name).write_bytes(pickle.dumps(Trap(bert / "sprung")))
    shutil.copytree(bert, bert / "checkpoint-500")
    load_model(bert, compute)
    assert not (bert / "sprung").exists()


CODE = "open({0!r}, 'w').close()\nfrom transformers import BertConfig as OwnConfig\n"


@pytest.mark.parametrize("model_type", ["bert", "own"])
def test_code_in_the_folder_is_never_run(model_type, bert, compute):
    (bert / "own.py").write_text(CODE.format(str(bert / "sprung")))
    auto_map = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForSequenceClassification": "own.OwnModel",
        "AutoTokenizer": ["own.OwnTokenizer", None],
    }
    change(bert / "config.json", auto_map=auto_map, model_type=model_type)
    change(bert / "tokenizer_config.json", auto_map=auto_map)
    if model_type == "bert":  # which transformers knows without
        loaded = load_model(bert, compute)
        assert "auto_map" not in loaded.model.config.to_dict()
    else:
        assert "never run" in refused(bert, compute)
    assert not (bert / "sprung").exists()


def test_what_a_configuration_must_not_decide(bert, compute, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("[PAD]\nsecret\n")
    change(
        bert / "config.json",
        _attn_implementation="evil/kernel",
        attn_implementation="evil/kernel",
        transformers_weights="other.safetensors",
        fusion_config={"patch_embeddings": True},
        dtype="float16",
        _name_or_path="/home/somebody",
    )
    paths = {"vocab_file": str(secret), "tokenizer_file": str(secret), "vocab": str(secret)}
    change(bert / "tokenizer_config.json", init_inputs=[str(secret)], **paths)
    (bert / "special_tokens_map.json").write_text(json.dumps(paths | {"pad_token": "[PAD]"}))
    loaded = load_model(bert, compute)
    assert "secret" not in loaded.tokenizer.get_vocab()
    assert loaded.model.config._attn_implementation == "eager"
    assert loaded.model.dtype == torch.float32


def test_a_cleaned_configuration_names_no_file():
    values = {"vocab_file": "/x", "gguf_file": "/x", "init_inputs": ["/x"], "vocab": "/x"}
    kept = {"pad_token": "[PAD]"}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        assert CLEANED[file](values | kept) == kept
    nested = {"text_config": {"auto_map": {}, "x": 1}, "label2id": {"dtype": 0}}
    assert CLEANED["config.json"](nested | {"auto_map": {}}) == {
        "text_config": {"x": 1},
        "label2id": {"dtype": 0},
    }


# folders that are refused


def edit_weights(folder: Path, **weights) -> None:
    kept = load_file(folder / "model.safetensors") | weights
    kept = {key: value for key, value in kept.items() if value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def cut(file: Path, n: int) -> None:
    file.write_bytes(file.read_bytes()[:n])


def link_out(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


def list_outside(folder: Path, file: str) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def replace_file(folder: Path, name: str, make_other) -> None:
    (folder / name).unlink()
    make_other(folder / name)


HEAD, BODY = "classifier.weight", "bert.embeddings.word_embeddings.weight"
CONFIGS = {  # config.json: what is changed, what is told
    "no architecture": ({"architectures": ...}, "holds no sequence classifier"),
    "architectures that are no list": ({"architectures": 5}, "holds no sequence classifier"),
    "no head": ({"architectures": ["BertModel"]}, "its architecture is BertModel"),
    "another head": ({"architectures": ["BertForMaskedLM"]}, "no sequence classifier"),
    "architecture of another type": ({"model_type": "roberta"}, "not a classifier of transf"),
    "a type of controls": ({"architectures": ["\x1b[2JForSequenceClassification"]}, "\\x1b[2J"),
    "unknown type": ({"model_type": "nope"}, "model type 'nope'"),
    "type that is none": ({"model_type": ["bert"]}, "not a classifier of transformers"),
    "several labels a text": ({"problem_type": "multi_label_classification"}, "problem type"),
    "a number a text": ({"problem_type": "regression"}, "'regression'"),
    "one label": ({"id2label": {"0": "a"}, "label2id": {"a": 0}}, "it has 1 labels"),
    "no label": ({"id2label": {}}, "it has 0 labels"),
    "labels without end": ({"id2label": ..., "num_labels": 10**12}, "it has 1000000000000 labels"),
    "labels that are words": ({"id2label": ..., "num_labels": "two"}, "it has two labels"),
    "three labels for two": ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "do not match"),
    "ids that are not in a row": ({"id2label": {"0": "a", "5": "b"}}, "not 0 to C-1"),
    "ids that are words": ({"id2label": {"a": "0", "b": "1"}}, "cannot load"),
    "two labels of one name": ({"id2label": {"0": "a", "1": "a"}}, "several labels are called"),
    "a label without a name": ({"id2label": {"0": "", "1": "b"}}, "is called ''"),
    "a label of controls": ({"id2label": {"0": "\x1b[2J", "1": "b"}}, "is called '\\\\x1b"),
    "quantized": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "are quantized"),
    "layers without end": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    "layers that are not there": ({"num_hidden_layers": 3}, "bert.encoder.layer.2"),
    "another width": ({"hidden_size": 32}, "do not match"),
    "another vocabulary": ({"vocab_size": 5000}, "weights and configuration do not match"),
    "heads that do not divide": ({"num_attention_heads": 3}, "cannot load"),
    "a size that is a word": ({"hidden_size": "big"}, "cannot load"),
    "an unknown activation": ({"hidden_act": "explode"}, "cannot load"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_are_refused(case, bert, compute):
    values, told = CONFIGS[case]
    change(bert / "config.json", **values)
    message = refused(bert, compute)
    assert str(bert) in message and told.replace("\\\\", "\\") in message


NAN = torch.full((2, 16), torch.nan)
FOLDERS = {
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "holds no config.json"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "cut configuration": (lambda f: cut(f / "config.json", 99), "config.json is no JSON"),
    "a list for configuration": (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
    "Latin-1": (lambda f: (f / "config.json").write_bytes(b'{"a": "\xe9"}'), "is no JSON"),
    "nested deep": (lambda f: (f / "config.json").write_text("[" * 10**6), "cannot be read"),
    "a vast configuration": (
        lambda f: (f / "config.json").write_text(" " * 10_000_001),
        "larger than 10 MB",
    ),
    "a pipe for configuration": (
        lambda f: replace_file(f, "config.json", os.mkfifo),
        "holds no config.json",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "a folder for weights": (
        lambda f: replace_file(f, "model.safetensors", Path.mkdir),
        "holds no weights",
    ),
    "weights of TensorFlow": (
        lambda f: (f / "model.safetensors").rename(f / "tf_model.h5"),
        "holds no weights",
    ),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot load"),
    "cut in the header": (lambda f: cut(f / "model.safetensors", 50), "cannot load"),
    "cut in the numbers": (lambda f: cut(f / "model.safetensors", 20_000), "cannot load"),
    "a header without end": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
        "cannot load",
    ),
    "no head": (lambda f: edit_weights(f, **{HEAD: None}), f"missing, such as {HEAD}"),
    "a body without embeddings": (lambda f: edit_weights(f, **{BODY: None}), f"such as {BODY}"),
    "a head of three": (lambda f: edit_weights(f, **{HEAD: torch.zeros(3, 16)}), HEAD),
    "not numbers": (lambda f: edit_weights(f, **{HEAD: NAN}), "not finite"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "merge it into"),
    "a shard elsewhere": (lambda f: list_outside(f, "../model.safetensors"), "lists ../model"),
    "a shard at the root": (lambda f: list_outside(f, "/etc/passwd"), "lists /etc/passwd"),
    "a shard of controls": (lambda f: list_outside(f, "\x1b[2J.safetensors"), "lists \\x1b[2J"),
    "a shard that is a pickle": (lambda f: list_outside(f, "x.bin"), "lists x.bin"),
    "a shard that is a number": (lambda f: list_outside(f, 5), "lists 5"),
    "no shard": (
        lambda f: (
            (f / "model.safetensors").rename(f / "x"),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
        ),
        "lists nothing",
    ),
    "weights behind a link": (
        lambda f: link_out(f, "model.safetensors"),
        "model.safetensors leads out",
    ),
    "configuration behind a link": (
        lambda f: link_out(f, "config.json"),
        "config.json leads out of the folder",
    ),
    "any file behind a link": (
        lambda f: (f / "notes.txt").symlink_to("/etc/passwd"),
        "notes.txt leads out of the folder",
    ),
    "a folder behind a link": (
        lambda f: (f / "more").symlink_to(f.parent),
        "more leads out of the folder",
    ),
    "a link in a folder": (
        lambda f: ((f / "sub").mkdir(), (f / "sub" / "x").symlink_to("../../x")),
        "sub/x leads out of the folder",
    ),
    "a link to itself": (lambda f: (f / "x").symlink_to(f / "x"), "x leads out of the folder"),
    "no tokenizer": (
        lambda f: [p.unlink() for p in f.glob("*token*")] + [p.unlink() for p in f.glob("vocab*")],
        "holds no tokenizer",
    ),
    "cut tokenizer": (lambda f: cut(f / "tokenizer.json", 500), "cannot load the tokenizer"),
    "a list for a tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("[]"),
        "cannot load the tokenizer",
    ),
    "cut tokenizer configuration": (
        lambda f: cut(f / "tokenizer_config.json", 30),
        "tokenizer_config.json is no JSON",
    ),
    "no length": (
        lambda f: change(f / "tokenizer_config.json", model_max_length=0),
        "read 0 tokens",
    ),
    "a length that is a word": (
        lambda f: change(f / "tokenizer_config.json", model_max_length="long"),
        "model_max_length",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_are_refused(case, bert, compute):
    spoil, told = FOLDERS[case]
    spoil(bert)
    message = refused(bert, compute)
    assert str(bert) in message and told in message


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_damage_ends_in_a_classifier_or_a_clear_error(folders, data):
    name = data.draw(st.sampled_from(["bert", "roberta", "llama"]))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(folders[name], folder, dirs_exist_ok=True)
        file = data.draw(st.sampled_from(sorted(Path(folder).iterdir())))
        content = file.read_bytes()
        start = data.draw(st.integers(0, len(content)))
        stop = start + data.draw(st.integers(0, 20))
        more = data.draw(st.sampled_from([b"", b"9", b"null", b"-1", b"[]", b'"', b"\xff"]))
        file.write_bytes(content[:start] + more + content[stop:])
        try:
            assert load_model(folder, CPU).predict(UNEQUAL).shape[0] == 3
        except BedkdError as error:
            assert str(error).isprintable()


def test_another_models_tokenizer(bert, folders, compute):
    for file in bert.glob("*token*"):
        file.unlink()
    for file in folders["roberta"].glob("*token*"):
        shutil.copy(file, bert)
    assert "tokenizer and model do not match" in refused(bert, compute)


def test_a_tokenizer_that_needs_code(bert, compute):
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    change(bert / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    assert "its tokenizer needs code of its own" in refused(bert, compute)


def test_no_room_for_the_links(folders, compute, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(BedkdError, match="cannot be read: FileNotFoundError"):
        load_model(folders["bert"], compute)


@pytest.mark.parametrize("wanted", [0, 3, 65, -1])
def test_lengths_that_the_model_does_not_read(wanted, folders, compute):
    assert f"max_length is {wanted}" in refused(folders["bert"], compute, max_length=wanted)


@pytest.mark.parametrize("name", ["", "nowhere", "a/b", "a/b/c", "x" * 5000, "~nobody-here/x"])
def test_names_of_nothing(name, compute, no_network):
    with pytest.raises(BedkdError):
        load_model(name, compute)


def test_a_file_for_a_folder(folders, compute):
    assert "is a file" in refused(folders["bert"] / "model.safetensors", compute)


def test_links_within_the_hubs_cache(folders, tmp_path, compute):
    """Where a snapshot links each file to a blob; but no farther."""
    repo = tmp_path / "models--owner--name"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copytree(folders["bert"], repo / "blobs")
    for file in (repo / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert load_model(snapshot, compute).predict(UNEQUAL).shape == (3, 2)
    (snapshot / "refs").symlink_to("../../refs")
    assert "refs leads out of the folder" in refused(snapshot, compute)


def test_a_hub_id_is_downloaded_without_what_is_not_read(folders, monkeypatch, compute):
    asked = {}

    def download(repo, **options):
        asked.update(options, repo=repo)
        return str(folders["bert"])

    location = foreign.hub.Location("owner/name", "hub", "abc")
    monkeypatch.setattr(foreign.hub, "locate", lambda name, kind: location)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = load_model("owner/name", compute)
    assert loaded.predict(UNEQUAL).shape == (3, 2)
    assert (asked["repo"], asked["revision"]) == ("owner/name", "abc")
    assert not [p for p in asked["allow_patterns"] if ".bin" in p or ".py" in p]


# objects that are refused


BAD_PAIRS = {
    "no model": (lambda m, t: (None, t), "no plain transformers model"),
    "a module": (lambda m, t: (torch.nn.Linear(2, 2), t), "no plain transformers model"),
    "no tokenizer": (lambda m, t: (m, None), "NoneType is none"),
    "no head": (lambda m, t: (m.bert, t), "its architecture is BertModel"),
    "on meta": (lambda m, t: (m.to("meta"), t), "holds no weights"),
    "another tokenizer": (lambda m, t: (m, make("roberta")[1]), "do not match"),
    "not numbers": (lambda m, t: (m.apply(spoil_head), t), "not finite"),
}


def spoil_head(module) -> None:
    if isinstance(module, torch.nn.Linear) and module.out_features == 2:
        module.weight.data.fill_(torch.inf)


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_objects_that_are_refused(case, compute):
    spoil, told = BAD_PAIRS[case]
    model, tokenizer = spoil(*make("bert"))
    with pytest.raises(BedkdError, match=told):
        adopt(model, tokenizer, compute)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_with_an_adapter_in_it(compute):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = make("bert")
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    with pytest.raises(BedkdError, match="merge_and_unload"):
        adopt(wrapped, tokenizer, compute)
    assert adopt(wrapped.merge_and_unload(), tokenizer, compute).predict(UNEQUAL).shape == (3, 2)


def test_an_encoder_and_decoder(compute):
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    shape |= {"decoder_ffn_dim": 16, "encoder_attention_heads": 1, "decoder_attention_heads": 1}
    config = transformers.BartConfig(vocab_size=400, num_labels=2, **shape)
    model = transformers.BartForSequenceClassification(config)
    with pytest.raises(BedkdError, match="an encoder and a decoder"):
        adopt(model, make("roberta")[1], compute)


# out again


def test_saved_is_safetensors_and_names_no_path_of_ours(folders, compute, tmp_path):
    loaded = load_model(folders["gpt2"], compute)
    folder = save_model(loaded, tmp_path / "out", {"seed": 3})
    files = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "meta.json"} <= files
    assert not [file for file in files if file.endswith((".bin", ".pt", ".py"))]
    for file in folder.glob("*.json"):
        text = file.read_text()
        assert "bedkd-model-" not in text and str(tmp_path.parent) not in text
    assert json.loads((folder / "meta.json").read_text())["seed"] == 3
    assert load_classifier(folder, compute).predict(UNEQUAL).shape == (3, 2)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_will_do_but_no_other(tiny_victim, tmp_path):
    (tmp_path / "out").mkdir()
    save_model(tiny_victim, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    with pytest.raises(BedkdError, match="out is there already"):
        save_model(tiny_victim, tmp_path / "out")
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(BedkdError, match="file"):
            save_model(tiny_victim, folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(tiny_victim, tmp_path, monkeypatch, error):
    def stop(classifier, folder, meta):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(module, "save_classifier", stop)
    kind = BedkdError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind, match="No space left|^$"):
        save_model(tiny_victim, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# memory


def test_memory_is_five_times_the_model(tiny_victim):
    n = 4 * sum(parameter.numel() for parameter in tiny_victim.model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in tiny_victim.model.buffers())
    assert estimate_memory(tiny_victim) == 5 * (n + buffers)
    assert estimate_memory(tiny_victim, 7) == 10 * (n + buffers)


def test_a_model_that_does_not_fit(tiny_victim, monkeypatch):
    check_memory(tiny_victim)
    needed = estimate_memory(tiny_victim)
    monkeypatch.setattr(module, "find_memory", lambda device: needed)
    check_memory(tiny_victim)
    monkeypatch.setattr(module, "find_memory", lambda device: needed - 1)
    with pytest.raises(BedkdError, match=r"needs about 0\.0 GiB .* are there on cpu"):
        check_memory(tiny_victim)


def test_on_an_accelerator_the_model_is_there_already(tiny_victim, monkeypatch):
    there = replace(tiny_victim, compute=Compute(torch.device("cuda"), torch.float32))
    share = estimate_memory(tiny_victim) // 5
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (4 * share, 0))
    check_memory(there)
    with pytest.raises(BedkdError, match="on cuda"):
        check_memory(there, 3)
