"""Train only the rows of the word-embedding table that the texts use.

The table is half of a small encoder's parameters. A row that no text uses has no gradient; giving
each step a dense gradient of the whole table, and AdamW all its rows to visit, costs a tenth of a
step. Such rows keep their values here, where AdamW's decay would shrink them by a factor of
1 - learning_rate * weight_decay a step (in all by less than 0.1% with the paper's parameters).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from bedkd.nn.batching import Encoded


class UsedRows(nn.Module):
    """Stands in for `table`, with its `used` rows only; takes the same ids."""

    def __init__(self, table: nn.Embedding, used: Tensor):
        super().__init__()
        self.used = used
        self.position = torch.zeros(len(table.weight), dtype=torch.int64, device=used.device)
        self.position[used] = torch.arange(len(used), device=used.device)
        self.weight = nn.Parameter(table.weight.detach()[used])
        pad = table.padding_idx  # a row without a gradient
        self.padding_idx = None if pad is None else int(self.position[pad])

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(self.position[ids], self.weight, self.padding_idx)


@contextlib.contextmanager
def only_used_rows(model, encoded: Sequence[Encoded]) -> Iterator[Callable]:
    """Inside the block the model's word embeddings train only on rows that `encoded` uses.

    Yields a function for `with`: inside it the model has its whole table, as far as it is trained.
    Make the optimizer inside the block. A frozen table, or one of another kind, is left alone.
    """
    table = model.get_input_embeddings()
    rows = [row for part in encoded for row in part.rows]
    if type(table) is not nn.Embedding or not table.weight.requires_grad or not rows:
        yield contextlib.nullcontext
        return
    pads = [part.pad_id for part in encoded] + [table.padding_idx or 0]
    used = torch.cat([*rows, torch.tensor(pads)]).unique()
    stand_in = UsedRows(table, used.to(table.weight.device))

    @torch.no_grad()
    def put_back():
        table.weight[stand_in.used] = stand_in.weight
        model.set_input_embeddings(table)

    @contextlib.contextmanager
    def whole_table():
        put_back()
        yield
        model.set_input_embeddings(stand_in)

    model.set_input_embeddings(stand_in)
    try:
        yield whole_table
    finally:
        put_back()
