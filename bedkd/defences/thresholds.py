"""A threshold that a defender can choose: by what it costs on clean rows."""

from collections.abc import Iterator

ROUNDING = 1e-9  # of percentages: a drop of just `max_drop` points is allowed


def choose_threshold(curve: Iterator[dict], max_drop: float) -> dict:
    """The curve's last point before `clean_accuracy` falls by more than `max_drop` points.

    Its first point, where nothing is touched, gives `victim_clean_accuracy`. What lies beyond the
    first violation is not looked at, nor computed.
    """
    first = chosen = next(curve)
    for point in curve:
        if first["clean_accuracy"] - point["clean_accuracy"] > max_drop + ROUNDING:
            break
        chosen = point
    return chosen | {"victim_clean_accuracy": first["clean_accuracy"]}
