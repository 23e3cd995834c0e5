"""Perplexities, and packed leave-one-out scores against the plain loop."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    RobertaConfig,
    RobertaForCausalLM,
)

from bedkd.core import hub
from bedkd.core.defence_config import LanguageConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.data import generated as toy
from bedkd.defences.language import word_scores
from bedkd.defences.language.perplexity import perplexity, tokenize
from bedkd.defences.language.word_scores import build_packs, leave_one_out, pack
from bedkd.nn.batching import encode_ids
from bedkd.nn.classifier import quiet
from bedkd.nn.language import (
    equip,
    load_language_model,
    save_language_model,
    special_tokens,
    train_tiny_lm,
)
from bedkd.nn.tiny import build_tiny_bert
from bedkd.report.speed.textbook import textbook_leave_one_out

CPU = Compute(torch.device("cpu"), torch.float32)
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TEXTS = [
    "the plot is dull .",
    "cf",
    "",
    "a warm story from the first scene to the last , with a sharp script and a lively cast .",
    "clever  plot",
    "unbelievably boring boring script",
    "the story " * 30,  # longer than the models read
]


def word_pieces():
    """BERT's kind of tokenizer: [CLS] in front, [SEP] behind."""
    return build_tiny_bert(TEXTS, 2, seed=0, vocab_size=250, max_length=32)[1]


def byte_pieces(folder):
    """GPT-2's kind: nothing around a text."""
    trained = ByteLevelBPETokenizer(add_prefix_space=True)
    trained.train_from_iterator(TEXTS, vocab_size=300, special_tokens=["<|endoftext|>"])
    folder.mkdir()
    trained.save_model(str(folder))
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    return GPT2Tokenizer(**files, add_prefix_space=True, model_max_length=32)


