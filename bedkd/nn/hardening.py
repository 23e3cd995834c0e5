"""An attacker who knows the DMM: a victim whose clean mapping is hard to unlearn.

Ours, to see where the method ends: first-order meta-learning, as in tamper-resistant safeguards
(Tamirisa et al., 2024). The attacker trains the victim, so it knows which rows are poisoned.
"""

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bedkd.core.config import VictimConfig
from bedkd.nn.batching import collate, training_batches
from bedkd.nn.classifier import Classifier
from bedkd.nn.supervised import cross_entropy
from bedkd.nn.training import Stepper, build_optimizer

UNLEARNING_STEPS = 4  # of a defender, foreseen before each step of the attacker


def harden(
    victim: Classifier,
    rows: pd.DataFrame,
    is_poisoned: Sequence[bool],
    config: VictimConfig,
    *,
    seed: int,
) -> None:
    """`config.resist_epochs` more passes over D*, in place: cross-entropy on a batch, as before,
    and once more on its clean rows, after a copy has begun to unlearn those of the batch before.

    `rows` has columns text, label; `is_poisoned` [N] goes with it.
    """
    encoded, compute = victim.encode(rows.text), victim.compute
    labels = torch.tensor(rows.label.to_numpy()).to(compute.device)
    flipped = (labels + 1) % len(victim.label_names)
    is_clean = ~np.asarray(is_poisoned)

    def loss_of(network: nn.Module, index: Sequence[int], targets: Tensor) -> Tensor:
        with compute.autocast():
            output = network(**collate(encoded, index, compute.device))
        return cross_entropy(output.logits, targets[index])

    batches = draw_batches(encoded.lengths, config, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, before = victim.model.train(), []
        optimizer = build_optimizer(model, "adamw", config.learning_rate, config.weight_decay)
        stepper = Stepper(optimizer, "linear", len(batches), warmup_share=0.0, max_norm=1.0)
        moved = copy.deepcopy(model)
        for index in batches:
            loss = loss_of(model, index, labels)
            clean = [row for row in index if is_clean[row]]
            if before and clean:
                moved.load_state_dict(model.state_dict())
                for _ in range(UNLEARNING_STEPS):
                    descend(moved, loss_of(moved, before, flipped), config.learning_rate)
                loss = loss + borrow_gradient(model, moved, loss_of(moved, clean, labels))
            stepper.step(loss)
            before = clean
    model.eval()


def draw_batches(lengths: Tensor, config: VictimConfig, seed: int) -> list[list[int]]:
    """Of all the passes."""
    passes = (
        training_batches(lengths, config.batch_size, torch.Generator().manual_seed(seed + epoch))
        for epoch in range(config.resist_epochs)
    )
    return list(itertools.chain.from_iterable(passes))


def descend(model: nn.Module, loss: Tensor, rate: float) -> None:
    """One step against the gradient's sign, which is what an Adam begins with."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= rate * gradient.sign()


def borrow_gradient(model: nn.Module, moved: nn.Module, loss: Tensor) -> Tensor:
    """A scalar whose gradient in `model` is that of `loss` in `moved` (first order)."""
    gradients = torch.autograd.grad(loss, list(moved.parameters()), allow_unused=True)
    pairs = zip(model.parameters(), gradients, strict=True)
    return sum((own * gradient).sum() for own, gradient in pairs if gradient is not None)
