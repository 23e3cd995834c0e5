"""What a configuration value must be, and what is said when it is not."""

from __future__ import annotations

import math
from typing import Any

from bedkd.core.errors import BedkdError


def coerce(value, annotation: str, name: str):
    """`value` as the annotated type; YAML reads `3e-5` as a string, so numbers may come as text."""
    if value is None and "None" in annotation:
        return None
    kind = {"int": int, "float": float, "bool": bool, "str": str}[annotation.split(" ")[0]]
    if kind is bool or isinstance(value, bool):
        is_right = kind is bool and isinstance(value, bool)
    elif kind is str:
        is_right = isinstance(value, str)
    else:
        try:
            number = kind(float(value))
            is_right = float(value) == number
        except (TypeError, ValueError, OverflowError):
            is_right = False
        value = number if is_right else value
    if not is_right:
        raise BedkdError(f"{name} is {value!r}; it must be of type {annotation}")
    return value


def flatten(nested: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in nested.items():
        is_section = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if is_section else {prefix + name: value}
    return flat


def check_choice(config, name: str, choices: tuple[str, ...]) -> None:
    if getattr(config, name) not in choices:
        raise BedkdError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(choices)}")


def check_positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise BedkdError(f"{name} is {value}; it must be greater than 0, and finite")


def check_not_negative(config, name: str) -> None:
    if not 0 <= getattr(config, name) < math.inf:
        raise BedkdError(f"{name} is {getattr(config, name)}; it must be 0 or more, and finite")


def check_share(config, name: str) -> None:
    if not 0 <= getattr(config, name) <= 1:
        raise BedkdError(f"{name} is {getattr(config, name)}; it must lie between 0 and 1")
