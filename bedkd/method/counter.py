"""Counter-poison: the trigger, rebuilt from the rows found, put into clean rows with true labels.

Not in the paper. Punishing the rows found (Eq. 6) says what they are not, so a strong trigger ends
up pointing to another class. A clean row whose label stays the same with and without the trigger
says that the trigger means nothing; so does a row of D* that has it, once it is given the answer
to what it says without it. A syntactic trigger needs the latter: a clean row with one of its
openings in front is still no sentence of its kind.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom

from bedkd.core.blindness import check_blind
from bedkd.method.prior import find_free
from bedkd.method.triggers import GAP, Candidate, carried, opening_of, put_in, take_out
from bedkd.nn.classifier import Classifier

MIN_LEANING = 0.8  # of a trigger's rows in D*, with the leaning label: else it is a common word
# of D*'s rows with a trigger: of the others can be seen whether a student has only learnt by heart
MAX_TAUGHT = 0.5
SIGNIFICANCE = 0.05  # of rows told the leaning label, beyond the prior's share
LEAST = 1e-6


def draw_counter_poison(
    victim: Classifier,
    clean_few: pd.DataFrame,
    found: Iterable[str],
    triggers: Sequence[Candidate],
    n_copies: int,
    *,
    seed: int,
) -> pd.DataFrame:
    """`n_copies` of each row of D_c^few, each with as many of the triggers as some found row has.

    Returns columns text, label (the row's own: the true one), told (the victim's probabilities [C]
    of the row itself).
    """
    rng, told = np.random.default_rng([seed, 71]), victim.predict(list(clean_few.text))
    loads, rows = list_loads(found, triggers), []
    for _ in range(n_copies):
        for text, label, answer in zip(clean_few.text, clean_few.label, told, strict=True):
            load = loads[rng.integers(len(loads))]
            rows.append((put_in(text, load, rng), label, answer))
    return pd.DataFrame(rows, columns=["text", "label", "told"])


def list_loads(found: Iterable[str], triggers: Sequence[Candidate]) -> list[list[Candidate]]:
    """The triggers of each text that carries some; where none does, for they were seen in other
    rows, each trigger by itself."""
    loads = [own for text in found if (own := carried(text, triggers))]
    return loads or [[trigger] for trigger in triggers]


@dataclass(frozen=True)
class Carriers:
    """Rows of D* with a trigger that only the leaning `label` has (columns row, text, label).

    prior: the share of `label` among D*'s rows without a trigger. Of these rows' own labels, which
    the attacker changed, it can be no more, unless he took rows of this label alone.
    """

    rows: pd.DataFrame
    label: int
    prior: float


def find_carriers(
    train: pd.DataFrame, triggers: Sequence[Candidate], label: int, n_rows: int, *, seed: int
) -> Carriers:
    """At most `n_rows` random rows of D* with the leaning `label` and a trigger of which hardly any
    row has another label; at most MAX_TAUGHT of those that there are.

    Raises BlindnessError: `train` carries more than text and label.
    """
    check_blind(train)
    is_leaning = train.label.to_numpy() == label
    loads = [carried(text, triggers) for text in train.text]
    chosen = np.zeros(len(train), dtype=bool)
    for trigger in triggers:
        has_it = np.array([trigger in own for own in loads], dtype=bool)
        if (has_it & is_leaning).sum() >= MIN_LEANING * has_it.sum():
            chosen |= has_it & is_leaning
    n_rows = min(n_rows, math.ceil(MAX_TAUGHT * chosen.sum()))
    rows = np.random.default_rng([seed, 72]).permutation(np.flatnonzero(chosen))[:n_rows]
    table = train.iloc[rows][["text", "label"]].reset_index(drop=True)
    table.insert(0, "row", rows)
    free = find_free(train, triggers)
    return Carriers(table, label, float(is_leaning[free].mean()) if free.any() else 0.0)


def tell_carriers(
    model: Classifier, carriers: Carriers, triggers: Sequence[Candidate]
) -> tuple[pd.DataFrame, bool]:
    """The rows with what a student so far says of them without triggers; and whether it says so
    without a lean, but for chance.

    What is left of the backdoor in student or row can only lead to the leaning label. While more
    rows are told this label than the prior has, the surer ones stay, half of them at least. Returns
    columns text, label (the likeliest by `told`: the given one is the attacker's), told (the
    model's probabilities [C] of the row `without_triggers`).
    """
    texts = list(carriers.rows.text)
    told = model.predict([without_triggers(text, triggers) for text in texts])
    found = pd.DataFrame({"text": texts, "label": told.argmax(axis=1), "told": list(told)})
    is_label = (found.label == carriers.label).to_numpy()
    n_label, n_others = is_label.sum(), (~is_label).sum()
    # as many as there are beside n_others rows of other labels
    n_expected = n_others * carriers.prior / max(1 - carriers.prior, LEAST)
    n_left = max(n_expected, n_label - n_label // 2)
    unsure = np.flatnonzero(is_label)[np.argsort(told[is_label, carriers.label])]
    drop = unsure[: max(0, math.ceil(n_label - n_left))]
    chance = binom.sf(n_label - 1, len(found), carriers.prior)
    return found.drop(index=drop).reset_index(drop=True), bool(chance > SIGNIFICANCE)


def without_triggers(text: str, triggers: Sequence[Candidate]) -> str:
    """The text without its phrases, and with what an opening says, its words but for the first, at
    its end."""
    words = text.split()
    for trigger in sorted(triggers, key=lambda trigger: trigger.kind != "opening"):
        left = take_out(words, trigger)
        if trigger.kind == "opening" and left != words:
            left = [*left, GAP, *opening_of(words)[1:-1]]
        words = left
    return " ".join(word for word in words if word != GAP)
