"""What libraries raise when they are given something bad, as one clear sentence."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

from bedkd.core.errors import BedkdError

MAX_CAUSE = 300  # characters of what a library says


@contextlib.contextmanager
def refusing(sentence: str, stage: Path | None = None) -> Iterator[None]:
    """Whatever goes wrong inside is a BedkdError that begins with `sentence`; files in our own
    temporary folder, `stage`, have their names alone in it."""
    try:
        yield
    except BedkdError:
        raise
    except BaseException as error:  # a panic of tokenizers is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = first_line(error)
        if isinstance(error, UnpicklingError):  # torch's own message tells how to run it
            cause = "it holds more than tensors, and nothing else is read from a pickle"
        if stage:
            cause = cause.replace(f"{stage}{os.sep}", "").replace(str(stage), "the folder")
        raise BedkdError(f"{sentence}: {type(error).__name__}: {cause}") from error


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:MAX_CAUSE] if lines else type(error).__name__


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
