"""Causal language models: load, check, train and save them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, BertLMHeadModel

from bedkd.core import hub
from bedkd.core.defence_config import LanguageConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.nn.batching import collate, encode, training_batches
from bedkd.nn.classifier import quiet
from bedkd.nn.tiny import build_tiny_bert
from bedkd.nn.training import Stepper, build_optimizer

TINY_BATCH_SIZE = 32
TOLERANCE = 1e-3  # of what a later token moves, relative


@dataclass(frozen=True)
class LanguageModel:
    """A causal model with all that it takes to read or go on with a text; in eval mode, float32."""

    model: torch.nn.Module
    tokenizer: object
    max_length: int  # tokens of a text, special tokens included; the rest is not read
    compute: Compute
    is_packed: bool = False  # ONION's: it takes several variants of a text in one sequence


def load_language_model(name: str, max_length: int, compute: Compute) -> LanguageModel:
    """Any causal language model, by hub id or folder.

    Raises BedkdError: it cannot be found or loaded, lacks weights, or is not causal.
    """
    location = hub.locate(name, "model")
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    path, pinned = location.path, location.pinned
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                path, add_prefix_space=True, **location.pinned
            )
            model, info = AutoModelForCausalLM.from_pretrained(path, **options, **pinned)
    except (OSError, ValueError, SafetensorError) as error:
        cause = str(error).strip().split("\n")[0]
        raise BedkdError(f"cannot load {name!r} as a causal language model: {cause}") from error
    if missing := sorted(info["missing_keys"]):
        raise BedkdError(f"{name!r} is no causal language model: it lacks {missing[0]}")
    return equip(name, model, tokenizer, max_length, compute)


def equip(name: str, model, tokenizer, max_length: int, compute: Compute) -> LanguageModel:
    """Put a model to use. Raises BedkdError if it is not causal."""
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
    return lm


@torch.no_grad()
def is_causal(lm: LanguageModel) -> bool:
    """Whether no logits but the last move with the last token. Its name proves nothing: a plain
    BERT loads as a causal model with no more than a warning."""
    ids = torch.arange(1, 9, device=lm.compute.device) % len(lm.tokenizer)
    other = torch.cat([ids[:-1], ids[:1]])
    moved = lm.model(ids[None]).logits - lm.model(other[None]).logits
    before, last = moved[0, :-1].abs().max(), moved[0, -1].abs().max()
    return bool(before < TOLERANCE * last)


def special_tokens(tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts in front of a text and behind it."""
    whole = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def save_language_model(lm: LanguageModel, folder: Path) -> None:
    """Weights as safetensors, and the tokenizer."""
    with quiet():
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)


def train_tiny_lm(
    texts: Sequence[str], *, config: LanguageConfig, compute: Compute, seed: int
) -> LanguageModel:
    """A two-layer causal BERT trained on `texts` from nothing, with a tokenizer made from them.

    The loss is the cross-entropy of each next token (`training.train` is made for classifiers).
    Raises BedkdError if there are no texts.
    """
    classifier, tokenizer = build_tiny_bert(texts, 2, seed=seed)
    shape = classifier.config
    shape.is_decoder, shape.hidden_dropout_prob, shape.attention_probs_dropout_prob = True, 0.0, 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertLMHeadModel(shape).to(compute.device).train()
    max_length = min(config.max_length, tokenizer.model_max_length)
    encoded = encode(tokenizer, texts, max_length)
    steps = config.epochs * math.ceil(len(encoded) / TINY_BATCH_SIZE)
    optimizer = build_optimizer(model, "adamw", config.learning_rate, weight_decay=0.01)
    stepper = Stepper(optimizer, "linear", steps, warmup_share=0.1, max_norm=1.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        for index in training_batches(encoded.lengths, TINY_BATCH_SIZE, generator):
            nll, is_scored = token_nll(model, collate(encoded, index, compute.device))
            stepper.step(nll[is_scored].mean())
    return equip(hub.TINY_LM, model, tokenizer, max_length, compute)


def token_nll(model, batch: dict) -> tuple[Tensor, Tensor]:
    """NLL of each token but the first, [B, L - 1], and which of them are no padding."""
    logits = model(**batch, use_cache=False).logits[:, :-1].float()
    targets = batch["input_ids"][:, 1:]
    nll = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view(targets.shape), batch["attention_mask"][:, 1:].bool()
