"""Tiny classifiers with tokenizers of their own, made from nothing: no download, seconds to train.

They stand for the paper's three victims (Table 5): BERT, BERT-Large and RoBERTa.
"""

import math
import string
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
)

from bedkd.core import hub
from bedkd.core.errors import BedkdError

# A large head lets the encoder learn the task while it hardly moves ("lazy" training), as
# fine-tuning hardly moves a pretrained one. With BERT's own small head, two layers trained from
# nothing map the trigger and the target class to one point, and no later distillation tells them
# apart: measured on toy-sentiment with BadWords, FAR at γ = 0.1 is 100% at scale 1, 35% at 60.
HEAD_SCALE = 60.0

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # in the order of its ids
_N_BYTES = 256


def _lay_out(model: WordPiece) -> Tokenizer:
    """Put BERT's lower-casing normaliser and its splitting into words before a WordPiece model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _base_pieces(texts: Sequence[str]) -> list[str]:
    """Return [UNK] and the like, then each character as the start (c) and the rest (##c) of a word.

    Naming them beforehand does two things. Words never seen, such as an attacker's trigger, are
    spelt out instead of becoming [UNK]. And the trainer numbers `##c` pieces in the order of a
    hash map, which differs from process to process and would decide ties between merges.
    """
    normalizer = BertNormalizer(lowercase=True)
    seen = set("".join(normalizer.normalize_str(text) for text in texts))
    ascii_ = string.ascii_lowercase + string.digits + string.punctuation
    characters = sorted(c for c in seen | set(ascii_) if not c.isspace())
    return [*_SPECIAL, *characters, *(f"##{c}" for c in characters)]


@lru_cache(maxsize=1)  # TextGuard makes nine models from the same texts
def _learn_vocabulary(texts: tuple[str, ...], vocab_size: int) -> dict[str, int]:
    """Train WordPiece on the texts and return {piece: id}, at most vocab_size pieces.

    Raises BedkdError if vocab_size leaves no room for merges.
    """
    base = _base_pieces(texts)
    if vocab_size <= len(base):
        raise BedkdError(f"vocab_size is {vocab_size}: these texts need more than {len(base)}.")
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=base, show_progress=False
    )
    tokenizer = _lay_out(WordPiece(unk_token="[UNK]"))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()


def _build_tokenizer(vocabulary: dict[str, int], max_length: int) -> PreTrainedTokenizerFast:
    """Wrap {piece: id} as a transformers tokenizer that writes [CLS] text [SEP] (text [SEP])."""
    tokenizer = _lay_out(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, _SPECIAL, strict=True)),
    )


def _learn_byte_pairs(texts: Sequence[str], vocab_size: int, max_length: int) -> RobertaTokenizer:
    """Train RoBERTa's byte-level BPE on the texts, at most vocab_size pieces.

    A word at the start of a text is the same piece as behind a space. Words never seen are spelt
    out, byte by byte. Raises BedkdError if vocab_size leaves no room for merges.
    """
    if vocab_size <= len(_ROBERTA_SPECIAL) + _N_BYTES:
        n_base = len(_ROBERTA_SPECIAL) + _N_BYTES
        raise BedkdError(f"vocab_size is {vocab_size}: bytes alone need more than {n_base}.")
    special = {token: number for number, token in enumerate(_ROBERTA_SPECIAL)}
    empty = RobertaTokenizer(special, [], add_prefix_space=True, model_max_length=max_length)
    options = {"min_frequency": 2, "show_progress": False}
    return empty.train_new_from_iterator(iter(texts), vocab_size, **options)


def build_tiny_bert(
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
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    """Return an untrained BERT classifier (eval mode, CPU, float32) and its tokenizer.

    The vocabulary is learnt from `texts`, the weights are drawn from `seed`; equal arguments give
    equal results and torch's global generator stays as it was. max_length counts word pieces.
    Raises BedkdError without texts or labels, if num_heads does not divide hidden_size, or if
    vocab_size is too small for the characters of the texts.
    """
    _check(texts, num_labels, hidden_size, num_heads)
    vocabulary = _learn_vocabulary(tuple(texts), vocab_size)
    config = BertConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=max_length,
        pad_token_id=vocabulary["[PAD]"],
        **_shape(num_labels, hidden_size, num_layers, num_heads),
    )
    model = _draw(BertForSequenceClassification, config, seed)
    with torch.no_grad():
        model.classifier.weight.mul_(head_scale)
    return model, _build_tokenizer(vocabulary, max_length)


def build_tiny_roberta(
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
) -> tuple[RobertaForSequenceClassification, RobertaTokenizer]:
    """The same as `build_tiny_bert`, with RoBERTa's tokenizer, positions and head."""
    _check(texts, num_labels, hidden_size, num_heads)
    tokenizer = _learn_byte_pairs(texts, vocab_size, max_length)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=max_length + tokenizer.pad_token_id + 1,  # where positions start
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_shape(num_labels, hidden_size, num_layers, num_heads),
    )
    model = _draw(RobertaForSequenceClassification, config, seed)
    with torch.no_grad():
        model.classifier.out_proj.weight.mul_(head_scale)
    return model, tokenizer


def _check(texts: Sequence[str], num_labels: int, hidden_size: int, num_heads: int) -> None:
    if len(texts) == 0 or num_labels < 2:
        raise BedkdError(
            f"a classifier needs texts and at least 2 labels: got {len(texts)} and {num_labels}."
        )
    if hidden_size % num_heads:
        raise BedkdError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}.")


def _shape(num_labels: int, hidden_size: int, num_layers: int, num_heads: int) -> dict:
    """What BERT's and RoBERTa's configurations have in common."""
    return {
        "hidden_act": "relu",  # as good as GELU here, and an eighth of a step cheaper
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "intermediate_size": 4 * hidden_size,
        "num_labels": num_labels,
        "initializer_range": 0.02 * math.sqrt(768 / hidden_size),  # BERT's 0.02, kept to scale
    }


def _draw(kind: type[PreTrainedModel], config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model with weights from `seed`; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval()


# By the name that `victim.model` gives. As BERT-Large, the large one is twice as deep. These two do
# better with half the head: more CACC is left after AKD, or less of the backdoor (on toy-offence).
_HALF = HEAD_SCALE / 2
_LARGE = {"hidden_size": 96, "num_layers": 4, "num_heads": 3, "head_scale": _HALF}
TINY_BUILDERS = {
    hub.TINY: build_tiny_bert,
    hub.TINY_LARGE: partial(build_tiny_bert, **_LARGE),
    hub.TINY_ROBERTA: partial(build_tiny_roberta, head_scale=_HALF),
}
