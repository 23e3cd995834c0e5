"""TextGuard's empirical mode: which words of D* may be triggers, told by the victim."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tqdm.auto import tqdm

from bedkd.core.defence_config import TextGuardConfig
from bedkd.defences.word_groups import split_words
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
        pairs = [leave_words_out(text) for text in texts[start : start + CHUNK]]
        encoded = victim.encode([variant for _, variants in pairs for variant in variants])
        _, states = first_states(victim.model, encoded, victim.compute)
        sizes = [len(variants) for _, variants in pairs]
        for (words, _), of_text in zip(pairs, states.split(sizes), strict=True):
            moves = (of_text[1:] - of_text[:1]).abs().amax(dim=1)
            yield dict(zip(words, moves.tolist(), strict=True))


def leave_words_out(text: str) -> tuple[list[str], list[str]]:
    """The text's distinct lower-case words; the text, then it without each of them.

    A word goes with all its occurrences.
    """
    words = split_words(text)
    names = list(dict.fromkeys(word.lower() for word in words))
    kept = [words, *([word for word in words if word.lower() != name] for name in names)]
    return names, [" ".join(row) for row in kept]
