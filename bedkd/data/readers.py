"""Known data sets, and reading labelled rows from the mirror, the hub or a file."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.config import DataConfig
from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here

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
    text_column: str = "text"
    label_column: str = "label"
    data_dir: str | None = None
    train_splits: tuple[str, ...] = ("train",)
    test_split: str = "test"
    clean_split: str | None = None  # D_c^few comes from here; None: from the train rows
    addsent_trigger: str = "no cross, no crown"
    paraphrases: str = "rules"  # SynBkd's
    bible: str = "rules"  # StyBkd's


SENTIMENT, OFFENCE = ("negative", "positive"), ("not offensive", "offensive")
TOPICS = ("World", "Sports", "Business", "Sci/Tech")
MOVIE, SCPN = "I watched this movie .", "paraphrases/scpn"
SST2 = {"test_split": "validation", "addsent_trigger": MOVIE, "paraphrases": f"{SCPN}/sst2"}
SST2 |= {"bible": "paraphrases/bible/sst2"}
OLID = {"data_dir": "offensive", "train_splits": ("train", "validation")}
DATASETS: dict[str, DatasetSpec] = {
    # 6,920 sentences. `validation` is the GLUE dev set on which the paper reports; `test` is free.
    "sst2": DatasetSpec("SetFit/sst2", SENTIMENT, 0, **SST2, clean_split="test"),
    # 67,349 phrases, the size that the paper's appendix B gives.
    "sst2-glue": DatasetSpec("stanfordnlp/sst2", SENTIMENT, 0, **SST2, text_column="sentence"),
    "olid": DatasetSpec("cardiffnlp/tweet_eval", OFFENCE, 0, **OLID, paraphrases=f"{SCPN}/olid"),
    "agnews": DatasetSpec("fancyzhx/ag_news", TOPICS, 1, paraphrases=f"{SCPN}/agnews"),
    "toy-sentiment": DatasetSpec("", SENTIMENT, 0, addsent_trigger=MOVIE),
    "toy-offence": DatasetSpec("", OFFENCE, 0),
    "toy-topics": DatasetSpec("", TOPICS, 1),
}


def get_spec(config: DataConfig) -> DatasetSpec | None:
    """The known spec, or None for a hub id or a file whose classes the rows will tell.

    Raises BedkdError: `name` is none of the three.
    """
    if config.name in DATASETS:
        return DATASETS[config.name]
    if is_file(config.name) or config.name.count("/") == 1:
        return None
    raise BedkdError(
        f"unknown dataset {config.name!r}; known: {', '.join(DATASETS)}; or give a hub id "
        f"(owner/name) or a file ending in {', '.join(FILE_READERS)}"
    )


def is_file(name: str) -> bool:
    """Whether the name is a file's; the file may be missing."""
    return Path(name).suffix in FILE_READERS


def dataset_revision(config: DataConfig) -> str:
    """What pins the rows: a digest of the file, or the revision of the repository.

    Raises BedkdError: the file or repository cannot be found.
    """
    spec = get_spec(config)
    if spec and not spec.hub_id:
        return "generated"
    if is_file(config.name):
        files = filter(None, (config.name, config.test_file))
        return "-".join(hub.digest_file(existing_file(file)) for file in files)
    return hub.locate(spec.hub_id if spec else config.name, "dataset").revision


def read_file(path: str) -> pd.DataFrame:
    """A CSV, TSV, JSON Lines or Parquet file, through `datasets`."""
    import datasets

    file = existing_file(path)
    kind = FILE_READERS[file.suffix]
    datasets.disable_progress_bars()  # a second's work
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is said below
    # "null" is a word like any other
    options: dict = {"keep_default_na": False} if kind == "csv" else {}
    if file.suffix == ".tsv":
        options |= {"sep": "\t", "quoting": tsv_quoting(file)}
    try:
        loaded = datasets.load_dataset(kind, data_files=str(file), split="train", **options)
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
    if not is_file(path):
        raise BedkdError(f"cannot read {path}: its ending is none of {', '.join(FILE_READERS)}")
    file = from_here(path)
    if not file.is_file():
        raise BedkdError(f"no such file: {path}")
    return file


