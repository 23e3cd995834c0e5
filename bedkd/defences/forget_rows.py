"""Which rows of D* Robust Gradient Ascent forgets: those outside the largest clusters (CUBE)."""

import numpy as np
import torch
from sklearn.cluster import HDBSCAN

from bedkd.core.defence_config import ForgetConfig
from bedkd.core.errors import BedkdError
from bedkd.evaluation.sides import DefenderView
from bedkd.nn.training import first_states

N_COMPONENTS = 4  # of UMAP, the authors' number


def find_forget_rows(view: DefenderView, config: ForgetConfig, *, seed: int) -> np.ndarray:
    """bool [N]: rows to forget, by the victim's last [CLS] states on all texts of D*.

    UMAP, then HDBSCAN; its K largest clusters are kept, all else is forgotten, noise too. Labels
    play no part. K is the number of classes: where the poison's cluster is larger than a class's,
    or the victim's states do not part the classes, it is the poison that is kept. As the authors'
    code, with scikit-learn's HDBSCAN.

    Raises BedkdError: D* has too few rows for the sizes in `config`, or no clusters.
    """
    victim = view.victim
    _, states = first_states(victim.model, victim.encode(view.train.text), victim.compute)
    clusters = cluster(states.numpy(), config, seed)
    n_kept = config.n_kept or len(victim.label_names)
    is_forgotten = ~np.isin(clusters, largest_clusters(clusters, n_kept))
    if is_forgotten.all():
        raise BedkdError(
            f"HDBSCAN found no cluster of forget.min_cluster_size = {config.min_cluster_size} rows "
            f"among the {len(clusters)} of D*, so there is nothing to keep; lower it, or "
            "forget.min_samples"
        )
    return is_forgotten


def cluster(states: np.ndarray, config: ForgetConfig, seed: int) -> np.ndarray:
    """States [N, H] -> number of each row's cluster, int [N]; -1: noise. Raises BedkdError."""
    for name in ("n_neighbors", "min_cluster_size", "min_samples"):
        if (size := getattr(config, name)) >= len(states):
            raise BedkdError(f"forget.{name} is {size}, but D* has {len(states)} rows; lower it")
    sizes = {"min_cluster_size": config.min_cluster_size, "min_samples": config.min_samples}
    return HDBSCAN(**sizes, copy=True).fit_predict(project(states, config, seed))


def project(states: np.ndarray, config: ForgetConfig, seed: int) -> np.ndarray:
    """States [N, H] -> UMAP's [N, N_COMPONENTS]."""
    import umap  # numba takes seconds to load

    shape = {"n_components": N_COMPONENTS, "n_neighbors": config.n_neighbors}
    shape |= {"min_dist": config.min_dist, "metric": "cosine"}
    n_threads = torch.get_num_threads()
    try:
        return umap.UMAP(**shape, random_state=seed, n_jobs=1).fit_transform(states)
    finally:  # numba has set OpenMP's, which are torch's, to all cores
        torch.set_num_threads(n_threads)


def largest_clusters(clusters: np.ndarray, n: int) -> np.ndarray:
    """Numbers of the `n` largest clusters, or of all if there are fewer; noise is none."""
    numbers, sizes = np.unique(clusters[clusters >= 0], return_counts=True)
    return numbers[np.argsort(-sizes, kind="stable")[:n]]