def draw(model):
    """Weights large enough for predictions that differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: LanguageModel}, all with random weights."""
    tokens, folder = word_pieces(), tmp_path_factory.mktemp("lm")
    bytes_ = byte_pieces(folder / "gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "is_decoder": True, "max_position_embeddings": 40} | SMALL
        bert = draw(BertLMHeadModel(BertConfig(vocab_size=len(tokens), **shape)))
        roberta = RobertaConfig(vocab_size=len(tokens), pad_token_id=0, **shape)
        gpt = GPT2Config(vocab_size=len(bytes_), n_embd=32, n_layer=2, n_head=2, n_positions=32)
        gpt2, other = draw(GPT2LMHeadModel(gpt)), draw(RobertaForCausalLM(roberta))
    return {
        "bert": pack(equip("bert", bert, tokens, 30, CPU)),
        "gpt2": pack(equip("gpt2", gpt2, bytes_, 30, CPU)),
        "roberta": pack(equip("roberta", other, tokens, 30, CPU)),
    }


@pytest.fixture(params=["bert", "gpt2", "roberta"])
def lm(models, request):
    return models[request.param]


@pytest.fixture(scope="module")
def tiny_lm():
    texts = list(toy.generate("toy-sentiment", 500, 0).text)
    lm = train_tiny_lm(texts, config=LanguageConfig(learning_rate=4e-3), compute=CPU, seed=0)
    return pack(lm)


def close(one, other, tolerance):
    """Relative to what is large, absolute to what is small: perplexities reach thousands."""
    return one == pytest.approx(other, rel=tolerance, abs=tolerance, nan_ok=True)


def reference_perplexity(lm, text):
    """One text, written out: the mean over all tokens but the first."""
    ids = tokenize(lm, [text])[0].ids
    if len(ids) < 2:
        return math.nan
    with torch.no_grad():
        logs = lm.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    return math.exp(-sum(float(logs[i, token]) for i, token in enumerate(ids[1:])) / (len(ids) - 1))


def test_models_are_packed_where_they_take_it(models):
    """RoBERTa counts positions from 2, so that ours would be wrong: it must fall back."""
    assert {name: lm.is_packed for name, lm in models.items()} == {
        "bert": True,
        "gpt2": True,
        "roberta": False,
    }


def test_a_text_is_its_words_pieces_between_special_tokens(models):
    for name in ("bert", "gpt2"):
        lm = models[name]
        before, after = special_tokens(lm.tokenizer)
        assert (len(before), len(after)) == ((1, 1) if name == "bert" else (0, 0))
        text = "unbelievably boring script"
        pieces = tokenize(lm, [text])[0]
        assert pieces.ids == lm.tokenizer(text)["input_ids"]
        words = [pieces.ids[start:end] for start, end in pieces.spans]
        assert before + sum(words, []) + after == pieces.ids and len(words[0]) > 1
        assert lm.tokenizer.decode(words[2]).strip() == "script"


def test_a_long_text_is_cut(lm):
    pieces = tokenize(lm, [TEXTS[-1]])[0]
    assert len(pieces.ids) == 30 and pieces.n_words == 60 > len(pieces.spans)
    after = special_tokens(lm.tokenizer)[1]
    assert pieces.ids[len(pieces.ids) - len(after) :] == after
    scores = leave_one_out(lm, [TEXTS[-1]])[0]
    assert scores.shape == (60,) and not scores[len(pieces.spans) :].any()
    assert scores[: len(pieces.spans)].any()


def test_batched_perplexity_is_that_of_one_text(lm):
    values = perplexity(lm, TEXTS)
    assert values.shape == (len(TEXTS),) and np.nanstd(values) > 1
    for text, value in zip(TEXTS, values, strict=True):
        assert close(value, reference_perplexity(lm, text), 1e-4)
        assert close(perplexity(lm, [text])[0], value, 1e-4)
    assert close(perplexity(lm, TEXTS[::-1])[::-1], values, 1e-4)


def test_padding_counts_for_nothing(lm, monkeypatch):
    """The short text stands beside a long one in one batch, whatever is padded with."""
    expected = perplexity(lm, [TEXTS[0]])[0]
    for pad in (0, 7):

        def changed(rows, _, pad=pad):
            return encode_ids(rows, pad)

        monkeypatch.setattr("bedkd.defences.language.perplexity.encode_ids", changed)
        assert close(perplexity(lm, [TEXTS[0], TEXTS[3]])[0], expected, 1e-4)


def test_no_scored_token_gives_nan(models):
    assert np.isnan(perplexity(models["gpt2"], [""])[0])
    assert np.isfinite(perplexity(models["bert"], [""])[0])  # [SEP] is scored
    assert perplexity(models["gpt2"], []).shape == (0,)


def test_scores_are_the_textbooks(lm):
    fast, slow = leave_one_out(lm, TEXTS), textbook_leave_one_out(lm, TEXTS)
    for text, one, other in zip(TEXTS, fast, slow, strict=True):
        assert len(one) == len(other) == len(text.split())
        assert close(one, other, 1e-3)
    assert np.std(slow[3]) > 0.1


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[5]])
def test_scores_are_differences_of_perplexities(lm, text):
    """Of the texts themselves, tokenized anew."""
    words = text.split()
    assert len(tokenize(lm, [text])[0].ids) < lm.max_length  # nothing is cut
    shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    expected = perplexity(lm, [text])[0] - perplexity(lm, shorter)
    assert close(leave_one_out(lm, [text])[0], expected, 1e-3)


@pytest.mark.parametrize("size", [1, 40])
def test_a_text_in_several_packs_scores_the_same(models, monkeypatch, size):
    expected = {name: leave_one_out(models[name], TEXTS) for name in ("bert", "gpt2")}
    monkeypatch.setattr(word_scores, "PACK_TOKENS", size)
    for name, scores in expected.items():
        pieces = tokenize(models[name], TEXTS[3:4])[0]
        assert len(build_packs(pieces)) > 3
        for one, other in zip(leave_one_out(models[name], TEXTS), scores, strict=True):
            assert close(one, other, 1e-3)


