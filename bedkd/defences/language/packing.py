"""Leave-one-out scores without computing again what stands before a word that is left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bedkd.defences.language.perplexity import LanguageModel, Pieces
from bedkd.nn.batching import evaluation_batches

PACK_TOKENS = 512  # in one pack; attention costs the square of it
VOCABULARY_BLOCK = 256  # logits of so many words at a time: they stay in a CPU's cache


@dataclass(frozen=True)
class Pack:
    """A text and, behind it in one sequence [T], what follows some of its words.

    The tokens after word i see the text up to that word and themselves, at the positions that
    they have in the text without it. So what stands before the word is computed once for all.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]  # 0: the text itself; i + 1: what follows word i
    n_seen: list[int]  # how many of the text's tokens one sees, 0 for the text's own
    places: list[int]  # where in the sequence a token is predicted from, [S]
    targets: list[int]  # which token that is, [S]
    owners: list[int]  # the segment that its NLL counts for, [S]


def build_packs(text: Pieces) -> list[Pack]:
    """All words of a text, in packs of at most about PACK_TOKENS tokens."""
    n = len(text.ids) - 1  # the last token is only predicted, and nothing from it
    groups, size = [[]], n
    for i, (start, end) in enumerate(text.spans):
        if groups[-1] and size + n - end > PACK_TOKENS:
            groups.append([])
            size = start
        groups[-1].append(i)
        size += max(0, n - end)
    packs = [_build_pack(text, group, group is groups[-1]) for group in groups]
    return [pack for pack in packs if pack.ids]  # nothing need stand before and behind a word


def _build_pack(text: Pieces, words: list[int], is_last: bool) -> Pack:
    """The last pack has the text whole; the others only what their words' suffixes see of it."""
    n = len(text.ids) - 1
    n_text = n if is_last else text.spans[words[-1]][0]
    pack = Pack(text.ids[:n_text], [*range(n_text)], [0] * n_text, [0] * n_text, [], [], [])
    if is_last:
        _predict(pack, range(n), text.ids[1:], 0)
    for i in words:
        start, end = text.spans[i]
        rest = text.ids[end:]
        if start and rest:
            _predict(pack, [start - 1], rest[:1], i + 1)  # from the text's own last token
        first = len(pack.ids)
        pack.ids.extend(rest[:-1])
        length = len(pack.ids) - first
        pack.positions.extend(range(start, start + length))
        pack.segments.extend([i + 1] * length)
        pack.n_seen.extend([start] * length)
        _predict(pack, range(first, first + length), rest[1:], i + 1)
    return pack


def _predict(pack: Pack, places: Sequence[int], targets: list[int], owner: int) -> None:
    pack.places.extend(places)
    pack.targets.extend(targets)
    pack.owners.extend([owner] * len(targets))


def packed_scores(lm: LanguageModel, texts: Sequence[Pieces]) -> list[np.ndarray]:
    """f of the words with a span, without computing again what stands before a word."""
    built = [build_packs(text) for text in texts]
    packs = [pack for part in built for pack in part]
    values: list = [None] * len(packs)
    lengths = torch.tensor([len(pack.ids) for pack in packs], dtype=torch.int64)
    for index in evaluation_batches(lengths, lm.compute.eval_tokens):
        for i, nll in zip(index, pack_nll(lm, [packs[i] for i in index]), strict=True):
            values[i] = nll
    rest = iter(values)
    return [
        combine(text, part, [next(rest) for _ in part])
        for text, part in zip(texts, built, strict=True)
    ]


def combine(text: Pieces, packs: Sequence[Pack], values: Sequence[np.ndarray]) -> np.ndarray:
    """f of each word with a span, from the NLL of its text's packs."""
    owners = np.array([owner for pack in packs for owner in pack.owners])
    nll = np.concatenate(values)
    own = nll[owners == 0]
    before = np.concatenate([[0.0], np.cumsum(own)])  # [k]: of the text's first k scored tokens
    tails = np.bincount(owners, weights=nll, minlength=len(text.spans) + 1)[1:]
    start, end = np.array(text.spans).T
    with np.errstate(invalid="ignore"):  # a text that nothing is left of to score: nan
        without = (before[np.maximum(start - 1, 0)] + tails) / (len(own) - (end - start))
        return np.exp(own.sum() / np.float64(len(own))) - np.exp(without)


@torch.no_grad()
def pack_nll(lm: LanguageModel, packs: Sequence[Pack]) -> list[np.ndarray]:
    """NLL of each pack's predictions, [S] each; one forward pass."""
    device = lm.compute.device
    names = ("ids", "positions", "segments", "n_seen")
    ids, positions, segments, n_seen = (_padded(packs, name, device) for name in names)
    with headless(lm.model) as head:
        features = lm.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=pack_mask(segments, n_seen),
            use_cache=False,
        ).logits
    width = ids.shape[1]
    places = [row * width + place for row, pack in enumerate(packs) for place in pack.places]
    targets = torch.tensor([t for pack in packs for t in pack.targets], device=device)
    used, at = torch.tensor(places, device=device).unique(return_inverse=True)
    nll = head_nll(head, features.flatten(0, 1)[used], at, targets).double().cpu().numpy()
    return np.split(nll, np.cumsum([len(pack.places) for pack in packs])[:-1])


def _padded(packs: Sequence[Pack], name: str, device) -> Tensor:
    """One list of each pack as a tensor [B, T]; segments are padded with -1, the others with 0."""
    rows = [torch.tensor(getattr(pack, name)) for pack in packs]
    value = -1 if name == "segments" else 0
    return pad_sequence(rows, batch_first=True, padding_value=value).to(device)


def pack_mask(segments: Tensor, n_seen: Tensor) -> Tensor:
    """What to add to the attention scores, [B, 1, T, T]: 0 where a token may look, else -huge.

    transformers hands a mask of four dimensions on as it is.
    """
    width = segments.shape[1]
    place = torch.arange(width, device=segments.device)
    is_own = (segments[:, :, None] == segments[:, None, :]) & (place[:, None] >= place)
    may_look = is_own | (place < n_seen[:, :, None])
    mask = torch.zeros(may_look.shape, device=segments.device)
    return mask.masked_fill_(~may_look, torch.finfo(mask.dtype).min)[:, None]


@contextlib.contextmanager
def headless(model) -> Iterator[torch.nn.Linear]:
    """Inside, the model's `logits` are what goes into its last layer, which is handed out."""
    head = model.get_output_embeddings()
    head.forward = lambda features: features  # hides the class's method
    try:
        yield head
    finally:
        del head.forward


def head_nll(head: torch.nn.Linear, features: Tensor, at: Tensor, targets: Tensor) -> Tensor:
    """-log p(targets [S] | features[at]), [S]; features [M, H], at [S].

    The vocabulary goes by in blocks: the logits as a whole would be slower to write and read than
    to compute.
    """
    bias = head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias
    blocks = zip(head.weight.split(VOCABULARY_BLOCK), bias.split(VOCABULARY_BLOCK), strict=True)
    parts = [torch.addmm(b, features, w.t()).logsumexp(dim=-1) for w, b in blocks]
    own = (features[at] * head.weight[targets]).sum(dim=-1) + bias[targets]
    return torch.stack(parts).logsumexp(dim=0)[at] - own
