"""Causal language models: load, train and save them, and ONION's score of each word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, BertLMHeadModel

from bedkd.core import hub
from bedkd.core.defence_config import LanguageConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.defences.language.packing import packed_scores
from bedkd.defences.language.perplexity import (
    LanguageModel,
    Pieces,
    encode_rows,
    perplexity,
    plain_scores,
    token_nll,
    tokenize,
)
from bedkd.nn.batching import Encoded, collate, training_batches
from bedkd.nn.classifier import quiet
from bedkd.nn.tiny import build_tiny_bert
from bedkd.nn.training import Stepper, build_optimizer

TEXTS_AT_ONCE = 256  # bounds the memory that packs take
TINY_BATCH_SIZE = 32
TOLERANCE = 1e-3  # between packed and plain perplexities, relative
PROBE = " ".join(f"{word} film is as good as the {word}" for word in "abc")


def load_language_model(name: str, max_length: int, compute: Compute) -> LanguageModel:
    """Any causal language model, by hub id or folder.

    Raises:
        BedkdError: it cannot be found or loaded, lacks weights, or is not causal.
    """
    location = hub.locate(name, "model")
    pinned = {"revision": location.revision} if location.origin in ("hub", "cache") else {}
    return _read(name, location.path, max_length, compute, **pinned)


def _read(name: str, path, max_length: int, compute: Compute, **pinned) -> LanguageModel:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, add_prefix_space=True, **pinned)
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **pinned,
            )
    except (OSError, ValueError, SafetensorError) as error:
        cause = str(error).strip().split("\n")[0]
        raise BedkdError(f"cannot load {name!r} as a causal language model: {cause}") from error
    if missing := sorted(info["missing_keys"]):
        raise BedkdError(f"{name!r} is no causal language model: it lacks {missing[0]}")
    return equip(name, model, tokenizer, max_length, compute)


def equip(name: str, model, tokenizer, max_length: int, compute: Compute) -> LanguageModel:
    """Put a model to use: check that it is causal, find out whether it can be packed.

    Raises:
        BedkdError: it is not causal.
    """
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    model = model.float().eval().to(compute.device)
    limit = getattr(model.config, "max_position_embeddings", None) or max_length
    max_length = min(max_length, limit, tokenizer.model_max_length)
    lm = LanguageModel(model, tokenizer, max_length, compute)
    if not is_causal(lm):
        raise BedkdError(
            f"{name!r} is not causal: a token's score depends on later tokens, so it gives no "
            "perplexity; name a causal language model such as gpt2"
        )
    return replace(lm, is_packed=can_pack(lm))


@torch.no_grad()
def is_causal(lm: LanguageModel) -> bool:
    """Whether no logits but the last move with the last token. Its name proves nothing: a plain
    BERT loads as a causal model with no more than a warning."""
    ids = torch.arange(1, 9, device=lm.compute.device) % len(lm.tokenizer)
    other = torch.cat([ids[:-1], ids[:1]])
    moved = lm.model(ids[None]).logits - lm.model(other[None]).logits
    before, last = moved[0, :-1].abs().max(), moved[0, -1].abs().max()
    return bool(before < TOLERANCE * last)


def can_pack(lm: LanguageModel) -> bool:
    """Whether packed scores are the plain ones: not all models take masks and positions of ours."""
    probe = tokenize(lm, [PROBE])
    try:
        packed = packed_scores(replace(lm, is_packed=True), probe)[0]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    plain = plain_scores(lm, probe)[0]
    scale = max(1.0, perplexity(lm, [PROBE])[0])
    return bool(np.abs(packed - plain).max() < TOLERANCE * scale)


def save_language_model(lm: LanguageModel, folder: Path) -> None:
    """Weights as safetensors, the tokenizer, and meta.json, which `read_language_model` needs."""
    with quiet():
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    write_json(folder / "meta.json", {"max_length": lm.max_length})


def read_language_model(folder: Path, compute: Compute) -> LanguageModel:
    """What `save_language_model` left.

    Raises:
        BedkdError: files are missing or cannot be read.
    """
    try:
        max_length = int(json.loads((folder / "meta.json").read_text())["max_length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BedkdError(f"cannot load the language model in {folder}: {error}") from error
    return _read(str(folder), folder, max_length, compute)


def train_tiny_lm(
    texts: Sequence[str], *, config: LanguageConfig, compute: Compute, seed: int
) -> LanguageModel:
    """A two-layer causal BERT trained on `texts` from nothing, with a tokenizer made from them.

    Raises:
        BedkdError: no texts.
    """
    classifier, tokenizer = build_tiny_bert(texts, 2, seed=seed)
    shape = classifier.config
    shape.is_decoder, shape.hidden_dropout_prob, shape.attention_probs_dropout_prob = True, 0.0, 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertLMHeadModel(shape).to(compute.device)
    max_length = min(config.max_length, tokenizer.model_max_length)
    rows = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    _fit(model, encode_rows(rows, tokenizer), config, compute, seed)
    return equip(hub.TINY_LM, model, tokenizer, max_length, compute)


def _fit(model, encoded: Encoded, config: LanguageConfig, compute: Compute, seed: int) -> None:
    """Cross-entropy of each next token. (`training.train` is made for classifiers.)"""
    n_steps = config.epochs * -(-len(encoded) // TINY_BATCH_SIZE)
    optimizer = build_optimizer(model, "adamw", config.learning_rate, 0.01)
    stepper = Stepper(optimizer, "linear", n_steps, 0.1, 1.0)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(config.epochs):
        for index in training_batches(encoded.lengths, TINY_BATCH_SIZE, generator):
            batch = collate(encoded, index, compute.device)
            nll, is_scored = token_nll(model, batch)
            stepper.step(nll[is_scored].mean())


def leave_one_out(lm: LanguageModel, texts: Sequence[str]) -> list[np.ndarray]:
    """f_i = PPL(text) - PPL(text without word i): one array of n_words per text (ONION, eq. 1).

    Scores are 0 for a word beyond the cut at `max_length`, for the only word that is read, and
    where one of the two perplexities has no token to score.
    """
    pieces = tokenize(lm, texts)
    order = np.argsort([len(text.ids) for text in pieces], kind="stable")
    score = packed_scores if lm.is_packed else plain_scores
    result = [np.zeros(text.n_words) for text in pieces]
    for start in range(0, len(order), TEXTS_AT_ONCE):
        index = [i for i in order[start : start + TEXTS_AT_ONCE] if can_compare(pieces[i])]
        for i, scores in zip(index, score(lm, [pieces[i] for i in index]), strict=True):
            result[i][: len(scores)] = np.nan_to_num(scores)
    return result


def can_compare(text: Pieces) -> bool:
    """Whether there are two words to be read, and something to score."""
    return len(text.spans) > 1 and len(text.ids) > 1


def textbook_leave_one_out(lm: LanguageModel, texts: Sequence[str]) -> list[np.ndarray]:
    """The same by the loop that one would first write: a forward pass for each word left out."""
    result = []
    for text in tokenize(lm, texts):
        scores = np.zeros(text.n_words)
        if can_compare(text):
            whole = textbook_perplexity(lm, text.ids)
            for i, (start, end) in enumerate(text.spans):
                scores[i] = whole - textbook_perplexity(lm, text.ids[:start] + text.ids[end:])
        result.append(np.nan_to_num(scores))
    return result


@torch.no_grad()
def textbook_perplexity(lm: LanguageModel, ids: list[int]) -> float:
    row = torch.tensor(ids, device=lm.compute.device)
    if len(row) < 2:
        return float("nan")
    logits = lm.model(input_ids=row[None]).logits[0, :-1]
    return float(cross_entropy(logits, row[1:]).exp())
