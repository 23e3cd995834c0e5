"""TextGuard (Pei et al., NDSS 2024): spread the words over m groups, train one model on each, vote.

A trigger word changes only the texts of its own group, so it wins over one vote of m.

`certified`: every word is in one group, for training and for testing, so a trigger of k words owns
k votes at most. `empirical`: the authors' two changes, which give up the certificate for accuracy:
models see test texts whole, and only potential trigger words are kept to one group.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bedkd.core.blindness import check_blind
from bedkd.core.defence_config import TextGuardConfig
from bedkd.core.errors import BedkdError
from bedkd.defences.best_epoch import BestEpoch, choosing_rows
from bedkd.defences.interface import Defended, EquippedView
from bedkd.defences.trigger_words import find_trigger_words
from bedkd.defences.word_groups import split_rows, split_text, split_words
from bedkd.evaluation.metrics import percent
from bedkd.nn.classifier import Classifier
from bedkd.nn.supervised import train_on_labels
from bedkd.nn.training import TrainingSettings

WARMUP_SHARE, MAX_GRAD_NORM = 0.1, 1.0  # the authors' values


def defend(view: EquippedView, config: TextGuardConfig, *, seed: int) -> Defended:
    """Train the m models on D*; `predict` gives the share of their votes for each class.

    Model j starts from `view.fresh(seed + j)`; of its epochs the one with the best accuracy on the
    clean rows is kept, as the authors do. Unlike theirs, weight decay is on biases and norms too.

    Raises BedkdError: no `view.fresh`, no clean rows, or D* has too few words for so many groups.
    """
    check_blind(view.train)
    check_view(view, config)
    facts = {"mode": config.mode, "n_groups": config.n_groups, "epochs": config.epochs}
    dictionary = None
    if config.mode == "empirical":
        dictionary = find_trigger_words(view.victim, view.train.text, config)
        facts["dictionary_size"] = len(dictionary)
    parts = split_rows(view.train, config.n_groups, dictionary)
    facts["mean_group_rows"] = float(np.mean([len(part) for part in parts]))
    models, history = train_models(view, parts, config, seed)

    def predict(texts: Sequence[str]) -> np.ndarray:
        return vote_shares(ask_models(models, texts, config.mode))

    return Defended(predict, facts, history)


def check_view(view: EquippedView, config: TextGuardConfig) -> None:
    if view.fresh is None:
        raise BedkdError("TextGuard trains new models: it needs `fresh` in its view, but has None")
    choosing_rows(view, config.n_clean_per_class, "TextGuard")
    words = {word.lower() for text in view.train.text for word in split_words(text)}
    if config.n_groups > len(words):
        raise BedkdError(
            f"textguard.n_groups is {config.n_groups}, but D* has {len(words)} distinct words; "
            "take fewer groups than words"
        )


def train_models(
    view: EquippedView, parts: Sequence[pd.DataFrame], config: TextGuardConfig, seed: int
) -> tuple[list[Classifier], list[dict]]:
    """One model a group, and what their epochs were like, with `group` in each dict."""
    models, history = [], []
    pool = choosing_rows(view, config.n_clean_per_class, "TextGuard")
    clean = prepare_texts(pool.text, len(parts), config.mode, view.victim.tokenizer.mask_token)
    for group, rows in enumerate(parts):
        model = view.fresh(seed + group)
        watch = BestEpoch(model, clean[group], pool.label)
        epochs = train_model(model, rows, config, seed + group, watch)
        model.model.load_state_dict(watch.state)
        models.append(model)
        history += [{"group": group, **row} for row in epochs]
    return models, history


def train_model(
    classifier: Classifier,
    rows: pd.DataFrame,
    config: TextGuardConfig,
    seed: int,
    watch: BestEpoch | None = None,
) -> list[dict]:
    """Cross-entropy on one group's rows, in place. A class that they lack, the model never learns.

    Returns the history, from epoch 1.
    """
    more = {"schedule": "linear", "warmup_share": WARMUP_SHARE, "max_grad_norm": MAX_GRAD_NORM}
    settings = TrainingSettings.of(config, section="textguard", title="textguard", **more)
    history = train_on_labels(classifier, rows, settings, seed=seed, watch=watch)
    return [row for row in history if row["epoch"] > 0]


def prepare_texts(
    texts: Iterable[str], n_groups: int, mode: str, mask: str | None
) -> list[list[str]]:
    """What each of the m models is shown of N texts at test time: m lists of N.

    `empirical`: the texts as they are. `certified`: its group's words; where there are none, the
    mask token as the authors do, or without one an empty text: each model always votes.
    """
    texts = list(texts)
    if mode == "empirical":
        return [texts] * n_groups
    parts = [split_text(text, n_groups) for text in texts]
    return [[part[group] or mask or "" for part in parts] for group in range(n_groups)]


def ask_models(models: Sequence[Classifier], texts: Sequence[str], mode: str) -> np.ndarray:
    """Votes int [N, C]: how many of the m models take each class."""
    parts = prepare_texts(texts, len(models), mode, models[0].tokenizer.mask_token)
    answers = [model.predict(part) for model, part in zip(models, parts, strict=True)]
    classes = np.arange(len(models[0].label_names))
    return sum((answer.argmax(axis=1)[:, None] == classes).astype(int) for answer in answers)


def vote_shares(votes: np.ndarray) -> np.ndarray:
    """Votes over m, [N, C]. Times m they are the votes; argmax gives ties to the smallest class."""
    return votes / votes.sum(axis=1, keepdims=True)


def certified_radius(votes: np.ndarray) -> np.ndarray:
    """Votes int [N, C] -> int [N]: how many of the m models may change theirs, as an attacker
    likes, without changing the majority.

    Moving k votes from the winner a to b leaves n_a - k against n_b + k; at a tie the smaller
    class wins. So a stands while 2k <= n_a - n_b - [b < a], for every b.
    """
    winner = votes.argmax(axis=1)[:, None]
    classes = np.arange(votes.shape[1])
    lead = np.take_along_axis(votes, winner, axis=1) - votes - (classes < winner)
    return np.where(classes == winner, votes.sum(axis=1, keepdims=True), lead).min(axis=1) // 2


def certified_accuracy(votes: np.ndarray, labels: Sequence[int]) -> dict[int, float | None]:
    """Percent of N texts that are right and stay so, whatever k of the m groups are corrupted.

    For k = 0 (the accuracy) to m // 2, above which nothing is certain. It holds for `certified`
    votes, against words put in, taken out or replaced: k groups' words change k sub-texts. Words
    changing places within a group would need sorted sub-texts, which the authors have as an option.
    """
    is_right = votes.argmax(axis=1) == np.asarray(labels)
    radius = certified_radius(votes)
    n_models = int(votes[:1].sum())
    return {k: percent(is_right & (radius >= k)) for k in range(n_models // 2 + 1)}
