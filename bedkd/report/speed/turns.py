"""Two ways of doing the same, timed in turn, so that what else the machine does hits both."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from bedkd.core.devices import synchronize


@dataclass(frozen=True)
class Timed:
    """Seconds of a loop that was run for some epochs: all of it, and its last epoch."""

    total: float
    epoch: float
    n_epochs: int

    def of(self, n_epochs: int) -> float:
        """Seconds of so many epochs: what was not run is taken to be as long as the last."""
        return self.total + (n_epochs - self.n_epochs) * self.epoch


def clock(run: Callable[[], object]) -> float:
    """Seconds of one call, until the device is done."""
    synchronize()
    started = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - started


def take_turns(loops: Mapping[str, Callable[[int], float]], rounds: int) -> pd.DataFrame:
    """Columns round, loop, seconds. Each loop is given the round's number and returns seconds."""
    rows = [
        {"round": number, "loop": name, "seconds": measure(number)}
        for number in range(rounds)
        for name, measure in loops.items()
    ]
    return pd.DataFrame(rows)


def summarise(times: pd.DataFrame, rival: str = "textbook") -> pd.DataFrame:
    """Median, minimum and maximum seconds of each loop; `times_as_fast`: the rival's median over
    the loop's."""
    table = times.groupby("loop", sort=False).seconds.agg(["median", "min", "max"])
    return table.assign(times_as_fast=table.loc[rival, "median"] / table["median"])
