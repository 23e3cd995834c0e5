"""A threshold that a defender can choose: by what it costs on clean rows."""

from __future__ import annotations

from collections.abc import Iterator

ROUNDING = 1e-9  # of percentages: a drop of just `max_drop` points is allowed


def choose_threshold(curve: Iterator[dict], max_drop: float) -> tuple[dict, dict]:
    """The curve's first point, where nothing is touched, and the last one before its accuracy falls
    by more than `max_drop` points.

    What lies beyond the first violation is not looked at, nor computed.
    """
    first = chosen = next(curve)
    for point in curve:
        if first["accuracy"] - point["accuracy"] > max_drop + ROUNDING:
            break
        chosen = point
    return first, chosen
