"""CUDA graphs: a training step recorded once for each shape of a batch, then replayed.

At a batch of 16 sentences a GPU computes faster than Python launches: a step is a thousand launches
of kernels, and a replay is one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Architectures of transformers whose step waits for nothing, and was recorded on a GPU. A step that
# waits cannot be recorded, and a failed recording leaves CUDA's random numbers unusable.
RECORDABLE = ("bert",)

# inputs of a batch, row numbers [B] -> numbers to add up
StepFunction = Callable[[dict, Tensor], Tensor]


def is_recordable(model: torch.nn.Module) -> bool:
    """By its architecture; other models are stepped on as they are."""
    config = getattr(model, "config", None)
    return getattr(config, "model_type", None) in RECORDABLE


class Graphed:
    """`step`, replayed where its batch has a shape seen before.

    The first batch of a shape is stepped on as it is, which also warms up what CUDA loads late; the
    second is recorded. The result is overwritten by the next step of its shape.
    """

    def __init__(self, step: StepFunction):
        self.step = step
        self.recorded: dict[torch.Size, tuple | None] = {}
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, batch: dict, rows: Tensor) -> Tensor:
        shape = batch["input_ids"].shape
        if shape not in self.recorded:
            self.recorded[shape] = None
            return self._run_aside(batch, rows)
        if self.recorded[shape] is None:
            self.recorded[shape] = self._record(batch, rows)
        graph, inputs, result = self.recorded[shape]
        for held, value in zip(inputs, (*batch.values(), rows), strict=True):
            held.copy_(value)
        graph.replay()
        return result

    def _run_aside(self, batch: dict, rows: Tensor) -> Tensor:
        """On another stream than the default one, as what is recorded later."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = self.step(batch, rows)
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def _record(self, batch: dict, rows: Tensor) -> tuple:
        """The graph, the tensors that it reads, and the one that it writes. Computes nothing."""
        held = {name: tensor.clone() for name, tensor in batch.items()}
        graph, held_rows = torch.cuda.CUDAGraph(), rows.clone()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            result = self.step(held, held_rows)
        return graph, (*held.values(), held_rows), result
