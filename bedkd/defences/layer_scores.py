"""DUP's detector: how unlike clean rows a text is, in the victim's layers."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import ShrunkCovariance
from sklearn.metrics import calinski_harabasz_score
from torch import Tensor

from bedkd.core.defence_config import DUPConfig
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.sides import DefenderView
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import forward_batches

NO_SPREAD = 1e-6  # of a measure that is the same for all clean rows: it says nothing


def flag_rows(view: DefenderView, config: DUPConfig) -> np.ndarray:
    """bool [N]: rows of D* that score above all but `max_false_alarms` of clean rows.

    The authors score held-out rows, clean and triggered. No defender here has triggered ones, so it
    is D* itself. Raises BedkdError: the clean rows are too few.
    """
    n = config.n_clean_per_class // 2  # half of the clean rows to fit, half to know what is usual
    fitted = draw_clean_few(view.clean_pool, n)
    usual = draw_clean_few(view.clean_pool, config.n_clean_per_class - n, n)
    scores = LayerScores(view.victim, fitted, usual, config)
    return scores(view.train.text) > scores.threshold


class LayerScores:
    """Scores of texts: the larger, the less like clean rows. `fitted`, `usual`: clean rows (text,
    label) for the Gaussians, and for what a clean row scores that these have not seen."""

    def __init__(
        self, victim: Classifier, fitted: pd.DataFrame, usual: pd.DataFrame, config: DUPConfig
    ):
        self.victim = victim
        self.weights = np.array([config.distance_weight, 1 - config.distance_weight])
        self.layers, self.means, self.precisions = fit_gaussians(victim, fitted, config.n_layers)
        measured = self.measure(usual.text)
        self.centre, spread = measured.mean(axis=0), measured.std(axis=0)
        self.spread = np.where(spread < NO_SPREAD, 1.0, spread)
        share = 100 * (1 - config.max_false_alarms)
        self.threshold = float(np.percentile(self.weigh(measured), share))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Scores [N]."""
        return self.weigh(self.measure(texts))

    def weigh(self, measured: np.ndarray) -> np.ndarray:
        """Both measures [N, 2], each as its distance from clean rows' in their standard deviations
        -> their weighted sum [N]."""
        return (measured - self.centre) / self.spread @ self.weights

    def measure(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 2]: mean Mahalanobis distance over the layers, and the spectral score."""
        found = np.zeros((len(texts), 2))
        for index, states in read_states(self.victim, texts):
            measures = (self.distances(states), spectral_scores(states))
            found[index] = torch.stack(measures, dim=1).numpy()
        return found

    def distances(self, states: Tensor) -> Tensor:
        """states [B, L, H] -> [B]."""
        apart = states[:, self.layers] - self.means
        squared = torch.einsum("bkh,khj,bkj->bk", apart, self.precisions, apart)
        return squared.clamp(min=0).sqrt().mean(dim=1)


def fit_gaussians(
    victim: Classifier, clean: pd.DataFrame, n_layers: int
) -> tuple[list[int], Tensor, Tensor]:
    """The K layers, at most `n_layers`, that part the classes best (Calinski and Harabasz), and in
    each one Gaussian of all classes: means [K, H], precisions [K, H, H]."""
    parts = list(read_states(victim, clean.text))
    order = torch.cat([index for index, _ in parts]).argsort()
    by_layer = torch.cat([states for _, states in parts])[order].transpose(0, 1).numpy()
    parting = [calinski_harabasz_score(states, clean.label) for states in by_layer]
    layers = sorted(np.argsort(parting)[::-1][:n_layers].tolist())
    fits = [ShrunkCovariance().fit(by_layer[layer]) for layer in layers]
    means = np.stack([fit.location_ for fit in fits])
    precisions = np.stack([fit.precision_ for fit in fits])
    return layers, torch.tensor(means), torch.tensor(precisions)


def spectral_scores(states: Tensor) -> Tensor:
    """states [B, L, H] -> [B]: of the singular values of the steps from layer to layer, the largest
    over the sum of all. With two layers there is one step, so it is 1 and says nothing."""
    values = torch.linalg.svdvals(states.diff(dim=1))
    return values[:, 0] / values.sum(dim=1).clamp(min=torch.finfo(values.dtype).tiny)


def read_states(victim: Classifier, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers [B] and [CLS] states [B, L, H] (float64, CPU) of each batch, without the
    embedding layer, whose [CLS] is the same in all texts."""
    encoded, options = victim.encode(texts), {"output_hidden_states": True}
    for index, output in forward_batches(victim.model, encoded, victim.compute, **options):
        states = [layer[:, 0] for layer in output.hidden_states[1:]]
        yield index, torch.stack(states, dim=1).double().cpu()
