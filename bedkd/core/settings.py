"""What a configuration value may be: kinds of numbers, checked by pydantic."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, ValidationError
from pydantic.dataclasses import dataclass

# a frozen dataclass whose values are checked, also those of `dataclasses.replace`
settings = dataclass(frozen=True, config=ConfigDict(extra="forbid"))


def read_number(value):
    """YAML reads `3e-5` as a string, and `true` is no number."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value  # for pydantic to refuse


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(read_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0), BeforeValidator(read_number)]
Count = Annotated[Whole, Field(gt=0)]
Flag = StrictBool


def explain(error: ValidationError, known: dict[str, list[str]]) -> str:
    """One sentence of what is wrong with the first bad value. `known`: section to its parameters;
    those at the top under the empty name."""
    first = error.errors()[0]
    # of a value of several kinds, pydantic also names the kind: `literal['auto']`
    *sections, name = (str(part) for part in first["loc"] if str(part).isidentifier())
    path = ".".join([*sections, name])
    if first["type"] == "unexpected_keyword_argument":
        names = known[".".join(sections)]
        here = ", ".join(".".join([*sections, known_name]) for known_name in names)
        return f"unknown parameter {path!r}; known here: {here}"
    if name in known:
        return f"{name} is {first['input']!r}; it is a section: set {name}.KEY"
    wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{path} is {first['input']!r}; it must be {wanted}"
