"""The floor: operations that must be done for tokens that are no padding, over the machine's rate.

No program reaches it. Adding, normalising, dropout, the optimizer and reading memory count nothing.
"""

import copy
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bedkd.core.devices import Compute, synchronize
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier

SIZES = {"cuda": (4096, 8192)}  # of the square matrices
SMALL = (512, 1024, 2048)  # on any other device
REPEATS = 5


def matrix_rate(compute: Compute) -> dict[str, float]:
    """Operations a second of square matrix products, the best over sizes and repeats, by type."""
    rates = {}
    for name in ("float32", "bfloat16"):
        dtype, device = getattr(torch, name), compute.device
        for size in SIZES.get(device.type, SMALL):
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            rates[name] = max(rates.get(name, 0.0), *(_rate(a, b) for _ in range(REPEATS)))
    return rates


def _rate(a: torch.Tensor, b: torch.Tensor) -> float:
    synchronize()
    started = time.perf_counter()
    a @ b
    synchronize()
    return 2 * a.shape[0] ** 3 / (time.perf_counter() - started)


def count_flops(classifier: Classifier, encoded: Encoded, *, is_training: bool) -> float:
    """Operations (a multiplication and an addition are two) of one pass over these rows, each alone
    and unpadded: forward, and, if asked, backward."""
    model = copy.deepcopy(classifier.model).to("meta")
    model.set_attn_implementation("eager")
    lengths, counts = np.unique(encoded.lengths.numpy(), return_counts=True)
    pairs = zip(lengths.tolist(), counts.tolist(), strict=True)
    return float(sum(n * _flops_of_row(model, length, is_training) for length, n in pairs))


def _flops_of_row(model, length: int, is_training: bool) -> int:
    ids = torch.zeros(1, length, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(is_training):
        logits = model(input_ids=ids).logits
        if is_training:
            logits.sum().backward()
    return counter.get_total_flops()
