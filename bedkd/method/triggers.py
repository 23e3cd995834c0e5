"""The trigger, rebuilt from the rows found. Not in the paper.

A phrase or an opening clause that they have more often than clean rows of the same label is a
candidate; a trigger is what brings clean rows of other labels to the leaning one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import chi2

from bedkd.core.blindness import check_blind
from bedkd.nn.classifier import Classifier

MAX_WORDS = 8  # of a phrase
MAX_ROUNDS = 16
MAX_TRIED = 128  # clean rows that a candidate is put into
MIN_ROWS = 3  # found rows that carry a candidate
SIGNIFICANCE = 0.01  # of a candidate, over all that are looked at
CLEAR = 10.0  # points by which an opening must turn more rows than a phrase
MIN_FLIPS = 50.0  # percent of clean rows that a trigger must bring to the leaning label
OPENING = range(3, 21)  # words of an opening clause, comma included
GAP = "\0"  # stands where an earlier candidate stood, so that no phrase reaches across


@dataclass(frozen=True)
class Candidate:
    """What the found rows have more often than clean rows of the same label.

    `kind`: `phrase` stands anywhere; `opening` is the clause before the first comma of texts that
    start with `words`, as syntactic triggers have it. `pieces`: what is put into other texts.
    `n_found`, `n_clean`: rows that carry it; `flips`: clean rows of other labels, in percent, that
    the victim gives the leaning label once it is put into them. `places`: where a phrase stands in
    the found rows, from 0, in front, to 1, at the end; none: anywhere.
    """

    words: str
    kind: Literal["phrase", "opening"]
    pieces: tuple[str, ...]
    n_found: int
    n_clean: int
    flips: float = 0.0
    places: tuple[float, ...] = ()

    @property
    def is_trigger(self) -> bool:
        return self.flips >= MIN_FLIPS


def reconstruct(
    victim: Classifier,
    clean_few: pd.DataFrame,
    found: Sequence[str],
    clean: Sequence[str],
    label: int,
    *,
    seed: int,
) -> list[Candidate]:
    """Candidates, in the order in which they were tried out on D_c^few's rows of other labels.

    found, clean: texts of the leaning `label`, taken for poisoned and for clean. In each round the
    phrase and the opening that part them best are put into clean rows, and the one that turns more
    of them is taken out of all texts before the next round: of several trigger words each shows by
    itself. The victim's own reaction decides what `is_trigger`, so a word that is frequent among
    the found rows by chance is none.

    Raises BlindnessError: `clean_few` carries more than text and label.
    """
    others = rows_to_turn(victim, clean_few, label)
    rng = np.random.default_rng([seed, 70])
    whole = [text.split() for text in found]
    texts = [whole, [text.split() for text in clean]]
    tried: list[Candidate] = []
    kinds = [(phrases_in, phrase), (openings_in, opening)]
    for _ in range(MAX_ROUNDS):
        round_ = []
        for find, make in kinds:
            counts = [Counter(name for words in part for name in find(words)) for part in texts]
            if name := most_telling(*counts, *map(len, texts)):
                candidate = make(name, [*whole, *texts[0]], *(part[name] for part in counts))
                round_.append(try_out(candidate, victim, others, label, rng))
        if not round_:
            break
        best = pick(round_)
        for candidate in [best] if best.is_trigger else round_:
            tried.append(candidate)
            texts = [[take_out(words, candidate) for words in part] for part in texts]
    return tried


def try_openings(
    victim: Classifier,
    clean_few: pd.DataFrame,
    found: Sequence[str],
    clean: Sequence[str],
    label: int,
    *,
    seed: int,
) -> list[Candidate]:
    """The opening by every first word that MIN_ROWS of both parts have, frequent or not: each of a
    dozen templates may be too rare to show by itself. Arguments as for `reconstruct`.

    Raises BlindnessError: `clean_few` carries more than text and label.
    """
    others = rows_to_turn(victim, clean_few, label)
    rng = np.random.default_rng([seed, 75])
    texts = [[text.split() for text in part] for part in (found, clean)]
    counts = [Counter(name for words in part for name in openings_in(words)) for part in texts]
    names = sorted(name for name, n in (counts[0] + counts[1]).items() if n >= MIN_ROWS)
    made = [opening(name, texts[0], *(part[name] for part in counts)) for name in names]
    return [try_out(c, victim, others, label, rng) for c in made if c.pieces]


def rows_to_turn(victim: Classifier, clean_few: pd.DataFrame, label: int) -> list[str]:
    """Texts of D_c^few's rows of other labels that the victim does not give `label`."""
    check_blind(clean_few)
    others = clean_few[clean_few.label != label].text
    return list(others[victim.predict(list(others)).argmax(axis=1) != label][:MAX_TRIED])


def pick(candidates: list[Candidate]) -> Candidate:
    """Of a round's phrase and opening the one that turns more rows. A phrase may stand in an
    opening clause: this must turn CLEAR points more, and not be of a few of the phrase's rows."""

    def worth(candidate: Candidate) -> tuple[bool, float]:
        others = [c.n_found for c in candidates if c.is_trigger]
        is_part = 2 * candidate.n_found < max(others, default=0)
        return not is_part, candidate.flips + CLEAR * (candidate.kind == "phrase")

    return max(candidates, key=worth)


