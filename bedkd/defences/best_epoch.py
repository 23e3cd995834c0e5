"""The best epoch on clean rows, which the authors of TextGuard and of W2SDefense keep."""

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.evaluation.metrics import percent
from bedkd.evaluation.sides import DefenderView
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import predict_probabilities


def choosing_rows(view: DefenderView, n_per_class: int, who: str) -> pd.DataFrame:
    """The clean rows that choose the epoch, at most so many of each class.

    Raises BedkdError: there are none.
    """
    if len(view.clean_pool) == 0:
        raise BedkdError(f"{who} chooses its epochs on clean rows: it needs some, but has none")
    return view.clean_pool.groupby("label").head(n_per_class)


class BestEpoch:
    """A watcher that keeps the parameters of the first epoch with the best clean accuracy."""

    def __init__(self, classifier: Classifier, texts: Sequence[str], labels: Sequence[int]):
        self.encoded, self.labels = classifier.encode(texts), np.asarray(labels)
        self.compute, self.accuracy, self.state = classifier.compute, -1.0, {}

    def __call__(self, row: dict, model) -> dict:
        if row["epoch"] == 0:  # untrained
            return {}
        probabilities = predict_probabilities(model, self.encoded, self.compute)
        accuracy = percent(probabilities.argmax(axis=1) == self.labels)
        if accuracy > self.accuracy:
            self.accuracy, self.state = accuracy, copy.deepcopy(model.state_dict())
        return {"clean_accuracy": accuracy}
