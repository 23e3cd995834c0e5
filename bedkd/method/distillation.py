"""What DMM, AKD and KD share: the frozen teacher, asked once, and a student trained against it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bedkd.core.blindness import check_blind
from bedkd.core.config import AKDConfig, DistillConfig
from bedkd.method.losses import hard_loss, soft_loss
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Phase, TrainingSettings, WatchFunction, forward_all, train

LEAST = 1e-7  # of a probability, before its logarithm


@dataclass(frozen=True)
class TeacherOutputs:
    """The frozen teacher on N rows: logits [N, C], last hidden states [N, L, H]."""

    logits: Tensor
    hidden: Tensor


def ask_teacher(teacher: Classifier, encoded: Encoded, config: DistillConfig) -> TeacherOutputs:
    """One pass in eval mode; the teacher never changes, so no step asks again."""
    pad_to = int(encoded.lengths.max()) if config.is_padding_in_mse else 0
    logits, hidden = forward_all(
        teacher.model, encoded, teacher.compute, with_hidden=True, pad_to=pad_to
    )
    return TeacherOutputs(logits.to(teacher.compute.device), hidden)


def distillation_phase(
    name: str,
    teacher: Classifier,
    rows: pd.DataFrame,
    labels: np.ndarray,
    config: DistillConfig,
    combine: Callable[[Tensor, Tensor], Tensor],
    changed: pd.DataFrame | None = None,
) -> Phase:
    """A pass over `rows` with `combine(L_hard, L_soft)` as its loss.

    `labels` [N] are those of L_hard: flipped for the DMM, as given for AKD. `changed`: more rows
    text, label, told. The teacher's part is `told`, probabilities [C] of other words than theirs,
    so hidden states are not compared.
    """
    check_blind(rows)
    encoded, n = teacher.encode(rows.text), len(rows)
    outputs = ask_teacher(teacher, encoded, config)
    logits = outputs.logits
    if changed is not None and len(changed):
        encoded = teacher.encode([*rows.text, *changed.text])
        told = torch.tensor(np.stack(changed.told), dtype=logits.dtype).to(logits.device)
        logits = torch.cat([logits, told.clamp(min=LEAST).log()])
        labels = [*labels, *changed.label]
    labels = torch.tensor(np.array(labels), dtype=torch.int64)
    target = labels.to(teacher.compute.device)

    def loss(batch: dict, index: Tensor, output) -> Tensor:
        index = index.to(target.device)
        mask = batch["attention_mask"][:, : outputs.hidden.shape[1]]
        mask = torch.ones_like(mask) if config.is_padding_in_mse else mask
        soft = soft_loss(
            output.logits,
            output.hidden_states[-1][:, : mask.shape[1]],
            logits[index],
            outputs.hidden[index.clamp(max=n - 1), : mask.shape[1]],
            mask * (index < n).unsqueeze(1),
            config.temperature,
            config.soft_loss,
        )
        return combine(hard_loss(output.logits, target[index]), soft)

    return Phase(name, encoded, labels, loss)


def cycle_settings(config: AKDConfig, title: str) -> TrainingSettings:
    """How AKD trains, and KD, which is compared with it."""
    more = {"epochs": config.cycles, "section": "akd", "unit": "cycle"}
    return TrainingSettings.of(config, title=title, **more)


def distill(
    start: Classifier,
    phases: Sequence[Phase],
    settings: TrainingSettings,
    *,
    seed: int,
    watch: WatchFunction | None = None,
) -> tuple[Classifier, list[dict]]:
    """A copy of `start`, trained on all phases in turn, and the history (see `train`)."""
    student = start.copy()
    options = {"compute": student.compute, "seed": seed, "watch": watch}
    return student, train(student.model, phases, settings, **options)