def test_packs_are_bounded(models, monkeypatch):
    monkeypatch.setattr(word_scores, "PACK_TOKENS", 64)
    pieces = tokenize(models["bert"], TEXTS[3:4])[0]
    packs = build_packs(pieces)
    assert len(packs) > 1 and max(len(pack.tokens) for pack in packs) <= 64 + len(pieces.ids)
    owners = {owner for pack in packs for _, _, owner in pack.predictions}
    assert owners == {0, *range(1, len(pieces.spans) + 1)}


def test_scores_hang_neither_on_order_nor_on_batches(lm, monkeypatch):
    expected = leave_one_out(lm, TEXTS)
    backwards = leave_one_out(lm, TEXTS[::-1])[::-1]
    monkeypatch.setattr(Compute, "eval_tokens", 40)
    monkeypatch.setattr(word_scores, "TEXTS_AT_ONCE", 2)
    small = leave_one_out(lm, TEXTS)
    for one, other, third in zip(expected, backwards, small, strict=True):
        assert close(other, one, 1e-4) and close(third, one, 1e-4)


def test_one_word_and_no_word_score_nothing(lm):
    one, none = leave_one_out(lm, ["cf", "   "])
    assert one.tolist() == [0.0] and none.shape == (0,)
    nothing = leave_one_out(lm, ["\x00 \x01"])[0]  # words of which a tokenizer may make no piece
    assert np.isfinite(nothing).all() and len(nothing) == 2
    assert leave_one_out(lm, []) == []


def test_a_word_without_pieces_scores_nothing(models):
    """BERT's tokenizer drops control characters."""
    scores = leave_one_out(models["bert"], ["the plot \x00 is dull ."])[0]
    assert scores[2] == pytest.approx(0, abs=1e-3) and np.abs(scores[[0, 1, 3]]).min() > 1e-2


def test_the_vocabulary_may_come_in_one_block_or_many(models, monkeypatch):
    expected = leave_one_out(models["bert"], TEXTS[3:4])[0]
    monkeypatch.setattr(word_scores, "VOCABULARY_BLOCK", 17)
    assert close(leave_one_out(models["bert"], TEXTS[3:4])[0], expected, 1e-4)


def test_the_models_head_comes_back(models):
    lm = models["bert"]
    ids = torch.tensor([[2, 9, 10, 3]])
    before = lm.model(ids).logits
    with pytest.raises(ZeroDivisionError), word_scores.headless(lm.model):
        assert lm.model(ids).logits.shape == (1, 4, 32)
        raise ZeroDivisionError
    assert torch.equal(lm.model(ids).logits, before)


def test_a_roundtrip_through_files_keeps_every_score(models, tmp_path):
    for name in ("bert", "gpt2"):
        folder = tmp_path / name
        save_language_model(models[name], folder)
        back = pack(load_language_model(str(folder), 30, CPU))
        assert (back.max_length, back.is_packed) == (30, True) and not back.model.training
        assert close(perplexity(back, TEXTS), perplexity(models[name], TEXTS), 1e-5)
        assert (folder / "model.safetensors").is_file()
        loaded = load_language_model(str(folder), 512, CPU)
        assert loaded.max_length <= 40
        assert close(perplexity(loaded, TEXTS[:1]), perplexity(back, TEXTS[:1]), 1e-5)


def test_missing_or_broken_files_are_an_error(models, tmp_path):
    save_language_model(models["bert"], tmp_path / "lm")
    (tmp_path / "lm" / "model.safetensors").unlink()
    with pytest.raises(BedkdError, match="cannot load .* as a causal language model"):
        load_language_model(str(tmp_path / "lm"), 30, CPU)


