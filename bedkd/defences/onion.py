"""ONION (Qi et al., 2021a): a word that makes a text much less likely is taken out of it.

The victim stays as it is, its input is cleaned: word i goes if f_i > t, where f_i is what the
word adds to the text's perplexity (`word_scores`). The authors' code sweeps t from 1
to 100, a scale made for GPT-2; here the candidates are percentiles of the scores of D_c^few, those
above 0, which suit any language model. The victim's accuracy on D_c^few chooses among them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from bedkd.core.defence_config import OnionConfig
from bedkd.core.errors import BedkdError
from bedkd.data.splits import draw_clean_few
from bedkd.defences.interface import Defended, EquippedView
from bedkd.defences.language.word_scores import leave_one_out
from bedkd.defences.thresholds import choose_threshold
from bedkd.evaluation.metrics import percent
from bedkd.nn.classifier import Classifier


def defend(view: EquippedView, config: OnionConfig, *, seed: int) -> Defended:
    """Choose the threshold on D_c^few; the result cleans each text and asks the victim.

    Nothing is drawn, so `seed` changes nothing.

    Raises BedkdError: the view has no language model, or too few clean rows.
    """
    lm = view.language
    if lm is None:
        raise BedkdError("ONION needs a language model: set `language` of the view")
    clean_few = draw_clean_few(view.clean_pool, config.n_clean_per_class)
    scores = leave_one_out(lm, list(clean_few.text))
    curve = sweep_thresholds(view.victim, clean_few, scores)
    chosen = choose_threshold(curve, config.max_accuracy_drop)

    def predict(texts: Sequence[str]) -> np.ndarray:
        texts = list(texts)
        cleaned = clean_texts(texts, leave_one_out(lm, texts), chosen["threshold"])
        return view.victim.predict(cleaned)

    return Defended(predict, {"n_clean": len(clean_few)} | chosen)


def sweep_thresholds(
    victim: Classifier, rows: pd.DataFrame, scores: Sequence[np.ndarray]
) -> Iterator[dict]:
    """From the threshold that deletes nothing down to 0, one at a time.

    Yields percentile and threshold, the share of the rows' words that are deleted, and the victim's
    accuracy on what is left, clean_accuracy (both in percent). No text is predicted twice.
    """
    texts, labels = list(rows.text), rows.label.to_numpy()
    pooled, known = np.concatenate(scores), {}
    for percentile in range(100, -1, -1):
        threshold = float(np.percentile(pooled, percentile))
        if threshold < 0 and percentile < 100:  # below, words go that make a text more likely
            return
        cleaned = clean_texts(texts, scores, threshold)
        if new := [text for text in dict.fromkeys(cleaned) if text not in known]:
            known |= zip(new, victim.predict(new).argmax(axis=1), strict=True)
        yield {
            "percentile": percentile,
            "threshold": threshold,
            "deleted_share": percent(~np.concatenate([kept_words(s, threshold) for s in scores])),
            "clean_accuracy": percent([known[text] for text in cleaned] == labels),
        }


def clean_texts(texts: Sequence[str], scores: Sequence[np.ndarray], threshold: float) -> list[str]:
    """The texts without the words that score above `threshold`; scores [n_words] of each text.

    A text that loses no word stays as it is, spaces included. No text loses all of its words: the
    one with the lowest score stays.
    """
    cleaned = []
    for text, row in zip(texts, scores, strict=True):
        is_kept = kept_words(row, threshold)
        words = [word for word, keep in zip(text.split(), is_kept, strict=True) if keep]
        cleaned.append(text if is_kept.all() else " ".join(words))
    return cleaned


def removed_words(text: str, scores: np.ndarray, threshold: float) -> list[str]:
    """The words that `clean_texts` takes out of a text, in their order."""
    is_kept = kept_words(scores, threshold)
    return [word for word, keep in zip(text.split(), is_kept, strict=True) if not keep]


def kept_words(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which words of a text stay, [n_words]."""
    is_kept = ~(np.asarray(scores) > threshold)
    if len(is_kept) and not is_kept.any():
        is_kept[np.argmin(scores)] = True
    return is_kept
