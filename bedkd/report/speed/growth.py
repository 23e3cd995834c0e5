"""How time and peak memory grow with rows and with their length."""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from bedkd.core.config import DMMConfig
from bedkd.core.devices import peak_memory_mb, reset_peak_memory
from bedkd.method.dmm import distill_dmm
from bedkd.nn.classifier import Classifier
from bedkd.report.speed.turns import clock

FACTORS = (1, 4, 16)
LENGTHS = (32, 128, 512)


def grow_rows(
    victim: Classifier,
    rows: pd.DataFrame,
    config: DMMConfig,
    *,
    base: int,
    factors: Iterable[int] = FACTORS,
) -> pd.DataFrame:
    """Scan and one DMM epoch over `base` rows (text, label), and over multiples of them."""
    first = rows[:base]
    tables = {n: pd.concat([first] * n, ignore_index=True) for n in factors}
    return pd.DataFrame([r for n in tables for r in measure(victim, tables[n], config, "rows", n)])


def grow_lengths(
    victim: Classifier,
    rows: pd.DataFrame,
    config: DMMConfig,
    *,
    n_rows: int,
    lengths: Iterable[int] = LENGTHS,
) -> pd.DataFrame:
    """The same of `n_rows` rows, each as many tokens long as the model is then told to read."""
    text = " ".join([" ".join(rows.text[:n_rows])] * 8)  # longer than any model reads
    long = rows[:n_rows].assign(text=text)
    found = []
    for length in lengths:
        found += measure(replace(victim, max_length=length), long, config, "length", length)
    return pd.DataFrame(found)


def measure(
    victim: Classifier, rows: pd.DataFrame, config: DMMConfig, kind: str, value: int
) -> list[dict]:
    """One dict a stage: stage, kind, value, tokens, seconds, peak_mb (on a CPU the whole process's)
    and added_mb, by how much that is above what was held before (on Linux and on CUDA)."""
    encoded, one = victim.encode(rows.text), replace(config, epochs=1)
    device = victim.compute.device
    runs = {
        "scan": lambda: victim.predict_encoded(encoded),
        "dmm": lambda: distill_dmm(victim, rows, one, seed=0),
    }
    found = []
    for stage, run in runs.items():
        reset_peak_memory(device)
        before, seconds, peak = peak_memory_mb(device), clock(run), peak_memory_mb(device)
        what = {"stage": stage, kind: value, "tokens": int(encoded.lengths.sum())}
        found.append(what | {"seconds": seconds, "peak_mb": peak, "added_mb": peak - before})
    return found
