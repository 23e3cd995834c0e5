"""Clean proxy data for W2SDefense: rows of another data set with the victim's classes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bedkd.core import hub
from bedkd.core.config import DataConfig
from bedkd.core.defence_config import TeacherConfig
from bedkd.core.errors import BedkdError
from bedkd.data import generated as toy
from bedkd.data import readers
from bedkd.data.readers import DatasetSpec
from bedkd.data.splits import TOY_ROWS, check_classes

TOY_SEED = 1000  # added to the seed, so that a generated proxy is not the victim's own rows
HATE_SPEECH = "tdavidson/hate_speech_offensive"
PROXIES: dict[str, DatasetSpec] = {
    "stanfordnlp/imdb": DatasetSpec("stanfordnlp/imdb", ("negative", "positive"), 0),
    HATE_SPEECH: DatasetSpec(
        HATE_SPEECH, ("hate", "offensive", "neither"), 0, text_column="tweet", label_column="class"
    ),
}
# BeDKD's paper uses the three classes against OLID's two and does not say how. Here hate speech and
# offensive language are both offensive, as OLID's guidelines would have them.
MERGED_CLASSES = {HATE_SPEECH: (("not offensive", "offensive"), (1, 1, 0))}


def load_proxy(config: TeacherConfig, label_names: Sequence[str], seed: int) -> pd.DataFrame:
    """Clean rows (text, label) of the data set `config.proxy`, at most `n_proxy`, class by class in
    proportion; `seed` draws them. Labels count as the victim's `label_names` do.

    A proxy `clean_share` is not read here: it is the view's own table.

    Raises BedkdError: no such data set, bad rows, or other classes than the victim's.
    """
    names, rows = read_proxy(config, seed)
    number = match_classes(config.proxy, names, label_names)
    rows = rows.assign(label=np.array(number)[rows.label])
    rows = draw_proportional(rows, config.n_proxy, np.random.default_rng([seed, 60]))
    check_classes(rows, DatasetSpec(config.proxy, tuple(label_names), 0))
    return rows


def match_classes(proxy: str, names: Sequence[str], label_names: Sequence[str]) -> list[int]:
    """The victim's number of each of the proxy's classes: by name, or, where the names on one side
    are mere numbers, which say nothing, by position. Raises BedkdError if neither can be."""
    if len(names) != len(label_names):
        raise BedkdError(
            f"the proxy data set {proxy!r} has {len(names)} classes, but the victim has "
            f"{len(label_names)}; set teacher.proxy to one with the victim's classes"
        )
    if set(names) == set(label_names):
        return [list(label_names).index(name) for name in names]
    if all(map(readers.is_number, names)) or all(map(readers.is_number, label_names)):
        return list(range(len(names)))
    raise BedkdError(
        f"the proxy data set {proxy!r} has the classes {', '.join(names)}, but the victim has "
        f"{', '.join(label_names)}; rename the classes in the file, or set teacher.proxy to "
        "another data set"
    )


def read_proxy(config: TeacherConfig, seed: int) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Class names and all train rows of the data set `config.proxy`."""
    name = config.proxy
    spec = PROXIES.get(name) or readers.get_spec(DataConfig(name=name))
    if spec and not spec.hub_id:
        rows = toy.generate(name, config.n_proxy or TOY_ROWS["train"], seed + TOY_SEED)
        return spec.label_names, rows
    frame = read_train_rows(name, spec)
    spec = spec or readers.describe_rows(DataConfig(name=name), frame, name)
    rows = readers.check_rows(frame, spec, name)
    if name not in MERGED_CLASSES:
        return spec.label_names, rows
    names, number = MERGED_CLASSES[name]
    return names, rows.assign(label=np.array(number)[rows.label])


def read_train_rows(name: str, spec: DatasetSpec | None) -> pd.DataFrame:
    """The train splits of a file or repository, as they are there."""
    if readers.is_file(name):
        return readers.read_file(name)
    wanted = spec.train_splits if spec else ("train",)
    splits = readers.read_hub(hub.locate(spec.hub_id if spec else name, "dataset"), spec, wanted)
    return pd.concat([splits[split] for split in wanted], ignore_index=True)


def draw_proportional(rows: pd.DataFrame, n: int | None, rng) -> pd.DataFrame:
    """At most `n` rows at random, in their order, each class with its share and at least one."""
    if n is None or n >= len(rows):
        return rows.reset_index(drop=True)
    shuffled = rows.iloc[rng.permutation(len(rows))]
    by_class = shuffled.groupby("label").label
    place = by_class.cumcount() / by_class.transform("size")  # 0 to 1 within the class
    return rows.loc[np.sort(place.sort_values(kind="stable").index[:n])].reset_index(drop=True)