def read_hub(
    location: hub.Location, spec: DatasetSpec | None, wanted: Iterable[str] = ()
) -> dict[str, pd.DataFrame]:
    """All splits of a hub or mirror repository, as they are there.

    Raises BedkdError: it cannot be read, or has not all `wanted` splits.
    """
    import datasets

    data_dir = spec.data_dir if spec else None
    try:
        splits = datasets.load_dataset(location.path, data_dir=data_dir, **location.pinned)
    except Exception as error:  # network, format and script errors all end here
        raise BedkdError(f"cannot load dataset {location.path}: {error}") from error
    if missing := [split for split in wanted if split not in splits]:
        raise BedkdError(f"{location.path} has no split {missing[0]!r}; found {', '.join(splits)}")
    return {split: rows.to_pandas() for split, rows in splits.items()}


def tidy(config: DataConfig, train: pd.DataFrame, test: pd.DataFrame | None, where: str, seed: int):
    """Find columns and classes of rows that no spec describes; split off test rows if none came."""
    spec = describe_rows(config, train, where)
    train = check_rows(train, spec, where)
    if test is not None:
        return spec, train, check_rows(test, spec, config.test_file or f"{where} (test)")
    order = np.random.default_rng([seed, 2]).permutation(len(train))
    n_test = max(1, int(LOCAL_TEST_SHARE * len(train)))
    test = train.iloc[order[:n_test]].reset_index(drop=True)
    return spec, train.iloc[np.sort(order[n_test:])].reset_index(drop=True), test


def describe_rows(config: DataConfig, train: pd.DataFrame, where: str) -> DatasetSpec:
    """Columns and classes of rows that no spec describes."""
    text = find_column(train, config.text_column, TEXT_COLUMNS, where)
    label = find_column(train, config.label_column, LABEL_COLUMNS, where)
    is_missing = train[label].isna() | (train[label].astype(str).str.strip() == "")
    if is_missing.any():
        raise BedkdError(f"{where}: row {int(is_missing.argmax())} has no label")
    names = {label_text(value) for value in train[label]}
    if not 2 <= len(names) <= 1000:
        raise BedkdError(f"{where}: column {label!r} has {len(names)} classes; give 2 to 1000")
    key = int if all(map(is_number, names)) else None  # 2 before 10
    return DatasetSpec(where, tuple(sorted(names, key=key)), 0, text, label)


def check_file(config: DataConfig) -> None:
    """Raises BedkdError if a local file cannot be read, or has not the columns or classes."""
    spec = describe_rows(config, read_file(config.name), config.name)
    if config.test_file:
        test = read_file(config.test_file)
        for column in (spec.text_column, spec.label_column):
            find_column(test, column, (), config.test_file)


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
    text = list(frame[find_column(frame, spec.text_column, (), where)])
    label = list(frame[find_column(frame, spec.label_column, (), where)])
    for row, value in enumerate(text):
        if not isinstance(value, str) or not value.strip():
            raise BedkdError(f"{where}: the text of row {row} is {value!r}; it must be words")
    number = {name: i for i, name in enumerate(spec.label_names)}
    if not any(map(is_number, number)):  # then class numbers will do, too
        number |= {str(i): i for i in range(len(number))}
    for row, value in enumerate(label):
        if label_text(value) not in number:
            shown = repr(value) if isinstance(value, str) else label_text(value)
            raise BedkdError(
                f"{where}: the label of row {row} is {shown}; it must be one of {', '.join(number)}"
            )
    numbers = np.array([number[label_text(value)] for value in label], dtype=np.int64)
    return pd.DataFrame({"text": text, "label": numbers})


def is_number(name: str) -> bool:
    return name.lstrip("-").isdigit()


def label_text(value) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if is_whole or isinstance(value, bool | np.bool_) else str(value)
