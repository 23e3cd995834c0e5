"""The method as one would first write it: the loop that the kit's is compared with.

Random batches padded to their longest row, tokenized and passed through the teacher at every step,
in float32, with an unfused AdamW; a scan in the file's order, one model after the other.
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bedkd.core.config import AKDConfig, DistillConfig, DMMConfig
from bedkd.core.devices import synchronize
from bedkd.defences.language.perplexity import tokenize
from bedkd.defences.language.word_scores import can_compare
from bedkd.method.dmm import flip_labels
from bedkd.method.losses import distillation_loss, hard_loss, penalty_loss, soft_loss
from bedkd.nn.classifier import Classifier
from bedkd.nn.language import LanguageModel
from bedkd.report.speed.turns import Timed


def textbook_dmm(
    victim: Classifier, clean_few: pd.DataFrame, config: DMMConfig, *, seed: int, epochs: int
) -> tuple[Classifier, Timed]:
    """The DMM after so many epochs (Eq. 3). `clean_few` has columns text, label."""
    flipped = flip_labels(clean_few.label, len(victim.label_names), config.flip, seed)
    combine = partial(distillation_loss, weight=config.alpha)
    return _distill(victim, [(clean_few.assign(label=flipped), combine)], config, seed, epochs)


def textbook_akd(
    victim: Classifier,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    config: AKDConfig,
    *,
    seed: int,
    cycles: int,
) -> tuple[Classifier, Timed]:
    """CM after so many cycles of trust and punish distillation (Eq. 5 and 6)."""
    losses = (partial(loss, weight=config.lambda_) for loss in (distillation_loss, penalty_loss))
    phases = list(zip((clean_few, poison_few), losses, strict=True))
    return _distill(victim, phases, config, seed, cycles)


def _distill(victim: Classifier, phases, config: DistillConfig, seed: int, epochs: int):
    """phases: rows text, label, and what combines their two losses."""
    started, student = time.perf_counter(), victim.copy()
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    unfused = {"fused": False, "foreach": False}
    optimizer = torch.optim.AdamW(student.model.parameters(), **settings, **unfused)
    victim.model.eval()
    student.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(epochs):
            begun = time.perf_counter()
            for rows, combine in phases:
                for index in torch.randperm(len(rows)).split(config.batch_size):
                    batch = rows.iloc[index.tolist()]
                    loss = combine(*textbook_losses(victim, student, batch, config))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            synchronize()
            ended = time.perf_counter()
    student.model.eval()
    return student, Timed(ended - started, ended - begun, epochs)


def textbook_losses(
    victim: Classifier, student: Classifier, batch: pd.DataFrame, config: DistillConfig
) -> tuple[Tensor, Tensor]:
    """Eq. 1 and 2 on one batch of texts."""
    tokens = _tokens(victim, list(batch.text))
    labels = torch.tensor(batch.label.to_numpy(), device=victim.compute.device)
    with torch.no_grad():
        teacher = victim.model(**tokens, output_hidden_states=True)
    output = student.model(**tokens, output_hidden_states=True)
    soft = soft_loss(
        output.logits,
        output.hidden_states[-1],
        teacher.logits,
        teacher.hidden_states[-1],
        tokens["attention_mask"],
        config.temperature,
        config.soft_loss,
    )
    return hard_loss(output.logits, labels), soft


@torch.no_grad()
def textbook_scan(
    models: Sequence[Classifier], texts: Sequence[str], batch_size: int
) -> list[np.ndarray]:
    """Class probabilities [N, C] by each model."""
    found = []
    for model in models:
        model.model.eval()
        batches = (texts[i : i + batch_size] for i in range(0, len(texts), batch_size))
        logits = [model.model(**_tokens(model, batch)).logits.cpu() for batch in batches]
        found.append(torch.cat(logits).softmax(dim=-1).numpy())
    return found


def _tokens(model: Classifier, texts: Sequence[str]) -> dict:
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    tokens = model.tokenizer(list(texts), max_length=model.max_length, **options)
    return tokens.to(model.compute.device)


def textbook_leave_one_out(lm: LanguageModel, texts: Sequence[str]) -> list[np.ndarray]:
    """ONION's scores: a forward pass for each word."""
    result = []
    for text in tokenize(lm, texts):
        scores = np.zeros(text.n_words)
        if can_compare(text):
            whole = textbook_perplexity(lm, text.ids)
            for i, (start, end) in enumerate(text.spans):
                scores[i] = whole - textbook_perplexity(lm, text.ids[:start] + text.ids[end:])
        result.append(np.nan_to_num(scores))
    return result


@torch.no_grad()
def textbook_perplexity(lm: LanguageModel, ids: list[int]) -> float:
    row = torch.tensor(ids, device=lm.compute.device)
    if len(row) < 2:
        return float("nan")
    logits = lm.model(input_ids=row[None]).logits[0, :-1]
    return float(cross_entropy(logits, row[1:]).exp())
