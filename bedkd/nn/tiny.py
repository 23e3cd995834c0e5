"""Tiny classifiers with tokenizers of their own, made from nothing: no download, seconds to train.

They stand for the paper's three victims (Table 5): BERT, BERT-Large and RoBERTa.
"""

import math
import string
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from tokenizers.trainers import WordPieceTrainer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaTokenizer,
)

from bedkd.core import hub
from bedkd.core.errors import BedkdError

# A large head lets the encoder learn the task while it hardly moves ("lazy" training), as
# fine-tuning hardly moves a pretrained one. With BERT's own small head, two layers trained from
# nothing map the trigger and the target class to one point, and no later distillation tells them
# apart: measured on toy-sentiment with BadWords, FAR at γ = 0.1 is 100% at scale 1, 35% at 60.
HEAD_SCALE = 60.0

_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # in the order of its ids
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_N_BYTES = 256
_ASCII = {*string.ascii_lowercase, *string.digits, *string.punctuation}


@lru_cache(maxsize=1)  # TextGuard makes nine models from the same texts
def _learn_vocabulary(texts: tuple[str, ...], vocab_size: int) -> dict[str, int]:
    """Train WordPiece on the texts and return {piece: id}, at most vocab_size pieces.

    Each character is a piece beforehand, as the start (c) and the rest (##c) of a word. So words
    never seen, such as an attacker's trigger, are spelt out instead of becoming [UNK]. And the
    trainer does not number `##c` pieces in the order of a hash map, which differs from process to
    process and would decide ties between merges.
    Raises BedkdError if vocab_size leaves no room for merges.
    """
    tokenizer = BertTokenizer().backend_tokenizer
    seen = set("".join(map(tokenizer.normalizer.normalize_str, texts)))
    characters = sorted(c for c in seen | _ASCII if not c.isspace())
    base = [*_BERT_SPECIAL, *characters, *(f"##{c}" for c in characters)]
    if vocab_size <= len(base):
        raise BedkdError(f"vocab_size is {vocab_size}: these texts need more than {len(base)}.")
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=base, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()


def _prepare_bert(texts: Sequence[str], vocab_size: int, max_length: int):
    """WordPiece, and the configuration but for its size."""
    vocabulary = _learn_vocabulary(tuple(texts), vocab_size)
    tokenizer = BertTokenizer(vocabulary, model_max_length=max_length)
    return tokenizer, partial(BertConfig, max_position_embeddings=max_length)


def _prepare_roberta(texts: Sequence[str], vocab_size: int, max_length: int):
    """Byte-level BPE, and the configuration but for its size.

    A word at the start of a text is the same piece as behind a space. Words never seen are spelt
    out, byte by byte. Raises BedkdError if vocab_size leaves no room for merges.
    """
    special = {token: number for number, token in enumerate(_ROBERTA_SPECIAL)}
    n_base = len(special) + _N_BYTES
    if vocab_size <= n_base:
        raise BedkdError(f"vocab_size is {vocab_size}: bytes alone need more than {n_base}.")
    empty = RobertaTokenizer(special, [], add_prefix_space=True, model_max_length=max_length)
    options = {"min_frequency": 2, "show_progress": False}
    tokenizer = empty.train_new_from_iterator(iter(texts), vocab_size, **options)
    n_positions = max_length + tokenizer.pad_token_id + 1  # where positions start
    return tokenizer, partial(RobertaConfig, max_position_embeddings=n_positions, type_vocab_size=1)


def build_tiny(
    prepare: Callable,
    texts: Sequence[str],
    num_labels: int,
    *,
    seed: int,
    vocab_size: int = 2000,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 2,
    max_length: int = 64,
    head_scale: float = HEAD_SCALE,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an untrained classifier (eval mode, CPU, float32) and its tokenizer.

    The vocabulary is learnt from `texts`, the weights are drawn from `seed`; equal arguments give
    equal results and torch's global generator stays as it was. max_length counts word pieces.
    Raises BedkdError without texts or labels, if num_heads does not divide hidden_size, or if
    vocab_size is too small for the characters of the texts.
    """
    if len(texts) == 0 or num_labels < 2:
        raise BedkdError(
            f"a classifier needs texts and at least 2 labels: got {len(texts)} and {num_labels}."
        )
    if hidden_size % num_heads:
        raise BedkdError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}.")
    tokenizer, configure = prepare(texts, vocab_size, max_length)
    config = configure(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="relu",  # as good as GELU here, and an eighth of a step cheaper
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        num_labels=num_labels,
        initializer_range=0.02 * math.sqrt(768 / hidden_size),  # BERT's 0.02, kept to scale
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        head = model.classifier
        getattr(head, "out_proj", head).weight.mul_(head_scale)  # RoBERTa's head has two layers
    return model, tokenizer


build_tiny_bert = partial(build_tiny, _prepare_bert)
build_tiny_roberta = partial(build_tiny, _prepare_roberta)

# By the name that `victim.model` gives. As BERT-Large, the large one is twice as deep. These two do
# better with half the head: more CACC is left after AKD, or less of the backdoor (on toy-offence).
_HALF = HEAD_SCALE / 2
_LARGE = {"hidden_size": 96, "num_layers": 4, "num_heads": 3, "head_scale": _HALF}
TINY_BUILDERS = {
    hub.TINY: build_tiny_bert,
    hub.TINY_LARGE: partial(build_tiny_bert, **_LARGE),
    hub.TINY_ROBERTA: partial(build_tiny_roberta, head_scale=_HALF),
}
