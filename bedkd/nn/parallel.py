"""One model on several devices, through accelerate: each process computes its share of every batch.

What the processes exchange is outputs, not losses. A loss may be more than a mean over rows (the
second term of Eq. 2 is one over tokens), so each computes that of the whole batch from the outputs
of all, and a step is the one that a single process would have taken.
"""

import contextlib
import copy
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bedkd.core.devices import Compute


@dataclass(frozen=True)
class Group:
    """This process, number `rank` of `n`. `is_sharded`: each holds a part of the model (FSDP)."""

    accelerator: Any
    rank: int
    n: int
    is_sharded: bool


def join_group(rank: int, n: int, meeting: Path, device: str, *, is_sharded: bool) -> Group:
    """Wait for the others at the file `meeting`, which is not there yet."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ |= dict(zip(names, map(str, (rank, rank, n, n)), strict=True))  # accelerate's
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    is_cpu = device == "cpu"
    where = {"init_method": meeting.absolute().as_uri(), "rank": rank, "world_size": n}
    torch.distributed.init_process_group("gloo" if is_cpu else None, **where)
    plugin = None
    if is_sharded:
        how = {"auto_wrap_policy": "transformer_based_wrap", "cpu_ram_efficient_loading": False}
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **how)
    accelerator = Accelerator(cpu=is_cpu, fsdp_plugin=plugin)
    accelerator.state.fsdp_plugin = plugin  # which on CPUs it leaves out
    return Group(accelerator, rank, n, is_sharded)


@contextlib.contextmanager
def spread(model: nn.Module, compute: Compute, *, is_trained: bool = False) -> Iterator[nn.Module]:
    """`model` as the processes of `compute.group` compute it together; itself where there is none.

    When the block ends, what was learnt is in `model`, in all processes.
    """
    group = compute.group
    if group is None or isinstance(model, Spread):
        yield model
    elif group.is_sharded:
        from accelerate.utils import fsdp2_prepare_model

        group.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = name_layers(model)
        part = fsdp2_prepare_model(group.accelerator, copy.deepcopy(model))
        yield Spread(part, model.config, group)
        if is_trained:
            copy_weights(part, model)
    else:
        part = group.accelerator.prepare_model(model) if is_trained else model
        yield Spread(part, model.config, group)
        group.accelerator.free_memory()  # it keeps what it has prepared


def name_layers(model: nn.Module) -> list[str]:
    """The classes of the layers that follow one another: as much of the model as is whole on a
    device at a time. The list in transformers also has BERT's embeddings, whose table of words
    accelerate then parts twice, which fails."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return sorted({type(layer).__name__ for layers in lists for layer in layers})


@torch.no_grad()
def copy_weights(source: nn.Module, model: nn.Module) -> None:
    """Into `model`, tensor by tensor, from the processes that hold them; `source` is of the same
    kind, spread or not."""
    pairs = zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    for own, tensor in pairs:
        own.copy_(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)


class Spread(nn.Module):
    """A model that, given a batch, computes this process's share and has the rest of the others.

    Its output has logits [B, C] and, where they are asked for, the last hidden states [B, L, H].
    """

    def __init__(self, part: nn.Module, config, group: Group):
        super().__init__()
        self.part, self.config, self.group = part, config, group

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options) -> SimpleNamespace:
        n, share = len(input_ids), math.ceil(len(input_ids) / self.group.n)
        first = self.group.rank * share
        # as many rows in each process: past the end the last row again, which counts nowhere
        own = torch.arange(first, first + share, device=input_ids.device).clamp(max=n - 1)
        output = self.part(input_ids=input_ids[own], attention_mask=attention_mask[own], **options)
        hidden = (output.hidden_states or ())[-1:]
        logits, *hidden = (self.gather(rows)[:n] for rows in (output.logits, *hidden))
        return SimpleNamespace(logits=logits, hidden_states=hidden)

    def gather(self, own: Tensor) -> Tensor:
        """Own rows [b, ...] among those of all processes, in order.

        Only own ones have a gradient; accelerate averages over processes what here adds up.
        """
        group, first = self.group, self.group.rank * len(own)
        rows = group.accelerator.gather(own.detach())
        if not own.requires_grad:
            return rows
        own = own.view_as(own)  # its gradient is the loss's alone, without that of later layers
        own.register_hook(lambda gradient: gradient * group.n)
        return torch.cat([rows[:first], own, rows[first + len(own) :]])
