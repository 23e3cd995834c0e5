"""The one training loop, and the forward passes that need no gradient."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm.auto import tqdm

from bedkd.core.devices import FUSED, Compute
from bedkd.core.errors import DivergenceError
from bedkd.nn.batching import Encoded, collate, evaluation_batches, training_batches

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


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. `section`: where a user sets the learning rate, for a message that says so."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    section: str
    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup_share: float = 0.0  # of the steps
    max_grad_norm: float = math.inf
    is_reshuffled: bool = True  # False: the batches of the first epoch, in its order, in all
    title: str = "training"
    unit: str = "epoch"

    @classmethod
    def of(cls, config, **more) -> Self:
        """From a section of the configuration, the fields that it has; `more` wins."""
        names = {f.name for f in fields(cls)} & {f.name for f in fields(config)}
        return cls(**{name: getattr(config, name) for name in names} | more)


def train(
    model: torch.nn.Module,
    phases: Sequence[Phase],
    settings: TrainingSettings,
    *,
    compute: Compute,
    seed: int,
    watch: WatchFunction | None = None,
) -> list[dict]:
    """Run all phases one after the other, `epochs` times; dropout is on.

    `watch(row, model)` is called with the epoch's numbers and the model in eval mode, and returns
    numbers to add to them; epoch 0 is before the first step. It can steer only by raising.

    Returns one dict an epoch: epoch, seconds, and for each phase NAME_loss, NAME_accuracy (percent,
    of the training pass itself, dropout on). Raises DivergenceError if a mean loss is not finite.
    """
    s, history = settings, []
    steps = s.epochs * sum(math.ceil(len(phase.encoded) / s.batch_size) for phase in phases)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = build_optimizer(model, s.optimizer, s.learning_rate, s.weight_decay)
        stepper = Stepper(optimizer, s.schedule, steps, s.warmup_share, s.max_grad_norm)
        if watch:
            history.append(observe(watch, {"epoch": 0, "seconds": 0.0}, model))
        is_silent = bool(os.environ.get("TQDM_DISABLE"))  # tqdm's notebook bar does not read it
        bar = {"desc": s.title, "leave": False, "mininterval": 1, "disable": is_silent}
        for epoch in tqdm(range(1, s.epochs + 1), **bar):
            model.train()
            started, row = time.perf_counter(), {"epoch": epoch}
            for number, phase in enumerate(phases):
                order = seed * 1_000_003 + (epoch if s.is_reshuffled else 0) * 31 + number
                row |= run_phase(model, phase, stepper, s.batch_size, compute, order)
            row["seconds"] = time.perf_counter() - started
            check_finite(row, phases, s)
            history.append(observe(watch, row, model) if watch else row)
    model.eval()
    return history


def observe(watch: WatchFunction, row: dict, model) -> dict:
    """`row` with what the watcher adds; its own random draws change nothing that follows."""
    model.eval()
    with torch.random.fork_rng():
        return row | watch(row, model)


def check_finite(row: dict, phases: Sequence[Phase], settings: TrainingSettings) -> None:
    for phase in phases:
        loss = row[f"{phase.name}_loss"]
        if not math.isfinite(loss):
            raise DivergenceError(
                f"{settings.title} diverged in {settings.unit} {row['epoch']}: the {phase.name} "
                f"loss is {loss}; lower {settings.section}.learning_rate"
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
    is_fused = parameters[0].device.type in FUSED
    return kind(parameters, lr=learning_rate, weight_decay=decay, fused=is_fused)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside the block, what it was before after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def forward_batches(
    model, encoded: Encoded, compute: Compute, *, pad_to: int = 0, **options
) -> Iterator[tuple[Tensor, object]]:
    """Row numbers [B] and the model's output of each batch, in eval mode; `options` are for the
    model. Every batch is padded to its longest row, or to `pad_to`."""
    with evaluating(model):
        for index in evaluation_batches(encoded.lengths, compute.eval_tokens):
            batch = collate(encoded, index, compute.device, pad_to)
            with compute.autocast():
                output = model(**batch, **options)
            yield torch.tensor(index), output


def forward_all(
    model, encoded: Encoded, compute: Compute, *, with_hidden: bool = False, pad_to: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Logits [N, C] and, if asked, last hidden states [N, L, H], in row order; dropout is off.

    L is the longest row. Positions past a row's end hold 0, or, with `pad_to`, what the model makes
    of the padding up to that length.
    """
    logits, hidden = torch.zeros(len(encoded), model.config.num_labels), None
    options = {"pad_to": pad_to, "output_hidden_states": with_hidden}
    for index, output in forward_batches(model, encoded, compute, **options):
        logits[index] = output.logits.float().cpu()
        if with_hidden:
            last = output.hidden_states[-1]
            if hidden is None:  # the first batch has the longest rows
                hidden = last.new_zeros(len(encoded), *last.shape[1:])
            hidden[index, : last.shape[1]] = last
    return logits, hidden


def first_states(model, encoded: Encoded, compute: Compute) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and last hidden states of the first tokens [N, H] (float32, CPU), in row order;
    dropout is off. `forward_all` would hold the states of all tokens, a hundred times as many."""
    n, shape = len(encoded), model.config
    logits, states = torch.zeros(n, shape.num_labels), torch.zeros(n, shape.hidden_size)
    for index, output in forward_batches(model, encoded, compute, output_hidden_states=True):
        logits[index] = output.logits.float().cpu()
        states[index] = output.hidden_states[-1][:, 0].float().cpu()
    return logits, states


def predict_probabilities(model, encoded: Encoded, compute: Compute) -> np.ndarray:
    """Class probabilities [N, C] (float32), in row order."""
    logits, _ = forward_all(model, encoded, compute)
    return logits.softmax(dim=-1).numpy()
