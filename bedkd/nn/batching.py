"""Tokenize once, batch by length, pad little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

BUCKET_BATCHES = 16  # batches sorted together: little padding, and still a random order


@dataclass(frozen=True)
class Encoded:
    """Token ids of N texts, unpadded. `rows[i]` is an int64 tensor [L_i]."""

    rows: list[Tensor]
    pad_id: int
    lengths: Tensor  # [N]

    def __len__(self) -> int:
        return len(self.rows)


def encode(tokenizer, texts: Sequence[str], max_length: int) -> Encoded:
    """Tokenize all texts at once, cut to `max_length` tokens, special tokens included."""
    if len(texts) == 0:
        return Encoded([], tokenizer.pad_token_id or 0, torch.zeros(0, dtype=torch.int64))
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    rows = [torch.tensor(row, dtype=torch.int64) for row in ids]
    return Encoded(rows, tokenizer.pad_token_id or 0, torch.tensor([len(row) for row in rows]))


def collate(encoded: Encoded, index: Sequence[int], device, length: int | None = None) -> dict:
    """input_ids and attention_mask [B, L], padded to the longest row, or to `length`."""
    rows = [encoded.rows[i] for i in index]
    ids = pad_sequence(rows, batch_first=True, padding_value=encoded.pad_id)
    ids = pad(ids, (0, (length or ids.shape[1]) - ids.shape[1]), value=encoded.pad_id)
    mask = (torch.arange(ids.shape[1]) < encoded.lengths[list(index)][:, None]).long()
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def training_batches(
    lengths: Tensor, batch_size: int, generator: torch.Generator
) -> list[list[int]]:
    """One epoch: every row once, rows of like length together, everything else at random."""
    if len(lengths) == 0:
        return []
    order = torch.randperm(len(lengths), generator=generator)
    batches = []
    for bucket in order.split(batch_size * BUCKET_BATCHES):
        in_order = bucket[lengths[bucket].argsort(stable=True)]
        batches += [batch.tolist() for batch in in_order.split(batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def evaluation_batches(lengths: Tensor, n_tokens: int) -> Iterator[list[int]]:
    """Longest first, as many rows as keep the padded batch under `n_tokens` tokens."""
    order = lengths.argsort(descending=True, stable=True).tolist()
    while order:
        size = max(1, n_tokens // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]
