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
    text, label, source. Their teacher is what it says of row `source` of `rows`; hidden states of
    other words are not compared.
    """
    check_blind(rows)
    asked = teacher.encode(rows.text)
    outputs = ask_teacher(teacher, asked, config)
    encoded, source = asked, torch.arange(len(rows))
    if changed is not None:
        encoded = teacher.encode([*rows.text, *changed.text])
        source = torch.cat([source, torch.tensor(changed.source.to_numpy())])
        labels = [*labels, *changed.label]
    labels = torch.tensor(np.array(labels), dtype=torch.int64)
    target, source = labels.to(teacher.compute.device), source.to(teacher.compute.device)

    def loss(batch: dict, index: Tensor, output) -> Tensor:
        index = index.to(target.device)
        mask = batch["attention_mask"][:, : outputs.hidden.shape[1]]
        mask = torch.ones_like(mask) if config.is_padding_in_mse else mask
        soft = soft_loss(
            output.logits,
            output.hidden_states[-1][:, : mask.shape[1]],
            outputs.logits[source[index]],
            outputs.hidden[source[index], : mask.shape[1]],
            mask * (source[index] == index).unsqueeze(1),
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
    victim: Classifier,
    phases: Sequence[Phase],
    settings: TrainingSettings,
    *,
    seed: int,
    watch: WatchFunction | None = None,
) -> tuple[Classifier, list[dict]]:
    """A copy of the victim, trained on all phases in turn, and the history (see `train`)."""
    student = victim.copy()
    options = {"compute": student.compute, "seed": seed, "watch": watch}
    return student, train(student.model, phases, settings, **options)
