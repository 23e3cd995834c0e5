"""Load a labelled data set by name, hub id or file, and set the defender's clean rows aside.

Every table is a DataFrame with columns `text` (str) and `label` (int, 0 to C-1).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.config import DataConfig
from bedkd.core.errors import BedkdError
from bedkd.data import generated as toy
from bedkd.data.readers import DatasetSpec, check_rows, get_spec, is_file, read_file, read_hub, tidy

TOY_ROWS = {"train": 3000, "test": 600}


@dataclass(frozen=True)
class CleanData:
    """A data set before any poisoning. No text (case and spaces aside) is in two of the tables."""

    spec: DatasetSpec
    train: pd.DataFrame
    clean_pool: pd.DataFrame  # the defender's; class by class, so that D_c^few sets are nested
    test: pd.DataFrame
    report: dict  # where it came from, rows dropped


def load_clean_data(config: DataConfig, seed: int) -> CleanData:
    """D, D_c^few's pool and the test rows, disjoint; `seed` draws the pool and any subsample.

    Raises BedkdError: unknown data set, missing column, empty text, bad label, too few clean rows.
    """
    rng = np.random.default_rng([seed, 1])
    spec, train, pool, test, origin = load_splits(config, seed)
    seen = set(normalise(test.text))
    n_before = len(train)
    train = train[~normalise(train.text).isin(seen)].reset_index(drop=True)
    report = {"data_origin": origin, "n_dropped_in_test": n_before - len(train)}
    if pool is None:
        train, pool = hold_out(train, config, spec, rng)
    else:
        seen |= set(normalise(train.text))
        pool = pool[~normalise(pool.text).isin(seen)]
        pool = draw_per_class(pool, config.clean_pool_per_class, spec, rng)
    train, test = subsample(train, config.n_train, rng), subsample(test, config.n_test, rng)
    check_classes(train, spec)
    return CleanData(spec, train, pool.reset_index(drop=True), test, report)


def load_splits(config: DataConfig, seed: int):
    """(spec, train, pool or None, test, origin), rows checked but not yet disjoint."""
    spec = get_spec(config)
    if spec and not spec.hub_id:
        return spec, *generate_toy(config, spec, seed), "generated"
    if is_file(config.name):
        train, origin = read_file(config.name), "file"
        test = read_file(config.test_file) if config.test_file else None
    else:
        location = hub.locate(spec.hub_id if spec else config.name, "dataset")
        origin = location.origin
        if spec:
            return spec, *read_known(location, spec), origin
        splits = read_hub(location, None, ["train"])
        train, test = splits["train"], splits.get("test", splits.get("validation"))
    spec, train, test = tidy(config, train, test, config.name, seed)
    return spec, train, None, test, origin


def read_known(location: hub.Location, spec: DatasetSpec):
    """(train, pool or None, test) of a data set with a spec."""
    wanted = [*filter(None, [*spec.train_splits, spec.test_split, spec.clean_split])]
    splits = read_hub(location, spec, wanted)
    rows = {s: check_rows(splits[s], spec, f"{spec.hub_id} ({s})") for s in wanted}
    train = pd.concat([rows[s] for s in spec.train_splits], ignore_index=True)
    return train, rows.get(spec.clean_split), rows[spec.test_split]


def generate_toy(config: DataConfig, spec: DatasetSpec, seed: int):
    """Distinct generated rows, cut into train, pool (per class) and test."""
    n_train = config.n_train or TOY_ROWS["train"]
    end_test = n_train + (config.n_test or TOY_ROWS["test"])
    # classes are only about balanced, so generate a quarter more than the pool takes
    n_pool = int(config.clean_pool_per_class * len(spec.label_names) * 1.25) + 50
    rows = toy.generate(config.name, end_test + n_pool, seed)
    return rows[:n_train], rows[end_test:], rows[n_train:end_test]


def normalise(text: pd.Series) -> pd.Series:
    """Lower case, single spaces: what counts as the same text."""
    return text.str.lower().str.split().str.join(" ")


def hold_out(train: pd.DataFrame, config: DataConfig, spec: DatasetSpec, rng):
    """Move the pool out of the train rows; only texts that occur once can go."""
    once = train[~normalise(train.text).duplicated(keep=False)]
    pool = draw_per_class(once, config.clean_pool_per_class, spec, rng)
    return train.drop(index=pool.index).reset_index(drop=True), pool


def draw_per_class(rows: pd.DataFrame, n: int, spec: DatasetSpec, rng) -> pd.DataFrame:
    """`n` random rows of each class, in random order within the class.

    Raises BedkdError: a class has fewer.
    """
    parts = []
    for label, name in enumerate(spec.label_names):
        index = rows.index[rows.label == label].to_numpy()
        if len(index) < n:
            raise BedkdError(
                f"class {label} ({name}) has {len(index)} rows for the clean pool, "
                f"but data.clean_pool_per_class is {n}; lower it"
            )
        parts.append(rows.loc[rng.permutation(index)[:n]])
    return pd.concat(parts)


def subsample(rows: pd.DataFrame, n: int | None, rng) -> pd.DataFrame:
    """At most `n` rows, at random, in their order."""
    if n is None or n >= len(rows):
        return rows.reset_index(drop=True)
    return rows.iloc[np.sort(rng.permutation(len(rows))[:n])].reset_index(drop=True)


def check_classes(train: pd.DataFrame, spec: DatasetSpec) -> None:
    for label, name in enumerate(spec.label_names):
        if not (train.label == label).any():
            raise BedkdError(f"no training row of class {label} ({name}) is left")


def draw_clean_few(pool: pd.DataFrame, n_per_class: int, start: int = 0) -> pd.DataFrame:
    """D_c^few: rows `start` to `start + n_per_class` of each class of the pool.

    Raises BedkdError: the pool has too few rows of a class.
    """
    few = pool.groupby("label").nth(slice(start, start + n_per_class))
    if len(few) < n_per_class * pool.label.nunique():
        raise BedkdError(
            f"D_c^few needs rows {start} to {start + n_per_class} of each class, but a class of "
            f"the pool has only {int(pool.label.value_counts().min())}"
        )
    return few.reset_index(drop=True)


def draw_clean_share(train: pd.DataFrame, config: DataConfig, seed: int) -> pd.DataFrame:
    """The clean rows that the paper grants fine-tuning (appendix D): a share of the train rows.

    They are rows of D* as they were before poisoning, as in the public data, whose clean copy of
    the training set is row-aligned with the poisoned one; the other defences never see them.
    """
    rng = np.random.default_rng([seed, 50])
    return subsample(train, max(1, round(config.clean_share * len(train))), rng)
