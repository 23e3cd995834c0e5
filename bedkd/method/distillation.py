"""What DMM and AKD share: the frozen teacher, asked once, and a training phase against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bedkd.core.blindness import check_blind
from bedkd.core.config import DistillConfig
from bedkd.method.losses import hard_loss, soft_loss
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Phase, forward_all


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
) -> Phase:
    """A pass over `rows` with `combine(L_hard, L_soft)` as its loss.

    `labels` [N] are those of L_hard: flipped for the DMM, as given for AKD.
    """
    check_blind(rows)
    encoded = teacher.encode(rows.text)
    outputs = ask_teacher(teacher, encoded, config)
    labels = torch.tensor(np.array(labels), dtype=torch.int64)
    target = labels.to(teacher.compute.device)

    def loss(batch: dict, index: Tensor, output) -> Tensor:
        index = index.to(target.device)
        mask = batch["attention_mask"]
        soft = soft_loss(
            output.logits,
            output.hidden_states[-1],
            outputs.logits[index],
            outputs.hidden[index, : mask.shape[1]],
            torch.ones_like(mask) if config.is_padding_in_mse else mask,
            config.temperature,
            config.soft_loss,
        )
        return combine(hard_loss(output.logits, target[index]), soft)

    return Phase(name, encoded, labels, loss)