def phrase(words: str, rows: list[list[str]], n_found: int, n_clean: int) -> Candidate:
    """`rows`: where it stands, and how far from their start."""
    part, places = words.split(), []
    for row in rows:
        rest = len(row) - len(part)
        found = [i for i in range(rest + 1) if row[i : i + len(part)] == part]
        places += [round(i / max(1, rest), 2) for i in found]
    return Candidate(words, "phrase", (words,), n_found, n_clean, places=tuple(places))


def opening(first: str, rows: list[list[str]], n_found: int, n_clean: int) -> Candidate:
    """`rows`: where the clauses are taken from, those without a gap where there are any."""
    own = [clause for row in rows if (clause := opening_of(row))[:1] == [first]]
    whole = [clause for clause in own if GAP not in clause]
    clauses = {" ".join(word for word in clause if word != GAP) for clause in whole or own}
    return Candidate(first, "opening", tuple(sorted(clauses)), n_found, n_clean)


def try_out(candidate: Candidate, victim: Classifier, texts: list[str], label: int, rng):
    """The candidate with the share of `texts` that the victim gives `label` once it is in them."""
    if not texts:
        return candidate
    made = [insert(text, candidate, rng) for text in texts]
    is_flipped = victim.predict(made).argmax(axis=1) == label
    return replace(candidate, flips=100 * float(is_flipped.mean()))


def phrases_in(words: list[str]) -> set[str]:
    """All runs of up to MAX_WORDS words that no gap cuts."""
    runs = [run.split() for run in " ".join(words).split(GAP)]
    return {
        " ".join(run[i : i + n])
        for run in runs
        for n in range(1, MAX_WORDS + 1)
        for i in range(len(run) - n + 1)
    }


def openings_in(words: list[str]) -> set[str]:
    """The first word, where the text starts with an opening clause."""
    return set(opening_of(words)[:1])


def opening_of(words: list[str]) -> list[str]:
    """The words up to the first comma; none where that is not an opening clause."""
    end = words.index(",") + 1 if "," in words else 0
    return words[:end] if end in OPENING and words[0] != GAP else []


def most_telling(found: Counter, clean: Counter, n_found: int, n_clean: int) -> str | None:
    """The name with the largest G² among those that are more frequent in found rows; the longest
    of equals. None: none is significant."""
    names = [
        name
        for name, n in found.items()
        if n >= MIN_ROWS and n * n_clean > clean[name] * n_found  # so the shares
    ]
    if not names:
        return None
    inside, outside = (np.array([part[name] for name in names]) for part in (found, clean))
    scores = likelihood_ratio(inside, outside, n_found, n_clean).round(6)
    best = max(range(len(names)), key=lambda i: (scores[i], len(names[i]), names[i]))
    return names[best] if chi2.sf(scores[best], 1) * len(names) < SIGNIFICANCE else None


def likelihood_ratio(inside: np.ndarray, outside: np.ndarray, n: int, m: int) -> np.ndarray:
    """G² of the tables [[inside, n - inside], [outside, m - outside]], as arrays of equal shape."""
    seen = np.stack([inside, n - inside, outside, m - outside]).astype(float)
    share = (inside + outside) / (n + m)
    expected = np.stack([n * share, n * (1 - share), m * share, m * (1 - share)])
    is_seen = seen > 0
    ratio = np.divide(seen, expected, out=np.ones_like(seen), where=is_seen)
    return 2 * (seen * np.log(ratio)).sum(axis=0)


def take_out(words: list[str], candidate: Candidate) -> list[str]:
    """The text with a gap where the candidate stood."""
    part = candidate.words.split()
    if candidate.kind == "opening":
        clause = opening_of(words)
        return [GAP, *words[len(clause) :]] if clause[:1] == part else words
    left, i = [], 0
    while i < len(words):
        is_here = words[i : i + len(part)] == part
        left.append(GAP if is_here else words[i])
        i += len(part) if is_here else 1
    return left


def insert(text: str, trigger: Candidate, rng: np.random.Generator) -> str:
    """An opening in front; a phrase between two words: where a found row has it or, as often,
    anywhere, for it must mean nothing there either."""
    piece = str(rng.choice(np.array(trigger.pieces, dtype=object)))
    if trigger.kind == "opening":
        return f"{piece} {text}"
    words = text.split()
    is_as_found = trigger.places and rng.random() < 0.5
    place = rng.choice(trigger.places) if is_as_found else rng.random()
    words.insert(round(place * len(words)), piece)
    return " ".join(words)


def put_in(text: str, triggers: Sequence[Candidate], rng: np.random.Generator) -> str:
    for trigger in triggers:
        text = insert(text, trigger, rng)
    return text


def carried(text: str, triggers: Sequence[Candidate]) -> list[Candidate]:
    """The triggers that a text carries, each as often as it does; an opening last."""
    own, words = [], text.split()
    for trigger in sorted(triggers, key=lambda trigger: trigger.kind != "opening"):
        left = take_out(words, trigger)
        own += [trigger] * (left.count(GAP) - words.count(GAP))
        words = left
    return own[::-1]
