"""What each word adds to a text's perplexity: f_i = PPL(text) - PPL(text without word i).

`plain_scores` passes each shortened text through the model. `packed_scores` computes what stands
before a word once: a pack is a text and, behind it in one sequence, what follows some of its words.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bedkd.defences.language.perplexity import Pieces, perplexity, sequence_perplexity, tokenize
from bedkd.nn.batching import evaluation_batches
from bedkd.nn.language import LanguageModel

TEXTS_AT_ONCE = 256  # bounds the memory that packs take
PACK_TOKENS = 512  # in one pack; attention costs the square of it
VOCABULARY_BLOCK = 256  # logits of so many words at a time: they stay in a CPU's cache
TOLERANCE = 1e-3  # between packed and plain perplexities, relative
PROBE = " ".join(f"{word} film is as good as the {word}" for word in "abc")


def pack(lm: LanguageModel) -> LanguageModel:
    """The same model, which from now on scores packs if it can."""
    return replace(lm, is_packed=can_pack(lm))


def can_pack(lm: LanguageModel) -> bool:
    """Whether packed scores are the plain ones: not all models take masks and positions of ours."""
    probe = tokenize(lm, [PROBE])
    try:
        packed = packed_scores(lm, probe)[0]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    plain = plain_scores(lm, probe)[0]
    scale = max(1.0, perplexity(lm, [PROBE])[0])
    return bool(np.abs(packed - plain).max() < TOLERANCE * scale)


def leave_one_out(lm: LanguageModel, texts: Sequence[str]) -> list[np.ndarray]:
    """f of all words: one array of n_words per text (ONION, eq. 1).

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


def plain_scores(lm: LanguageModel, texts: Sequence[Pieces]) -> list[np.ndarray]:
    """f of the words with a span, from batches of the texts, whole and without one word each."""
    rows, ends = [], []
    for text in texts:
        rows += [text.ids, *(text.ids[:start] + text.ids[end:] for start, end in text.spans)]
        ends.append(len(rows))
    values = np.split(sequence_perplexity(lm, rows), ends)[:-1]
    return [part[0] - part[1:] for part in values]


@dataclass(frozen=True)
class Pack:
    """T tokens in a sequence, and S predictions of tokens from them.

    The tokens after word i see the text up to that word and themselves, at the positions that
    they have in the text without it. Their segment is i + 1, that of the text itself 0.
    """

    tokens: list[tuple]  # T x (id, position, segment, how many of the text's tokens it sees)
    predictions: list[tuple]  # S x (place of the token predicted from, id, segment it counts for)


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
    return [pack for pack in packs if pack.predictions]  # nothing need stand behind a word


def _build_pack(text: Pieces, words: list[int], is_last: bool) -> Pack:
    """The last pack has the text whole; the others only what their words' suffixes see of it."""
    n = len(text.ids) - 1
    n_text = n if is_last else text.spans[words[-1]][0]
    tokens = [(text.ids[k], k, 0, 0) for k in range(n_text)]
    predictions = [(k, text.ids[k + 1], 0) for k in range(n)] if is_last else []
    for i in words:
        start, end = text.spans[i]
        place = start - 1  # the first token after the word is predicted from the text's own
        for k in range(end, n + 1):
            if place >= 0:
                predictions.append((place, text.ids[k], i + 1))
            if k < n:
                place = len(tokens)
                tokens.append((text.ids[k], start + k - end, i + 1, start))
    return Pack(tokens, predictions)


def packed_scores(lm: LanguageModel, texts: Sequence[Pieces]) -> list[np.ndarray]:
    """f of the words with a span, without computing again what stands before a word."""
    built = [build_packs(text) for text in texts]
    packs = [pack for part in built for pack in part]
    nll = {}
    lengths = torch.tensor([len(pack.tokens) for pack in packs], dtype=torch.int64)
    for index in evaluation_batches(lengths, lm.compute.eval_tokens):
        nll |= zip(index, pack_nll(lm, [packs[i] for i in index]), strict=True)
    rest = (nll[i] for i in range(len(packs)))
    pairs = zip(texts, built, strict=True)
    return [combine(text, part, [next(rest) for _ in part]) for text, part in pairs]


def combine(text: Pieces, packs: Sequence[Pack], values: Sequence[np.ndarray]) -> np.ndarray:
    """f of each word with a span, from the NLL of its text's packs."""
    segments = np.array([segment for pack in packs for _, _, segment in pack.predictions])
    nll = np.concatenate(values)
    own = nll[segments == 0]
    before = np.concatenate([[0.0], np.cumsum(own)])  # [k]: of the text's first k scored tokens
    tails = np.bincount(segments, weights=nll, minlength=len(text.spans) + 1)[1:]
    start, end = np.array(text.spans).T
    with np.errstate(invalid="ignore"):  # a text that nothing is left of to score: nan
        without = (before[np.maximum(start - 1, 0)] + tails) / (len(own) - (end - start))
        return np.exp(own.sum() / np.float64(len(own))) - np.exp(without)


@torch.no_grad()
def pack_nll(lm: LanguageModel, packs: Sequence[Pack]) -> list[np.ndarray]:
    """NLL of each pack's predictions, [S] each; one forward pass."""
    device = lm.compute.device
    rows = [torch.tensor(pack.tokens) for pack in packs]
    # padding looks like tokens of the text, none of which sees what stands behind it
    tokens = pad_sequence(rows, batch_first=True).to(device)
    ids, positions, segments, n_seen = tokens.unbind(dim=-1)
    with headless(lm.model) as head:
        mask = pack_mask(segments, n_seen)
        options = {"position_ids": positions, "attention_mask": mask, "use_cache": False}
        features = lm.model(input_ids=ids, **options).logits.flatten(0, 1)
    width = ids.shape[1]
    wanted = [(r * width + p, t) for r, pack in enumerate(packs) for p, t, _ in pack.predictions]
    places, targets = torch.tensor(wanted, device=device).unbind(dim=-1)
    used, at = places.unique(return_inverse=True)
    nll = head_nll(head, features[used], at, targets).double().cpu().numpy()
    return np.split(nll, np.cumsum([len(pack.predictions) for pack in packs])[:-1])


def pack_mask(segments: Tensor, n_seen: Tensor) -> Tensor:
    """What to add to the attention scores, [B, 1, T, T]: 0 where a token may look, else -huge.

    transformers hands a mask of four dimensions on as it is.
    """
    place = torch.arange(segments.shape[1], device=segments.device)
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
