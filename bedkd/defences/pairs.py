"""Unlearning in pairs of batches: rows to forget, and rows to keep. For RGA and DUP."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bedkd.core.errors import DivergenceError
from bedkd.method.losses import soft_label_loss
from bedkd.nn.batching import collate
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Stepper, forward_all


@dataclass(frozen=True)
class Pair:
    """Logits and given labels of the rows to forget, forget, victim [F, C] and forget_labels [F],
    and of those to keep, keep [K, C] and keep_labels [K]. `victim`: what it said of the first."""

    forget: Tensor
    forget_labels: Tensor
    victim: Tensor
    keep: Tensor
    keep_labels: Tensor

    def forget_loss(self) -> Tensor:
        """Mean cross-entropy of the rows to forget, with the labels that they are given."""
        return F.cross_entropy(self.forget, self.forget_labels)

    def keep_loss(self) -> Tensor:
        return F.cross_entropy(self.keep, self.keep_labels)

    def kl(self) -> Tensor:
        """Mean KL(victim ‖ student) over the rows to forget: 0 while nothing is forgotten."""
        return soft_label_loss(self.forget, self.victim, 1.0, "kl")


class PairedRows:
    """Rows to forget and rows to keep, at least one of each, in batches cut once for all epochs."""

    def __init__(self, victim: Classifier, forget: pd.DataFrame, keep: pd.DataFrame, size: int):
        rows, n = pd.concat([forget, keep], ignore_index=True), len(forget)
        self.compute, self.encoded = victim.compute, victim.encode(rows.text)
        self.labels = torch.tensor(rows.label.to_numpy()).to(self.compute.device)
        logits, _ = forward_all(victim.model, victim.encode(forget.text), self.compute)
        self.victim = logits.to(self.compute.device)
        numbers = torch.arange(len(rows))
        self.forget, self.keep = numbers[:n].split(size), numbers[n:].split(size)

    def forward(self, model: torch.nn.Module, forget: Tensor, keep: Tensor) -> Pair:
        """Both batches in one pass; `forget`, `keep`: row numbers."""
        n, index, device = len(forget), torch.cat([forget, keep]), self.compute.device
        with self.compute.autocast():
            output = model(**collate(self.encoded, index.tolist(), device))
        logits, labels = output.logits.float(), self.labels[index.to(device)]
        victim = self.victim[forget.to(device)]
        return Pair(logits[:n], labels[:n], victim, logits[n:], labels[n:])


def unlearn_epoch(
    model: torch.nn.Module,
    rows: PairedRows,
    pairs: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Pair], Tensor],
    stepper: Stepper,
) -> dict:
    """A step on each pair of batches, dropout on. Returns means over the steps: loss, forget_loss,
    keep_loss, kl (from the victim, on the rows to forget); and seconds."""
    model.train()
    started, steps = time.perf_counter(), []
    for forget, keep in pairs:
        pair = rows.forward(model, forget, keep)
        value = loss(pair)
        stepper.step(value)
        said = (value, pair.forget_loss(), pair.keep_loss(), pair.kl())
        steps.append(torch.stack(said).detach())
    model.eval()
    means = torch.stack(steps).mean(dim=0).tolist()
    names = ("loss", "forget_loss", "keep_loss", "kl")
    return dict(zip(names, means, strict=True)) | {"seconds": time.perf_counter() - started}


def check_converging(row: dict, title: str, section: str) -> None:
    """Raises DivergenceError if the mean loss of an epoch is not finite."""
    if not math.isfinite(row["loss"]):
        raise DivergenceError(
            f"{title} diverged in epoch {row['epoch']}: the loss is {row['loss']}; lower "
            f"{section}.learning_rate"
        )