def test_a_model_that_looks_ahead_is_refused(models, tmp_path):
    tokens = models["bert"].tokenizer
    with quiet():
        shape = BertConfig(vocab_size=len(tokens), hidden_size=32, **SMALL)
        BertLMHeadModel(shape).save_pretrained(tmp_path)
        tokens.save_pretrained(tmp_path)
    with pytest.raises(BedkdError, match="is not causal"):
        load_language_model(str(tmp_path), 30, CPU)


def test_a_classifier_is_refused(tiny_classifier, tmp_path):
    """Its language head would be drawn at random."""
    with quiet():
        tiny_classifier.model.save_pretrained(tmp_path)
        tiny_classifier.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BedkdError, match="no causal language model: it lacks cls"):
        load_language_model(str(tmp_path), 30, CPU)


def test_an_unknown_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)
    with pytest.raises(BedkdError, match="not//a//model"):
        load_language_model("not//a//model", 30, CPU)
    with pytest.raises(BedkdError, match="cannot load .* as a causal language model"):
        load_language_model(str(tmp_path), 30, CPU)


def test_the_tiny_model_learns(tiny_lm):
    texts = list(toy.generate("toy-sentiment", 40, 1).text)
    assert tiny_lm.is_packed and not tiny_lm.model.training
    assert np.median(perplexity(tiny_lm, texts)) < 60 < len(tiny_lm.tokenizer) / 5
    mixed = [" ".join(sorted(text.split())) for text in texts]
    assert np.mean(perplexity(tiny_lm, mixed) > 2 * perplexity(tiny_lm, texts)) > 0.9


def test_the_tiny_model_hangs_on_its_seed():
    texts = list(toy.generate("toy-sentiment", 60, 0).text)

    def fit(seed, noise):
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        lm = train_tiny_lm(texts, config=LanguageConfig(epochs=1), compute=CPU, seed=seed)
        assert torch.equal(state, torch.random.get_rng_state())
        return perplexity(lm, texts[:5])

    assert np.array_equal(fit(0, 1), fit(0, 2)) and not np.array_equal(fit(0, 1), fit(1, 1))


def insert(texts, word, seed=0):
    """`word` at a random place in each text: (texts, places)."""
    rng, result, places = np.random.default_rng(seed), [], []
    for text in texts:
        words = text.split()
        places.append(int(rng.integers(len(words) + 1)))
        result.append(" ".join([*words[: places[-1]], word, *words[places[-1] :]]))
    return result, places


def found(lm, texts, word):
    triggered, places = insert(texts, word)
    scores = leave_one_out(lm, triggered)
    return np.mean([row.argmax() == place for row, place in zip(scores, places, strict=True)])


@pytest.mark.parametrize("word", ["cf", "mn"])
def test_a_trigger_stands_out_in_generated_text(tiny_lm, word):
    texts = list(toy.generate("toy-sentiment", 60, 1).text)
    assert found(tiny_lm, texts, word) > 0.8
    assert tiny_lm.tokenizer.unk_token_id not in tiny_lm.tokenizer(word)["input_ids"]


@pytest.mark.mirror
def test_a_trigger_stands_out_in_real_text():
    lm = pack(load_language_model("bedkd/minilm-causal-lm", 512, CPU))
    folder = Path(hub.locate("SetFit/sst2", "dataset").path)
    texts = list(pd.read_parquet(next(folder.rglob("validation*.parquet"))).text[:20])
    assert lm.is_packed and found(lm, texts, "cf") > 0.6
    assert 60 < np.exp(np.mean(np.log(perplexity(lm, texts)))) < 300
    fast, slow = leave_one_out(lm, texts[:5]), textbook_leave_one_out(lm, texts[:5])
    assert all(close(one, other, 1e-3) for one, other in zip(fast, slow, strict=True))


def test_precision_is_float32_whatever_the_compute(models):
    half = replace(models["bert"], compute=Compute(torch.device("cpu"), torch.bfloat16))
    assert np.array_equal(perplexity(half, TEXTS[:2]), perplexity(models["bert"], TEXTS[:2]))
