"""Tables from somebody else: files, hub ids, objects in memory."""

import codecs
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here
from bedkd.data.readers import FILE_READERS, is_file, read_file, read_hub
from bedkd.purification.refusing import first_line

CHUNK = 1 << 20  # bytes


def read_table(source, label_names: Sequence[str], where: str) -> pd.DataFrame:
    """The table, as it is there."""
    try:
        if isinstance(source, str | Path):
            return read_named(str(source))
        if isinstance(source, pd.DataFrame):
            return source
        if isinstance(source, tuple | list) and len(source) == 2:
            return read_pair(*source, where)
        return read_dataset(source, label_names, where)
    except BedkdError:
        raise
    except Exception as error:  # readers have errors of many kinds
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise BedkdError(f"cannot read {where}: {cause}") from error


def read_named(name: str) -> pd.DataFrame:
    """A file, or a split on the hub."""
    repo, _, split = name.partition(":")
    if is_file(name):
        check_bytes(name)
        import datasets

        # it would count this file at the hub, and without a network wait for that
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
        try:
            return check_index(read_file(name), name)
        except BedkdError as error:
            if "corresponds to no data" in str(error):  # what `datasets` says
                raise BedkdError(f"{name} has no rows") from error
            raise
    if name and from_here(name).exists():
        kind = "folder" if from_here(name).is_dir() else "file whose ending says no format"
        raise BedkdError(f"{name} is a {kind}; give a file ending in {', '.join(FILE_READERS)}")
    if repo.count("/") != 1 or not all(part.strip(".~ ") for part in repo.split("/")):
        raise BedkdError(
            f"{name!r} is neither a file ending in {', '.join(FILE_READERS)} nor a hub id "
            "(owner/name or owner/name:split)"
        )
    split = split or "train"
    return read_hub(hub.locate(repo, "dataset"), None, [split])[split]


def check_bytes(name: str) -> None:
    """Text files are UTF-8 without NUL, Parquet files are Parquet. The reader would unpack an
    archive of that name, and tells less of what is wrong.

    Raises BedkdError.
    """
    file = from_here(name)
    if not file.exists():
        raise BedkdError(f"no such file: {name}")
    if not file.is_file():
        raise BedkdError(f"{name} is not a file")
    with open(file, "rb") as stream:
        if file.suffix == ".parquet":
            if stream.read(4) != b"PAR1":
                raise BedkdError(f"cannot read {name} as parquet: it does not begin as one")
            return
        decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
        while chunk := stream.read(CHUNK):
            check_chunk(decoder, chunk, start, name)
            start += len(chunk)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise BedkdError(f"{name} is cut in the middle of its last character") from error
    if not start:
        raise BedkdError(f"{name} is empty")


def check_chunk(decoder: codecs.IncrementalDecoder, chunk: bytes, start: int, name: str) -> None:
    n_held = len(decoder.getstate()[0])  # bytes of a character that the last chunk began
    try:
        decoder.decode(chunk)
    except UnicodeDecodeError as error:
        raise BedkdError(
            f"{name} is not UTF-8 text (byte {start - n_held + error.start}); save it as UTF-8"
        ) from error
    if (position := chunk.find(0)) >= 0:
        raise BedkdError(f"{name} holds a NUL character (byte {start + position}); it is no text")


def check_index(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Raises BedkdError if the rows of a CSV or TSV file have more fields than its header, which
    would move the columns: pandas takes the first for the rows' names."""
    has_more = not isinstance(frame.index, pd.RangeIndex) or "__index_level_0__" in frame.columns
    if has_more and FILE_READERS[Path(name).suffix] == "csv":
        raise BedkdError(
            f"{name}: row 0 has more fields than the header; put texts with separators in quotes"
        )
    return frame


def read_pair(texts, labels, where: str) -> pd.DataFrame:
    columns = []
    for values, kind in ((texts, "texts"), (labels, "labels")):
        if isinstance(values, str | bytes | dict) or not hasattr(values, "__len__"):
            raise BedkdError(f"{where}: the {kind} are a {type(values).__name__}; give a list")
        columns.append(values.tolist() if hasattr(values, "tolist") else list(values))
    if len(columns[0]) != len(columns[1]):
        raise BedkdError(f"{where}: {len(columns[0])} texts, but {len(columns[1])} labels")
    return pd.DataFrame({"text": columns[0], "label": columns[1]}, dtype=object)


def read_dataset(source, label_names: Sequence[str], where: str) -> pd.DataFrame:
    """A `datasets.Dataset`. Class numbers of its own become names, if the model has all of them:
    its order may be another."""
    import datasets

    if not isinstance(source, datasets.Dataset):
        more = ", one split of it" if isinstance(source, dict) else ""
        raise BedkdError(
            f"{where} is a {type(source).__name__}; give a file, a hub id, a DataFrame, a "
            f"datasets.Dataset{more} or a pair (texts, labels)"
        )
    frame, known = source.to_pandas(), {name.casefold() for name in label_names}
    for column, feature in source.features.items():
        names = getattr(feature, "names", None)
        if names and {name.casefold() for name in names} == known:
            is_id = frame[column].isin(range(len(names)))
            ids = frame[column].where(is_id, 0).astype(int)
            frame[column] = np.where(is_id, np.array(names, dtype=object)[ids], frame[column])
    return frame
