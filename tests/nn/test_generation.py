"""A text, and what a causal language model says next."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from bedkd.core import hub
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.nn import generation
from bedkd.nn.generation import continue_texts, finish, match_spacing, sample
from bedkd.nn.language import equip, load_language_model
from bedkd.nn.tiny import build_tiny_bert

CPU = Compute(torch.device("cpu"), torch.float32)
TEXTS = [
    "the plot is dull .",
    "clever",
    "a warm story from the first scene to the last , with a sharp script and a lively cast .",
    "the story is boring .",
    "the story " * 30,  # longer than the models read
    "",
]


def draw(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def lm(request, tmp_path_factory):
    """Random weights; GPT-2 has no special token in front of a text."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == "bert":
            tokens = build_tiny_bert(TEXTS, 2, seed=0, vocab_size=250, max_length=32)[1]
            shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            shape |= {"is_decoder": True, "max_position_embeddings": 40, "intermediate_size": 64}
            return equip(
                "bert",
                draw(BertLMHeadModel(BertConfig(vocab_size=len(tokens), **shape))),
                tokens,
                40,
                CPU,
            )
        letters = {
            c: i for i, c in enumerate("Ġabcdefghijklmnopqrstuvwxyz.,!?0123456789<>|ABCDEFGH")
        }
        letters["<|endoftext|>"] = len(letters)
        tokens = GPT2Tokenizer(letters, [], model_max_length=40)
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
        return equip(
            "gpt2",
            draw(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), **shape))),
            tokens,
            40,
            CPU,
        )


def test_a_text_goes_on_and_stays_as_it_was(lm):
    made = continue_texts(lm, TEXTS, 12, seed=0)
    assert len(made) == len(TEXTS)
    for text, longer in zip(TEXTS, made, strict=True):
        assert longer is not None and longer.startswith(text) and len(longer) > len(text)
        assert not any(token in longer for token in lm.tokenizer.all_special_tokens)
        assert "\n" not in longer and longer == longer.rstrip()


def test_the_seed_decides_and_nothing_else(lm):
    state = torch.random.get_rng_state()
    first = continue_texts(lm, TEXTS, 10, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert continue_texts(lm, TEXTS, 10, seed=3) == first
    assert continue_texts(lm, TEXTS, 10, seed=4) != first
    assert continue_texts(lm, [TEXTS[0]] * 3, 10, seed=0)[0] != TEXTS[0]
    assert len(set(continue_texts(lm, [TEXTS[0]] * 20, 10, seed=0))) > 10  # no fixed sentence


def test_company_in_a_batch_is_no_matter(lm, monkeypatch):
    expected = continue_texts(lm, TEXTS, 10, seed=3)
    monkeypatch.setattr(generation, "BATCH_SIZE", 1)
    assert continue_texts(lm, TEXTS, 10, seed=3) == expected


def test_samples_are_the_models_own_likeliest_tokens(lm, monkeypatch):
    """Against one pass over the whole sequence: each token is the one that its number falls on."""
    monkeypatch.setattr(generation, "TOP_K", 5)
    rows = torch.tensor([[2, 7, 9, 11], [2, 12, 8, 5]])
    noise = torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
    new = sample(lm, rows, noise)
    whole = torch.cat([rows, new], dim=1)
    with torch.no_grad():
        logits = lm.model(whole).logits
    for i in range(2):
        for t in range(6):
            row = logits[i, 3 + t].clone()
            row[lm.tokenizer.all_special_ids] = -torch.inf
            p, tokens = row.softmax(-1).sort(descending=True)
            kept = [k for k in range(5) if p[:k].sum() < 0.95]
            mass, chosen = p[kept].sum() * noise[i, t], None
            for k in kept:
                chosen, mass = tokens[k], mass - p[k]
                if mass < 0:
                    break
            assert new[i, t] == chosen


def test_shares_are_those_of_the_model(lm):
    """Many draws of one token: as often as its probability says."""
    n = 4000
    rows = torch.tensor([[2, 7, 9, 11]])
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    drawn = sample(lm, rows.expand(n, -1), noise).flatten().bincount(minlength=len(lm.tokenizer))
    with torch.no_grad():
        logits = lm.model(rows).logits[0, -1]
    logits[lm.tokenizer.all_special_ids] = -torch.inf
    p, tokens = logits.softmax(-1).topk(min(50, len(logits)))
    p = p * (p.cumsum(0) - p < 0.95)
    p /= p.sum()
    assert (drawn[tokens] / n - p).abs().max() < 0.03
    assert drawn[lm.tokenizer.all_special_ids].sum() == 0


@pytest.mark.parametrize(
    "tail, wanted",
    [
        (" it is fine . and then", " it is fine ."),
        (" really ? yes ! no", " really ? yes !"),
        (" no end in sight", " no end in sight"),
        (" costs 3.5 million", " costs 3.5 million"),
        (" . . .", ""),
        (" ... but\nnot", " ... but not"),
        ("ing well.  So", "ing well."),
        ("", ""),
    ],
)
def test_a_tail_ends_with_its_last_sentence(tail, wanted):
    assert finish(tail) == wanted


def test_a_tail_sets_its_punctuation_as_the_text_does():
    assert match_spacing(" so it is. # fun, 3.5", "a text .") == " so it is . #fun , 3.5"
    assert match_spacing(" so it is. @ me", "A text.") == " so it is. @me"


def test_no_word_no_continuation(lm, monkeypatch):
    monkeypatch.setattr(generation, "decode_tail", lambda *_: " . . !")
    assert continue_texts(lm, TEXTS[:2], 5, seed=0) == [None, None]
    assert continue_texts(lm, [], 5, seed=0) == []


@pytest.mark.parametrize("n", [39, 40, 500])
def test_more_new_tokens_than_the_model_takes(lm, n):
    with pytest.raises(BedkdError, match=rf"n_new_tokens is {n}, but the language model takes 39"):
        continue_texts(replace(lm, max_length=39), TEXTS, n, seed=0)


@pytest.mark.mirror
def test_a_real_model_says_english():
    lm = load_language_model("bedkd/minilm-causal-lm", 96, CPU)
    file = f"{hub.locate('SetFit/sst2', 'dataset').path}/validation.parquet"
    texts = list(pd.read_parquet(file).text[:12])
    made = continue_texts(lm, texts, 16, seed=0)
    tails = [longer[len(text) :] for text, longer in zip(texts, made, strict=True) if longer]
    assert len(set(tails)) == len(tails) >= 10
    words = [word for tail in tails for word in tail.split()]
    assert sum(word in {"the", "a", "of", "and", "is", "to", "in", "it"} for word in words) > 12
