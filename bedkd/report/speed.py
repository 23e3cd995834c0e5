"""How fast the kit is against the textbook loop, both timed in turn in one run."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from bedkd.core.config import AKDConfig
from bedkd.core.devices import synchronize
from bedkd.defences.language.perplexity import LanguageModel, tokenize
from bedkd.defences.language.word_scores import can_compare, leave_one_out
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
        for loop, measure in (("bedkd", time_kit_cycle), ("textbook", time_textbook_cycle)):
            seconds = measure(victim, clean_few, poison_few, config, seed + number)
            rows.append({"round": number, "loop": loop, "seconds": seconds})
    return pd.DataFrame(rows)


def time_kit_cycle(victim, clean_few, poison_few, config: AKDConfig, seed: int) -> float:
    """One cycle, with its share of what is done once."""
    started = time.perf_counter()
    one = replace(config, cycles=1)
    _, history = distill_clean_model(victim, clean_few, poison_few, one, seed=seed)
    synchronize()
    cycle = history[-1]["seconds"]
    return cycle + (time.perf_counter() - started - cycle) / config.cycles


def time_textbook_cycle(victim, clean_few, poison_few, config: AKDConfig, seed: int) -> float:
    """One cycle of the loop as one would first write it.

    Random batches padded to their longest row, tokenized and passed through the teacher at every
    step, in float32, with an unfused optimizer.
    """
    student = victim.copy()
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    unfused = {"fused": False, "foreach": False}
    optimizer = torch.optim.AdamW(student.model.parameters(), **settings, **unfused)
    victim.model.eval()
    student.model.train()
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for rows, combine in ((clean_few, distillation_loss), (poison_few, penalty_loss)):
        for index in torch.randperm(len(rows), generator=generator).split(config.batch_size):
            hard, soft = textbook_losses(victim, student, rows.iloc[index.tolist()], config)
            loss = combine(hard, soft, config.lambda_)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    synchronize()
    return time.perf_counter() - started


def textbook_losses(victim, student, batch: pd.DataFrame, config: AKDConfig):
    """Eq. 1 and 2 on one batch of texts."""
    device, length = victim.compute.device, victim.max_length
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    tokens = victim.tokenizer(list(batch.text), max_length=length, **options).to(device)
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
    return hard_loss(output.logits, labels), soft


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


def textbook_leave_one_out(lm: LanguageModel, texts: Sequence[str]) -> list[np.ndarray]:
    """ONION's scores by the loop that one would first write: a forward pass for each word."""
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


def summarise(times: pd.DataFrame) -> pd.DataFrame:
    """Median, minimum and maximum seconds of each loop, and the ratio of the medians."""
    table = times.groupby("loop").seconds.agg(["median", "min", "max"])
    return table.assign(ratio=table["median"] / table.loc["textbook", "median"])
