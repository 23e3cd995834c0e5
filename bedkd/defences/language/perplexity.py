"""Perplexity under a causal language model, and a text as the pieces of its words.

A text is its words (split at white space), a word is its own pieces, written as after a space; so
a text without a word is the same pieces without that word's. The special tokens that a tokenizer
puts around a text stay: those in front are context and are not scored, those behind are. That is
how the word-piece perplexities of such models are counted: `bedkd/minilm-causal-lm` has 127 on
SST-2 by its own documentation, and measured here 131 (500 rows of the validation split), but 153
without the final [SEP] and 168 without [CLS] too. GPT-2 has no special tokens, and its first
token is not scored. All is computed in float32: the scores are small differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import torch

from bedkd.nn.batching import collate, encode_ids, evaluation_batches
from bedkd.nn.language import LanguageModel, special_tokens, token_nll


@dataclass(frozen=True)
class Pieces:
    """One text as token ids, and where each of its words is: `ids[start:end]`.

    Words beyond the cut at `max_length` have no span.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    n_words: int


def tokenize(lm: LanguageModel, texts: Sequence[str]) -> list[Pieces]:
    """Each distinct word is tokenized once, by itself."""
    split = [text.split() for text in texts]
    words = sorted({word for row in split for word in row})
    options = {"is_split_into_words": True, "add_special_tokens": False}
    ids = lm.tokenizer([[word] for word in words], **options)["input_ids"] if words else []
    known = dict(zip(words, ids, strict=True))
    before, after = special_tokens(lm.tokenizer)
    limit = lm.max_length - len(after)
    return [_lay_out([known[word] for word in row], before, after, limit) for row in split]


def _lay_out(words: list[list[int]], before: list[int], after: list[int], limit: int) -> Pieces:
    """The words' pieces in one row, cut so that `after` begins at `limit` at the latest."""
    places = pairwise(accumulate(map(len, words), initial=len(before)))
    spans = [(start, min(end, limit)) for start, end in places if start < limit]
    ids = [*before, *chain.from_iterable(words)][:limit]
    return Pieces([*ids, *after], spans, len(words))


def perplexity(lm: LanguageModel, texts: Sequence[str]) -> np.ndarray:
    """exp of the mean NLL of a text's tokens, [N]; nan where there is no token to score."""
    return sequence_perplexity(lm, [text.ids for text in tokenize(lm, texts)])


@torch.no_grad()
def sequence_perplexity(lm: LanguageModel, rows: Sequence[list[int]]) -> np.ndarray:
    """The same for token ids, [N]."""
    result = np.full(len(rows), np.nan)
    places = np.array([i for i, row in enumerate(rows) if len(row) > 1], dtype=int)
    encoded = encode_ids([rows[i] for i in places], lm.tokenizer.pad_token_id or 0)
    # logits are large: a quarter of the tokens that a classifier takes at once
    for index in evaluation_batches(encoded.lengths, lm.compute.eval_tokens // 4):
        nll, is_scored = token_nll(lm.model, collate(encoded, index, lm.compute.device))
        total = (nll.double() * is_scored).sum(dim=1)
        result[places[index]] = (total / is_scored.sum(dim=1)).exp().cpu()
    return result
