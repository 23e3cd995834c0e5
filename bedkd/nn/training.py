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
from bedkd.nn.batching import Encoded, collate, evaluation_batches, send, training_batches
from bedkd.nn.graphs import Graphed, is_recordable
from bedkd.nn.parallel import spread

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
    n_steps = s.epochs * sum(math.ceil(len(phase.encoded) / s.batch_size) for phase in phases)
    with torch.random.fork_rng(), spread(model, compute, is_trained=True) as learner:
        torch.manual_seed(seed + compute.rank)
        optimizer = build_optimizer(learner, s.optimizer, s.learning_rate, s.weight_decay)
        stepper = Stepper(optimizer, s.schedule, n_steps, s.warmup_share, s.max_grad_norm)
        steps = [Step(learner, phase, stepper, compute) for phase in phases]
        if watch:
            history.append(observe(watch, {"epoch": 0, "seconds": 0.0}, learner))
        is_silent = bool(os.environ.get("TQDM_DISABLE"))  # tqdm's notebook bar does not read it
        bar = {"desc": s.title, "leave": False, "mininterval": 1, "disable": is_silent}
        for epoch in tqdm(range(1, s.epochs + 1), **bar):
            learner.train()
            started, row = time.perf_counter(), {"epoch": epoch}
            for number, step in enumerate(steps):
                order = seed * 1_000_003 + (epoch if s.is_reshuffled else 0) * 31 + number
                row |= run_phase(step, s.batch_size, order)
            row["seconds"] = time.perf_counter() - started
            check_finite(row, phases, s)
            history.append(observe(watch, row, learner) if watch else row)
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
        self.update(loss)
        self.scheduler.step()

    def update(self, loss: Tensor) -> None:
        """The device's part of a step, which can be recorded; the schedule is the CPU's."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.max_norm < math.inf:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.optimizer.step()


class Step:
    """What is done with one batch of a phase. Nothing in it waits for the device."""

    def __init__(self, model, phase: Phase, stepper: Stepper, compute: Compute):
        self.model, self.phase, self.stepper, self.compute = model, phase, stepper, compute
        self.labels = phase.labels.to(compute.device)
        is_graphed = compute.is_graphed and is_recordable(model)
        self.run = Graphed(self.learn) if is_graphed else self.learn

    def __call__(self, index: Sequence[int]) -> Tensor:
        """Learn from these rows. Returns [2]: their losses' sum, and how many were right."""
        encoded, device = self.phase.encoded, self.compute.device
        length = self.compute.padded(int(encoded.lengths[index].max()))
        batch = collate(encoded, index, device, min(length, int(encoded.lengths.max())))
        result = self.run(batch, send(torch.tensor(index), device))
        self.stepper.scheduler.step()
        return result

    def learn(self, batch: dict, rows: Tensor) -> Tensor:
        with self.compute.autocast():
            output = self.model(**batch, output_hidden_states=True)
            loss = self.phase.loss(batch, rows, output)
        self.stepper.update(loss)
        n_right = (output.logits.detach().argmax(dim=-1) == self.labels[rows]).sum()
        return torch.stack([loss.detach().float() * len(rows), n_right.float()])


def run_phase(step: Step, batch_size: int, order: int) -> dict:
    """One pass over the rows of a phase."""
    phase, generator = step.phase, torch.Generator().manual_seed(order)
    sums = torch.zeros(2, device=step.compute.device)
    for index in training_batches(phase.encoded.lengths, batch_size, generator):
        sums += step(index)
    loss, accuracy = (sums / max(1, len(phase.encoded))).tolist()
    return {f"{phase.name}_loss": loss, f"{phase.name}_accuracy": 100 * accuracy}


def build_optimizer(
    model: torch.nn.Module, name: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`adamw`, or `adam` without decay (the released code's); fused where the device can. On CUDA
    the rate is a tensor, which a recorded step reads anew."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    decay = weight_decay if name == "adamw" else 0.0
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    is_cuda = device.type == "cuda"
    options = {"fused": device.type in FUSED, "capturable": is_cuda, "weight_decay": decay}
    rate = torch.tensor(learning_rate, device=device) if is_cuda else learning_rate
    return kind(parameters, lr=rate, **options)


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
    with evaluating(model), spread(model, compute) as model:
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
    found, hidden = [], None
    options = {"pad_to": pad_to, "output_hidden_states": with_hidden}
    for index, output in forward_batches(model, encoded, compute, **options):
        found.append((index, output.logits.float()))  # read at the end: no batch waits for it
        if with_hidden:
            last = output.hidden_states[-1]
            if hidden is None:  # the first batch has the longest rows
                hidden = last.new_zeros(len(encoded), *last.shape[1:])
            hidden[index, : last.shape[1]] = last
    logits = torch.zeros(len(encoded), model.config.num_labels)
    for index, of_batch in found:
        logits[index] = of_batch.cpu()
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
