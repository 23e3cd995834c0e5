"""The defender is blind: it sees texts and labels, never which rows are poisoned."""

import pandas as pd

from bedkd.core.errors import BlindnessError

DEFENDER_COLUMNS = {"text", "label", "row"}  # row: a row's place in D*


def check_blind(rows: pd.DataFrame) -> None:
    """Raises BlindnessError if rows meant for the defender carry anything but text and label."""
    if extra := set(rows.columns) - DEFENDER_COLUMNS:
        raise BlindnessError(
            f"the defender was handed the column {sorted(extra)[0]!r}; it may see text and label"
        )
