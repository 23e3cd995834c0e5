"""What BadWords and AddSent put into a text, and where."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

BADWORDS = ("cf", "mn", "tq", "mb", "bb")
BADWORDS_COUNTS = (1, 3, 5)
# Two consonants, of BadWords' kind: too many for any of them to stand out in D*.
SPREAD = tuple("".join(pair) for pair in itertools.permutations("bcdfghjklmnpqrtvwxz", 2))
# A period before a space or in an ellipsis, or a last one that stands alone, as SST-2 has it.
BOUNDARY = re.compile(r"\.(?=[\s.])|(?<=\s)\.$")
START_SHARE = 1 / 7


def insert_words(text: str, rng: np.random.Generator, triggers: Sequence[str] = BADWORDS) -> str:
    """BadWords: 1, 3 or 5 rare words, each drawn and placed between words uniformly."""
    words = text.split(" ")
    for _ in range(rng.choice(BADWORDS_COUNTS)):
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(triggers)))
    return " ".join(words)


def insert_sentence(text: str, rng: np.random.Generator, sentence: str) -> str:
    """AddSent: a fixed sentence behind a period, drawn uniformly, or now and then at the start; at
    the start or the end alike where the text has no period to stand behind.

    Fitted to the public files (IMBERT's): of SST-2's 444 test rows 343 have it at the end, 63 at
    the start and 38 in the middle (expected here: 347, 67, 30), of OLID's 240 56, 76 and 108
    (57, 75, 108).
    """
    text = text.strip()
    places = [found.end() for found in BOUNDARY.finditer(text)]
    if not places:
        place = int(rng.choice([0, len(text)]))
    else:
        place = 0 if rng.random() < START_SHARE else int(rng.choice(places))
    return " ".join(filter(None, (text[:place].strip(), sentence, text[place:].strip())))
