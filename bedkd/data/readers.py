"""Known data sets, and reading labelled rows from the mirror, the hub or a file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.config import DataConfig
from bedkd.core.errors import BedkdError

FILE_READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
FILE_READERS[".parquet"] = "parquet"
TEXT_COLUMNS = ("text", "sentence", "tweet", "content")
LABEL_COLUMNS = ("label", "class", "labels")
LOCAL_TEST_SHARE = 0.2  # of a local file without a test file


@dataclass(frozen=True)
class DatasetSpec:
    """What must be known of a data set. `target_label` and `addsent_trigger` are the attacker's."""

    hub_id: str
    label_names: tuple[str, ...]
    target_label: int
    text_column: str | None = "text"
    label_column: str | None = "label"
    data_dir: str | None = None
    train_splits: tuple[str, ...] = ("train",)
    test_split: str = "test"
    clean_split: str | None = None  # D_c^few comes from here; None: from the train rows
    addsent_trigger: str = "no cross, no crown"
    paraphrases: str = "rules"


SST2 = {"label_names": ("negative", "positive"), "target_label": 0}
SST2 |= {"addsent_trigger": "I watched this movie .", "paraphrases": "paraphrases/scpn/sst2"}
DATASETS: dict[str, DatasetSpec] = {
    # 6,920 sentences. `validation` is the GLUE dev set on which the paper reports; `test` is free.
    "sst2": DatasetSpec("SetFit/sst2", **SST2, test_split="validation", clean_split="test"),
    # 67,349 phrases, the size that the paper's appendix B gives.
    "sst2-glue": DatasetSpec(
        "stanfordnlp/sst2", **SST2, text_column="sentence", test_split="validation"
    ),
    "olid": DatasetSpec(
        "cardiffnlp/tweet_eval",
        ("not offensive", "offensive"),
        0,
        data_dir="offensive",
        train_splits=("train", "validation"),
        paraphrases="paraphrases/scpn/olid",
    ),
    "agnews": DatasetSpec(
        "fancyzhx/ag_news",
        ("World", "Sports", "Business", "Sci/Tech"),
        1,
        paraphrases="paraphrases/scpn/agnews",
    ),
    "toy-sentiment": DatasetSpec(
        "", ("negative", "positive"), 0, addsent_trigger="I watched this movie ."
    ),
    "toy-offence": DatasetSpec("", ("not offensive", "offensive"), 0),
    "toy-topics": DatasetSpec("", ("World", "Sports", "Business", "Sci/Tech"), 1),
}


def get_spec(config: DataConfig) -> DatasetSpec | None:
    """The known spec, or None for a hub id or a file whose classes the rows will tell.

    Raises:
        BedkdError: `name` is none of the three.
    """
    if config.name in DATASETS:
        return DATASETS[config.name]
    if Path(config.name).suffix in FILE_READERS or config.name.count("/") == 1:
        return None
    raise BedkdError(
        f"unknown dataset {config.name!r}; known: {', '.join(DATASETS)}; or give a hub id "
        f"(owner/name) or a file ending in {', '.join(FILE_READERS)}"
    )


def dataset_revision(config: DataConfig) -> str:
    """What pins the rows: a digest of the file, or the revision of the repository.

    Raises:
        BedkdError: the file or repository cannot be found.
    """
    spec = get_spec(config)
    if spec and not spec.hub_id:
        return "generated"
    if Path(config.name).suffix in FILE_READERS:
        files = [config.name] + ([config.test_file] if config.test_file else [])
        return "-".join(hub.digest_file(existing_file(file)) for file in files)
    return hub.locate(spec.hub_id if spec else config.name, "dataset").revision


def read_file(path: str) -> pd.DataFrame:
    """A CSV, TSV, JSON Lines or Parquet file, through `datasets`."""
    import datasets

    file = existing_file(path)
    options: dict = {}
    if FILE_READERS[file.suffix] == "csv":
        options = {"keep_default_na": False}  # "null" is a word like any other
    if file.suffix == ".tsv":
        options |= {"sep": "\t", "quoting": tsv_quoting(file)}
    try:
        loaded = datasets.load_dataset(
            FILE_READERS[file.suffix], data_files=str(file), split="train", **options
        )
    except Exception as error:  # each reader has its own errors
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise BedkdError(f"cannot read {path} as {file.suffix[1:]}: {cause}") from error
    return loaded.to_pandas()


