"""The one training loop, and the forward passes that need no gradient."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm.auto import tqdm

from bedkd.core.devices import Compute, can_fuse
from bedkd.core.errors import DivergenceError
from bedkd.nn.batching import Encoded, collate, evaluation_batches, training_batches
from bedkd.nn.embedding import only_used_rows

# batch inputs, row numbers [B], the model's output -> scalar loss
LossFunction = Callable[[dict, Tensor, object], Tensor]
# the epoch's numbers so far and the model -> more numbers
WatchFunction = Callable[[dict, torch.nn.Module], dict]


@dataclass(frozen=True)
class Phase:
    """One pass over a set of rows, with its loss. AKD has two in a cycle, the rest one."""

    name: str
    encoded: Encoded
    labels: Tensor  # [N], to report the accuracy of the training pass
    loss: LossFunction


def train(
    model: torch.nn.Module,
    phases: Sequence[Phase],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    optimizer: str = "adamw",
    compute: Compute,
    seed: int,
    schedule: str = "constant",
    warmup_share: float = 0.0,
    max_grad_norm: float = math.inf,
    is_reshuffled: bool = True,
    watch: WatchFunction | None = None,
    title: str = "training",
    unit: str = "epoch",
) -> list[dict]:
    """Run all phases one after the other, `epochs` times; dropout is on.

    `watch(row, model)` is called with the epoch's numbers and the model in eval mode, and returns
    numbers to add to them; epoch 0 is before the first step. It can steer only by raising.

    Raises:
        DivergenceError: the mean loss of a pass is not finite.

    Returns one dict an epoch: epoch, seconds, and for each phase NAME_loss, NAME_accuracy (percent,
    of the training pass itself, dropout on).
    """
    history = []
    encoded = [phase.encoded for phase in phases]
    steps = epochs * sum(math.ceil(len(part) / batch_size) for part in encoded)
    with torch.random.fork_rng(), only_used_rows(model, encoded) as whole:
        torch.manual_seed(seed)
        stepper = Stepper(
            build_optimizer(model, optimizer, learning_rate, weight_decay),
            schedule,
            steps,
            warmup_share,
            max_grad_norm,
        )
        if watch:
            history.append(observe(watch, {"epoch": 0, "seconds": 0.0}, model, whole))
        # tqdm's notebook bar does not read its own variable
        is_silent = bool(os.environ.get("TQDM_DISABLE"))
        bar = tqdm(range(1, epochs + 1), desc=title, leave=False, mininterval=1, disable=is_silent)
        for epoch in bar:
            model.train()
            started = time.perf_counter()
            row = {"epoch": epoch}
            for number, phase in enumerate(phases):
                order = seed * 1_000_003 + (epoch if is_reshuffled else 0) * 31 + number
                row |= run_phase(model, phase, stepper, batch_size, compute, order)
            row["seconds"] = time.perf_counter() - started
            check_finite(row, phases, title, unit)
            history.append(observe(watch, row, model, whole) if watch else row)
    model.eval()
    return history


def observe(watch: WatchFunction, row: dict, model, whole: Callable) -> dict:
    """`row` with what the watcher adds; its own random draws change nothing that follows."""
    model.eval()
    with whole(), torch.random.fork_rng():
        return row | watch(row, model)


def check_finite(row: dict, phases: Sequence[Phase], title: str, unit: str) -> None:
    for phase in phases:
        loss = row[f"{phase.name}_loss"]
        if not math.isfinite(loss):
            raise DivergenceError(
                f"{title} diverged in {unit} {row['epoch']}: the {phase.name} loss is {loss}; "
                f"lower {title.lower()}.learning_rate"
            )


class Stepper:
    """An optimizer with its learning-rate schedule over `steps` steps, and gradient clipping."""

    def __init__(self, optimizer, schedule: str, steps: int, warmup_share: float, max_norm: float):
        self.optimizer, self.max_norm = optimizer, max_norm
        warmup = round(warmup_share * steps)
        self.scheduler = transformers.get_scheduler(schedule, optimizer, warmup, steps)

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.max_norm < math.inf:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.optimizer.step()
        self.scheduler.step()


def run_phase(
    model, phase: Phase, stepper: Stepper, batch_size: int, compute: Compute, order: int
) -> dict:
    """One pass over the rows of a phase."""
    generator = torch.Generator().manual_seed(order)
    losses, n_right = [], torch.zeros((), device=compute.device)
    for index in training_batches(phase.encoded.lengths, batch_size, generator):
        rows = torch.tensor(index)
        batch = collate(phase.encoded, index, compute.device)
        with compute.autocast():
            output = model(**batch, output_hidden_states=True)
            loss = phase.loss(batch, rows, output)
        stepper.step(loss)
        losses.append(loss.detach() * len(index))
        labels = phase.labels[rows].to(compute.device)
        n_right += (output.logits.detach().argmax(dim=-1) == labels).sum()
    n = max(1, len(phase.encoded))
    total = float(torch.stack(losses).sum()) if losses else 0.0
    return {f"{phase.name}_loss": total / n, f"{phase.name}_accuracy": 100 * float(n_right) / n}


def build_optimizer(
    model: torch.nn.Module, name: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`adamw`, or `adam` without decay (the released code's); fused where the device can."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    decay = weight_decay if name == "adamw" else 0.0
    parameters = [p for p in model.parameters() if p.requires_grad]
    is_fused = can_fuse(parameters[0].device)
    return kind(parameters, lr=learning_rate, weight_decay=decay, fused=is_fused)


@torch.no_grad()
def forward_all(
    model, encoded: Encoded, compute: Compute, *, with_hidden: bool = False, pad_to: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Logits [N, C] and, if asked, last hidden states [N, L, H], in row order; dropout is off.

    L is the longest row. Positions past a row's end hold 0, or, with `pad_to`, what the model
    makes of the padding up to that length.
    """
    was_training = model.training
    model.eval()
    n_classes = model.config.num_labels
    logits = torch.zeros(len(encoded), n_classes)
    hidden = None
    for index in evaluation_batches(encoded.lengths, compute.eval_tokens):
        batch = collate(encoded, index, compute.device, pad_to or None)
        with compute.autocast():
            output = model(**batch, output_hidden_states=with_hidden)
        logits[index] = output.logits.float().cpu()
        if with_hidden:
            last = output.hidden_states[-1]
            if hidden is None:
                shape = (len(encoded), pad_to or int(encoded.lengths.max()), last.shape[-1])
                hidden = torch.zeros(shape, dtype=last.dtype, device=compute.device)
            hidden[torch.tensor(index), : last.shape[1]] = last
    model.train(was_training)
    return logits, hidden


@torch.no_grad()
def first_states(model, encoded: Encoded, compute: Compute) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and the last hidden state of each row's first token [N, H]: float32, on the
    CPU, in row order; dropout is off.

    `forward_all` would hold the states of all tokens, a hundred times as many.
    """
    was_training = model.training
    model.eval()
    logits = torch.zeros(len(encoded), model.config.num_labels)
    states = torch.zeros(len(encoded), model.config.hidden_size)
    for index in evaluation_batches(encoded.lengths, compute.eval_tokens):
        with compute.autocast():
            output = model(**collate(encoded, index, compute.device), output_hidden_states=True)
        logits[index] = output.logits.float().cpu()
        states[index] = output.hidden_states[-1][:, 0].float().cpu()
    model.train(was_training)
    return logits, states


def predict_probabilities(model, encoded: Encoded, compute: Compute) -> np.ndarray:
    """Class probabilities [N, C] (float32), in row order."""
    logits, _ = forward_all(model, encoded, compute)
    return logits.softmax(dim=-1).numpy()
