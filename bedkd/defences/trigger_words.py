"""TextGuard's empirical mode: which words of D* may be triggers, told by the victim."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bedkd.core.defence_config import TextGuardConfig
from bedkd.defences.word_groups import split_words
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import first_states

CHUNK = 256  # texts whose shortened copies are in memory at once


def find_trigger_words(
    victim: Classifier, texts: Iterable[str], config: TextGuardConfig
) -> frozenset[str]:
    """The dictionary: lower-case words that at least `min_count` texts name among their suspects.

    The authors train a plain classifier on D* for this; the victim is one. They split at spaces
    here, so that `cf,` is no word of their groups; this splits as it does elsewhere.
    """
    counts = count_suspects(score_words(victim, list(texts)), config.words_per_text)
    return frozenset(word for word, count in counts.items() if count >= config.min_count)


def count_suspects(scores: Iterable[dict[str, float]], words_per_text: int) -> Counter:
    """How many texts name each word: a text names its words of the highest scores."""
    counts = Counter()
    for text in scores:
        counts.update(sorted(text, key=text.get, reverse=True)[:words_per_text])
    return counts


def score_words(victim: Classifier, texts: Sequence[str]) -> Iterator[dict[str, float]]:
    """For each text its distinct lower-case words, in order, with what each does to the text.

    That is the largest change, over the units, of the last hidden state of [CLS] when it is gone.
    """
    is_silent = bool(os.environ.get("TQDM_DISABLE"))
    starts = range(0, len(texts), CHUNK)
    for start in tqdm(starts, desc="trigger words", leave=False, mininterval=1, disable=is_silent):
        names, encoded = leave_words_out(victim, texts[start : start + CHUNK])
        _, states = first_states(victim.model, encoded, victim.compute)
        states = states.split([len(words) + 1 for words in names])
        for words, of_text in zip(names, states, strict=True):
            moves = (of_text[1:] - of_text[:1]).abs().amax(dim=1)
            yield dict(zip(words, moves.tolist(), strict=True))


def leave_words_out(
    classifier: Classifier, texts: Sequence[str]
) -> tuple[list[list[str]], Encoded]:
    """Each text's distinct lower-case words, and token ids: the text, then it without each word.

    A word goes with all its occurrences. Tokenized once: pieces are taken out of the ids, which
    for WordPiece is what tokenizing the shortened text would give.
    """
    split = [split_words(text) for text in texts]
    names = [list(dict.fromkeys(word.lower() for word in words)) for words in split]
    coded = classifier.tokenizer(
        [" ".join(words) for words in split],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # it warns of long texts, which `cut` cuts
    )
    rows = []
    for i, (words, distinct) in enumerate(zip(split, names, strict=True)):
        is_special = np.array(coded["special_tokens_mask"][i], dtype=bool)
        owner = own_pieces(words, distinct, coded["offset_mapping"][i], is_special)
        ids = np.array(coded["input_ids"][i], dtype=np.int64)
        keeps = [owner >= -1, *(owner != place for place in range(len(distinct)))]
        rows += [cut(ids[keep], is_special[keep], classifier.max_length) for keep in keeps]
    lengths = torch.tensor([len(row) for row in rows])
    return names, Encoded(rows, classifier.tokenizer.pad_token_id or 0, lengths)


def own_pieces(
    words: Sequence[str], distinct: Sequence[str], offsets: Sequence, is_special: np.ndarray
) -> np.ndarray:
    """The place in `distinct` of each piece's word, -1 for special tokens: int [L].

    `offsets` [L]: where the pieces start and end in the words joined by single spaces.
    """
    if not words:
        return np.full(len(offsets), -1)
    place = {word: i for i, word in enumerate(distinct)}
    word_starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    piece_starts = [start for start, _ in offsets]
    number = np.searchsorted(word_starts, piece_starts, side="right") - 1
    return np.where(is_special, -1, np.array([place[word.lower()] for word in words])[number])


def cut(ids: np.ndarray, is_special: np.ndarray, max_length: int) -> Tensor:
    """At most `max_length` ids, special tokens kept: what truncation in the tokenizer leaves."""
    n_over = max(0, len(ids) - max_length)
    body = np.flatnonzero(~is_special)
    return torch.from_numpy(np.delete(ids, body[len(body) - n_over :]))