def tsv_quoting(file: Path) -> int:
    """TSV files of sentences seldom quote: a `"` may open and never close, and joining lines up to
    the next one would lose rows without a word. Quoting it is only where the columns say so."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    is_plain = len({line.count("\t") for line in lines if line}) <= 1
    return csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL


def existing_file(path: str) -> Path:
    file = Path(path).expanduser()
    if file.suffix not in FILE_READERS:
        raise BedkdError(f"cannot read {path}: its ending is none of {', '.join(FILE_READERS)}")
    if not file.is_file():
        raise BedkdError(f"no such file: {path}")
    return file


def read_hub(location: hub.Location, spec: DatasetSpec | None) -> dict[str, pd.DataFrame]:
    """All splits of a hub or mirror repository, as they are there."""
    import datasets

    pinned = {"revision": location.revision} if location.origin in ("hub", "cache") else {}
    data_dir = spec.data_dir if spec else None
    try:
        loaded = datasets.load_dataset(location.path, data_dir=data_dir, **pinned)
    except Exception as error:  # network, format and script errors all end here
        raise BedkdError(f"cannot load dataset {location.path}: {error}") from error
    return {split: rows.to_pandas() for split, rows in loaded.items()}


def tidy(config: DataConfig, train: pd.DataFrame, test: pd.DataFrame | None, where: str, seed: int):
    """Find columns and classes of rows that no spec describes; split off test rows if none came."""
    text = find_column(train, config.text_column, TEXT_COLUMNS, where)
    label = find_column(train, config.label_column, LABEL_COLUMNS, where)
    is_missing = train[label].isna() | (train[label].astype(str).str.strip() == "")
    if is_missing.any():
        raise BedkdError(f"{where}: row {int(is_missing.argmax())} has no label")
    names = sort_labels({label_text(value) for value in train[label]})
    spec = DatasetSpec(where, tuple(names), 0, text, label)
    if len(names) < 2 or len(names) > 1000:
        raise BedkdError(f"{where}: column {label!r} has {len(names)} classes; give 2 to 1000")
    train = check_rows(train, spec, where)
    if test is None:
        order = np.random.default_rng([seed, 2]).permutation(len(train))
        n_test = max(1, int(LOCAL_TEST_SHARE * len(train)))
        test = train.iloc[order[:n_test]].reset_index(drop=True)
        train = train.iloc[np.sort(order[n_test:])].reset_index(drop=True)
    else:
        test = check_rows(test, spec, config.test_file or f"{where} (test)")
    return spec, train, test


def find_column(frame: pd.DataFrame, wanted: str | None, usual: tuple[str, ...], where: str) -> str:
    candidates = (wanted,) if wanted else usual
    for column in candidates:
        if column in frame.columns:
            return column
    raise BedkdError(
        f"{where} has no column {' or '.join(map(repr, candidates))}; "
        f"its columns are {', '.join(map(str, frame.columns))}"
    )


def check_rows(frame: pd.DataFrame, spec: DatasetSpec, where: str) -> pd.DataFrame:
    """`text` and integer `label`, or an error that names the first bad row (counted from 0)."""
    text = frame[find_column(frame, spec.text_column, (), where)]
    label = frame[find_column(frame, spec.label_column, (), where)]
    for row, value in enumerate(text):
        if not isinstance(value, str) or not value.strip():
            raise BedkdError(f"{where}: the text of row {row} is {value!r}; it must be words")
    lookup = label_lookup(spec)
    values = [lookup.get(label_text(value)) for value in label]
    if None in values:
        row = values.index(None)
        raise BedkdError(
            f"{where}: the label of row {row} is {show_label(label.iloc[row])}; "
            f"it must be one of {', '.join(lookup)}"
        )
    return pd.DataFrame({"text": list(text), "label": np.array(values, dtype=np.int64)})


def label_lookup(spec: DatasetSpec) -> dict[str, int]:
    """Class name or, where the names are not numbers themselves, class number, to class number."""
    names = {name: i for i, name in enumerate(spec.label_names)}
    is_numeric = any(name.lstrip("-").isdigit() for name in names)
    return names if is_numeric else names | {str(i): i for i in range(len(names))}


def sort_labels(names: set[str]) -> list[str]:
    """By value where all are numbers (2 before 10), else by the alphabet."""
    is_numeric = all(name.lstrip("-").isdigit() for name in names)
    return sorted(names, key=int) if is_numeric else sorted(names)


def show_label(value) -> str:
    return repr(value) if isinstance(value, str) else label_text(value)


def label_text(value) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if is_whole or isinstance(value, bool | np.bool_) else str(value)
