"""Figure 5 (appendix F): how the victim and the clean model lay out clean and poisoned rows of D*.

t-SNE is for the eye: distances on its plane mean little. What the eye is meant to see is counted
where the models see it, in feature space: does a poisoned row lie among clean rows of its class?
"""

from __future__ import annotations

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

    The perplexity is at most a third of the other rows, so few rows get a smaller one.

    Raises:
        BedkdError: too few rows, or features that are not finite or do not differ.
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


def find_at_home(features: np.ndarray, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Of each poisoned row of known class: is it among its own, and the class ([P] and [P]).

    It is if most of the N_NEIGHBOURS nearest clean rows, by Euclidean distance as in t-SNE, are of
    its true class; a tie is a no. `rows`, one for each of `features` [N, H]: kind, label.
    """
    from sklearn.neighbors import NearestNeighbors

    label, is_clean = rows.label.to_numpy(), rows.kind.to_numpy() == "clean"
    is_asked = ~is_clean & (label >= 0)
    if not is_clean.any() or not is_asked.any():
        return np.zeros(0, dtype=bool), label[:0]
    finder = NearestNeighbors(n_neighbors=min(N_NEIGHBOURS, int(is_clean.sum())))
    finder.fit(features[is_clean])
    near = finder.kneighbors(features[is_asked], return_distance=False)  # [P, k]
    classes = np.arange(label.max() + 1)
    votes = (label[is_clean][near][:, :, None] == classes).sum(axis=1)  # [P, C]
    is_own = classes == label[is_asked][:, None]
    return votes[is_own] > np.where(is_own, -1, votes).max(axis=1), label[is_asked]


def share_at_home(features: np.ndarray, rows: pd.DataFrame, target_label: int) -> dict:
    """`find_at_home` in percent, or None where there is no such row: `neighbours_true` of poisoned
    rows of other classes than the target, `neighbours_true_target` of the target's own.

    The second falls where a defence drives all that has the trigger away from the target.
    """
    is_home, label = find_at_home(features, rows)
    is_target = label == target_label
    shares = (percent(is_home[~is_target]), percent(is_home[is_target]))
    return dict(zip(("neighbours_true", "neighbours_true_target"), shares, strict=True))


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
