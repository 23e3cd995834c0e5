"""Parameters in sections: read from YAML, merged, and named `section.name` as `--set` does."""

from pathlib import Path

import yaml

from bedkd.core.errors import BedkdError


def read_yaml(path: Path) -> dict:
    """A file of `key: value` lines. Raises BedkdError: it is none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BedkdError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BedkdError(f"{path} must hold `key: value` lines")
    return values


def merge(base: dict, changes: dict) -> dict:
    """`base` with `changes`, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if is_section else value
    return merged


def flatten(nested: dict[str, dict]) -> dict:
    """`{"dmm": {"alpha": 0.5}}` as `{"dmm.alpha": 0.5}`."""
    return {f"{s}.{name}": value for s, part in nested.items() for name, value in part.items()}


def nest(flat: dict) -> dict:
    """`{"dmm.alpha": 0.5}` as `{"dmm": {"alpha": 0.5}}`."""
    nested: dict = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        at = nested
        for section in sections:
            at = at.setdefault(section, {})
            if not isinstance(at, dict):
                raise BedkdError(f"{name} is set, and {section} as a whole too; set one of them")
        at[last] = value
    return nested


def parse_setting(text: str) -> tuple[str, object]:
    """`dmm.alpha=0.5` or `seed=[0,1]`; the value is read as YAML.

    Raises BedkdError: no `=`, or a value that is no YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BedkdError(f"--set takes KEY=VALUE, such as dmm.alpha=0.5; it got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BedkdError(f"--set {name}: {value!r} is no valid YAML value") from error
