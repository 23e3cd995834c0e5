"""Tokenize once, batch by length, pad little."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

COMPANY = 2  # batches; more of it is more padding, less of it the same batches again


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
    options = {"truncation": True, "max_length": max_length}
    options |= {"return_attention_mask": False, "return_token_type_ids": False}  # a third faster
    ids = tokenizer(list(texts), **options)["input_ids"] if len(texts) else []
    return encode_ids(ids, tokenizer.pad_token_id or 0)


def encode_ids(ids: Sequence[Sequence[int]], pad_id: int) -> Encoded:
    """N lists of token ids."""
    rows = [torch.tensor(row, dtype=torch.int64) for row in ids]
    return Encoded(rows, pad_id, torch.tensor([len(row) for row in rows], dtype=torch.int64))


def collate(encoded: Encoded, index: Sequence[int], device, length: int = 0) -> dict:
    """input_ids and attention_mask [B, L], padded to the longest row, or to `length` if longer."""
    rows = [encoded.rows[i] for i in index]
    ids = pad_sequence(rows, batch_first=True, padding_value=encoded.pad_id)
    ids = pad(ids, (0, max(0, length - ids.shape[1])), value=encoded.pad_id)
    mask = (torch.arange(ids.shape[1]) < encoded.lengths[list(index)][:, None]).long()
    return {"input_ids": send(ids, device), "attention_mask": send(mask, device)}


def send(tensor: Tensor, device) -> Tensor:
    """A CPU's tensor on the device, without waiting for what that is computing."""
    is_cuda = torch.device(device).type == "cuda"
    return (tensor.pin_memory() if is_cuda else tensor).to(device, non_blocking=True)


def training_batches(
    lengths: Tensor, batch_size: int, generator: torch.Generator
) -> list[list[int]]:
    """One epoch: every row once, in ceil(N / batch_size) batches whose sizes differ by one at most.

    Rows of like length are together, in other company each time: a row's place in the order of
    lengths moves by up to COMPANY batches.
    """
    n = len(lengths)
    if n == 0:
        return []
    rows = torch.randperm(n, generator=generator)  # equal lengths in any order
    rows = rows[lengths[rows].argsort(stable=True)]
    noisy = torch.arange(n) + COMPANY * batch_size * torch.rand(n, generator=generator)
    batches = rows[noisy.argsort()].tensor_split(math.ceil(n / batch_size))
    order = torch.randperm(len(batches), generator=generator)
    return [batches[i].tolist() for i in order]


def evaluation_batches(lengths: Tensor, n_tokens: int) -> Iterator[list[int]]:
    """Longest first, as many rows as keep the padded batch under `n_tokens` tokens."""
    order = lengths.argsort(descending=True, stable=True).tolist()
    while order:
        size = max(1, n_tokens // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]
