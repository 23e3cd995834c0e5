"""Figure 5 (appendix F): how the victim and the clean model lay out clean and poisoned rows of D*.

t-SNE is for the eye: distances on its plane mean little. What the eye is meant to see is counted
where the models see it, in feature space: does a poisoned row lie among clean rows of its class?
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bedkd.core.config import TsneConfig
from bedkd.core.errors import BedkdError
from bedkd.evaluation.metrics import percent
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import first_states

N_NEIGHBOURS = 10
MIN_ROWS = 4  # a row then has three others: enough for a perplexity of 1


def draw_rows(train: pd.DataFrame, truth: pd.DataFrame, n_per_kind: int, seed: int) -> pd.DataFrame:
    """At most `n_per_kind` clean rows of each class and as many poisoned rows: text, kind, label.

    `truth`: row for row beside `train`. `label` is the true class, or -1 where nobody knows it.
    """
    rng = np.random.default_rng([seed, 70])
    is_poisoned = truth.is_poisoned.to_numpy(dtype=bool)
    kind, label = np.where(is_poisoned, "poisoned", "clean"), truth.clean_label.to_numpy()
    rows = pd.DataFrame({"text": train.text.to_numpy(), "kind": kind, "label": label})
    groups = rows[~is_poisoned].groupby("label")
    parts = [*(part for _, part in groups), rows[is_poisoned]]
    drawn = [part.sample(min(n_per_kind, len(part)), random_state=rng) for part in parts]
    return pd.concat(drawn, ignore_index=True)


def read_features(classifier: Classifier, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, H] (float32) and predicted classes [N], in the order of the texts; no dropout.

    A text's feature is the last hidden state of its first token: an encoder's head reads no more.
    """
    logits, states = first_states(classifier.model, classifier.encode(texts), classifier.compute)
    return states.numpy(), logits.argmax(dim=-1).numpy()


def embed(features: np.ndarray, *, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE: the rows of `features` [N, H] as points [N, 2]; the same seed gives the same points.

    The perplexity is at most a third of the other rows, so few rows get a smaller one. Raises
    BedkdError if there are too few, or if features are not finite or do not differ.
    """
    # imported here: a second that no other stage should wait for
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < MIN_ROWS:
        raise BedkdError(
            f"t-SNE was given {len(features)} rows and needs {MIN_ROWS}; raise tsne.n_per_kind or "
            "data.n_train"
        )
    if not np.isfinite(features).all() or not np.ptp(features, axis=0).any():
        raise BedkdError(
            f"t-SNE cannot lay out these {len(features)} rows: their features are the same or not "
            "finite; see how the model was trained"
        )
    fits = min(perplexity, (len(features) - 1) / 3)
    # on one thread sums have one order; and threads that spin cost tenfold on a busy machine
    with threadpool_limits(1):
        return TSNE(perplexity=fits, init="pca", random_state=seed).fit_transform(features)


def share_at_home(features: np.ndarray, rows: pd.DataFrame, target_label: int) -> dict:
    """Poisoned rows among clean rows of their true class, in percent (None: there are no such
    rows): `neighbours_true` of other classes than the target, `neighbours_true_target` of its own.

    Most of the N_NEIGHBOURS nearest clean rows, by Euclidean distance as in t-SNE, must be of the
    class; a tie is a no. The second number falls where a defence drives all that has the trigger
    away from the target. `rows`, one for each of `features` [N, H]: kind, label (-1: unknown).
    """
    from sklearn.neighbors import KNeighborsClassifier

    label, is_clean = rows.label.to_numpy(), rows.kind.to_numpy() == "clean"
    is_asked = ~is_clean & (label >= 0)
    if not is_clean.any() or not is_asked.any():
        return {"neighbours_true": None, "neighbours_true_target": None}
    finder = KNeighborsClassifier(min(N_NEIGHBOURS, int(is_clean.sum())))
    finder.fit(features[is_clean], label[is_clean])
    votes = finder.predict_proba(features[is_asked])  # [P, C]
    is_own = finder.classes_ == label[is_asked][:, None]
    own, others = (np.where(mask, votes, 0).max(axis=1) for mask in (is_own, ~is_own))
    is_home, is_target = own > others, label[is_asked] == target_label
    return {
        "neighbours_true": percent(is_home[~is_target]),
        "neighbours_true_target": percent(is_home[is_target]),
    }


def lay_out(
    classifier: Classifier, rows: pd.DataFrame, target_label: int, config: TsneConfig, seed: int
) -> tuple[pd.DataFrame, dict]:
    """One model's panel (x, y, kind, label, predicted; a point for each of `rows`: text, kind,
    label) and its `share_at_home`."""
    features, predicted = read_features(classifier, list(rows.text))
    points = embed(features, perplexity=config.perplexity, seed=seed)
    own = {"x": points[:, 0], "y": points[:, 1]}
    panel = pd.DataFrame(own | {"kind": rows.kind, "label": rows.label, "predicted": predicted})
    return panel, share_at_home(features, rows, target_label)
