"""Robust Gradient Ascent (ICLR 2026), and what its authors compare it with: plain gradient ascent
(GA) and NPO (Zhang et al., 2024). Not in BeDKD's paper.

The victim climbs the cross-entropy of rows that are taken for poisoned (`forget_rows`), with the
labels that they are given, and descends that of the other rows of D*. Climbed without end, the
trigger does not fade but points to another label. So RGA weighs the climb by how near the student
still is to the victim, and holds the encoder to the weights that the victim was trained from.

Follows the released code where the paper differs: KL(victim ‖ student), norms that are not squared,
AdamW, new in each epoch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bedkd.core.blindness import check_blind
from bedkd.core.defence_config import AscentConfig
from bedkd.core.errors import BedkdError
from bedkd.defences.interface import Defended, EquippedView
from bedkd.defences.pairs import Pair, PairedRows, check_converging, unlearn_epoch
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Stepper, build_optimizer

MAX_GRAD_NORM = 1.0  # the authors' value
NPO_BETA = 1.0  # the authors' value, and NPO's own


def defend(
    view: EquippedView,
    config: AscentConfig,
    *,
    seed: int,
    method: str,
    is_forgotten: np.ndarray,
) -> Defended:
    """`method`: rga, ga or npo (LOSSES). `is_forgotten`: bool [N], rows of D* to forget; with none
    the victim stays as it is. For RGA `view.fresh(seed)` must be what the victim was trained from.

    An epoch is a pass over the batches of rows to forget, in the order of D*, each with a random
    one of rows to keep. All parameters are trained; the last epoch counts.

    Raises BedkdError: RGA without `view.fresh`.
    Raises DivergenceError: a loss is not finite.
    """
    check_blind(view.train)
    if method == "rga" and view.fresh is None:
        raise BedkdError("RGA holds on to the base encoder: it needs `fresh` in its view")
    facts = {"n_flagged": int(is_forgotten.sum()), "n_kept": int((~is_forgotten).sum())}
    if not is_forgotten.any():
        return Defended(view.victim.predict, facts, [], view.victim)
    student = view.victim.copy()
    parts = view.train[is_forgotten], view.train[~is_forgotten]
    rows = PairedRows(view.victim, *parts, config.batch_size)
    base = view.fresh(seed) if method == "rga" else None

    def loss(pair: Pair) -> Tensor:
        own = LOSSES[method](pair, config)
        return own + config.anchor * encoder_distance(student, base) if base else own

    history = climb(student, rows, loss, config, method, seed)
    return Defended(student.predict, facts, history, student)


def climb(
    student: Classifier, rows: PairedRows, loss, config: AscentConfig, method: str, seed: int
) -> list[dict]:
    """All epochs, in place; one dict each (see `unlearn_epoch`)."""
    history, model = [], student.model
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        for epoch in range(1, config.epochs + 1):
            optimizer = build_optimizer(model, "adamw", config.learning_rate, config.weight_decay)
            stepper = Stepper(optimizer, "constant", len(rows.forget), 0.0, MAX_GRAD_NORM)
            drawn = torch.randint(len(rows.keep), (len(rows.forget),), generator=draw)
            pairs = zip(rows.forget, [rows.keep[i] for i in drawn], strict=True)
            row = {"epoch": epoch} | unlearn_epoch(model, rows, pairs, loss, stepper)
            check_converging(row, method, "ascent")
            history.append(row)
    return history


def ga_loss(pair: Pair, config: AscentConfig) -> Tensor:
    """CE(keep) - CE(forget)."""
    return pair.keep_loss() - pair.forget_loss()


def npo_loss(pair: Pair, config: AscentConfig) -> Tensor:
    """CE(keep) - 2/β · mean log σ(β · (CE - CE of the victim)), the mean over the rows to forget.

    Its gradient fades for rows that the student likes much less than the victim.
    """
    own = F.cross_entropy(pair.forget, pair.forget_labels, reduction="none")
    before = F.cross_entropy(pair.victim, pair.forget_labels, reduction="none")
    preference = F.logsigmoid(NPO_BETA * (own - before)).mean()
    return pair.keep_loss() - 2 / NPO_BETA * preference


def rga_loss(pair: Pair, config: AscentConfig) -> Tensor:
    """CE(keep) - w · CE(forget), without the anchor (`encoder_distance`)."""
    return pair.keep_loss() - ascent_weight(pair, config.power) * pair.forget_loss()


LOSSES = {"rga": rga_loss, "ga": ga_loss, "npo": npo_loss}


def ascent_weight(pair: Pair, power: float) -> Tensor:
    """w = exp(-KL)^α, a number without gradient: 1 while the student says of the rows to forget
    what the victim says, towards 0 as it moves away."""
    return torch.exp(-pair.kl().detach()) ** power


def encoder_distance(student: Classifier, base: Classifier) -> Tensor:
    """Σ_t ‖θ_t - θ_base,t‖ over the encoder's parameter tensors; the head is free. Where a tensor
    is the base's, its part has the gradient 0."""
    models = (classifier.model.base_model.parameters() for classifier in (student, base))
    pairs = zip(*models, strict=True)
    return torch.stack([torch.linalg.vector_norm(own - its.detach()) for own, its in pairs]).sum()
