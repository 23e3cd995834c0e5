"""How fast the kit is against the textbook loop, both timed in turn in one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from bedkd.core.config import AKDConfig
from bedkd.core.devices import synchronize
from bedkd.defences.language.model import leave_one_out, textbook_leave_one_out
from bedkd.defences.language.perplexity import LanguageModel
from bedkd.method.akd import distill_clean_model
from bedkd.method.losses import distillation_loss, hard_loss, penalty_loss, soft_loss
from bedkd.nn.classifier import Classifier


def time_akd(
    victim: Classifier,
    clean_few: pd.DataFrame,
    poison_few: pd.DataFrame,
    config: AKDConfig,
    *,
    rounds: int,
    seed: int,
) -> pd.DataFrame:
    """Seconds of one cycle for both loops, taken in turn: columns round, loop, seconds.

    Each round starts from the victim. What the kit does once for all cycles (copying, tokenizing,
    asking the teacher) is spread over `config.cycles`.
    """
    rows = []
    for number in range(rounds):
        seconds = time_kit_cycle(victim, clean_few, poison_few, config, seed + number)
        rows.append({"round": number, "loop": "bedkd", "seconds": seconds})
        seconds = time_textbook_cycle(victim, clean_few, poison_few, config, seed + number)
        rows.append({"round": number, "loop": "textbook", "seconds": seconds})
    return pd.DataFrame(rows)


def time_kit_cycle(victim, clean_few, poison_few, config: AKDConfig, seed: int) -> float:
    """One cycle, with its share of what is done once."""
    started = time.perf_counter()
    one = replace(config, cycles=1)
    _, history = distill_clean_model(victim, clean_few, poison_few, one, seed=seed)
    synchronize()
    cycle = history[-1]["seconds"]
    once = time.perf_counter() - started - cycle
    return cycle + once / config.cycles


def time_textbook_cycle(victim, clean_few, poison_few, config: AKDConfig, seed: int) -> float:
    """One cycle of the loop as one would first write it.

    Random batches padded to their longest row, tokenized and passed through the teacher at every
    step, in float32, with an unfused optimizer.
    """
    student = victim.copy()
    optimizer = torch.optim.AdamW(
        student.model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=False,
        foreach=False,
    )
    victim.model.eval()
    student.model.train()
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for rows, combine in ((clean_few, distillation_loss), (poison_few, penalty_loss)):
        for index in torch.randperm(len(rows), generator=generator).split(config.batch_size):
            batch = rows.iloc[index.tolist()]
            loss = textbook_loss(victim, student, batch, config, combine)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    synchronize()
    return time.perf_counter() - started


def textbook_loss(victim, student, batch: pd.DataFrame, config: AKDConfig, combine):
    """Eq. 5 or 6 on one batch of texts."""
    device = victim.compute.device
    tokens = victim.tokenizer(
        list(batch.text),
        padding=True,
        truncation=True,
        max_length=victim.max_length,
        return_tensors="pt",
    ).to(device)
    labels = torch.tensor(batch.label.to_numpy(), device=device)
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
    )
    return partial(combine, weight=config.lambda_)(hard_loss(output.logits, labels), soft)


def time_onion(lm: LanguageModel, texts: Sequence[str], *, rounds: int) -> pd.DataFrame:
    """Seconds to score the words of `texts` for ONION, by both loops in turn.

    Columns round, loop, seconds, and `difference`: the largest between the scores of the two.
    """
    rows = []
    for number in range(rounds):
        scores = {}
        for loop, score in (("bedkd", leave_one_out), ("textbook", textbook_leave_one_out)):
            started = time.perf_counter()
            scores[loop] = np.concatenate(score(lm, texts))
            synchronize()
            seconds = time.perf_counter() - started
            rows.append({"round": number, "loop": loop, "seconds": seconds})
        difference = float(np.abs(scores["bedkd"] - scores["textbook"]).max())
        rows[-1]["difference"] = rows[-2]["difference"] = difference
    return pd.DataFrame(rows)


def summarise(times: pd.DataFrame) -> pd.DataFrame:
    """Median, minimum and maximum seconds of each loop, and the ratio of the medians."""
    table = times.groupby("loop").seconds.agg(["median", "min", "max"])
    return table.assign(ratio=table["median"] / table.loc["textbook", "median"])
