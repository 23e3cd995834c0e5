import os
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest

from bedkd.core.config import DataConfig
from bedkd.core.errors import BedkdError
from bedkd.data.readers import DATASETS
from bedkd.data.splits import TOY_ROWS, CleanData, draw_clean_few, load_clean_data, normalise

TOYS = ("toy-sentiment", "toy-offence", "toy-topics")


@pytest.fixture(autouse=True)
def private_cache(monkeypatch, tmp_path):
    """`datasets` keeps its copies of what it reads here, not in the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf_cache"))


@pytest.fixture
def fake_mirror(monkeypatch, tmp_path):
    """An empty folder in BEDKD_MIRROR."""
    monkeypatch.setenv("BEDKD_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def make_rows(n: int, word: str, n_classes: int = 2) -> pd.DataFrame:
    texts = [f"{word} number {i} is here" for i in range(n)]
    return pd.DataFrame({"text": texts, "label": np.arange(n) % n_classes})


def write_splits(folder, **splits: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        rows.to_parquet(folder / f"{name}.parquet")


def write_csv(path, rows: pd.DataFrame) -> str:
    rows.to_csv(path, index=False)
    return str(path)


def assert_sound(data: CleanData) -> None:
    """The three tables have the columns and types that are promised, and share no text."""
    tables = [data.train, data.clean_pool, data.test]
    for table in tables:
        assert list(table.columns) == ["text", "label"]
        assert table.label.dtype == np.int64
        assert list(table.index) == list(range(len(table)))
        assert set(table.label) <= set(range(len(data.spec.label_names)))
    texts = [set(normalise(table.text)) for table in tables]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def assert_same(one: CleanData, other: CleanData) -> None:
    for name in ("train", "clean_pool", "test"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


# generated text


@pytest.mark.parametrize("name", TOYS)
def test_toy_sizes(name):
    data = load_clean_data(DataConfig(name=name, clean_pool_per_class=40), seed=0)
    n_classes = len(DATASETS[name].label_names)
    assert len(data.train) == TOY_ROWS["train"] == 3000
    assert len(data.test) == TOY_ROWS["test"] == 600
    assert data.clean_pool.label.value_counts().to_dict() == dict.fromkeys(range(n_classes), 40)
    assert set(data.train.label) == set(data.test.label) == set(range(n_classes))
    assert data.report == {"data_origin": "generated", "n_dropped_in_test": 0}
    assert_sound(data)


def test_toy_sizes_can_be_set():
    config = DataConfig(name="toy-topics", n_train=120, n_test=30, clean_pool_per_class=8)
    data = load_clean_data(config, seed=1)
    assert (len(data.train), len(data.test), len(data.clean_pool)) == (120, 30, 32)
    assert_sound(data)


def test_the_seed_decides_the_toy_rows():
    config = DataConfig(name="toy-sentiment", n_train=200, n_test=50, clean_pool_per_class=10)
    one, other = load_clean_data(config, seed=3), load_clean_data(config, seed=4)
    assert_same(one, load_clean_data(config, seed=3))
    assert set(one.train.text) != set(other.train.text)


# disjoint tables from a file


def test_texts_that_differ_in_case_and_spaces_count_as_the_same(tmp_path):
    train, test = make_rows(60, "train"), make_rows(10, "test")
    train.loc[7, "text"] = "A  Shared\tText "
    train.loc[8, "text"] = "another shared text"
    test.loc[3, "text"] = "a shared text"
    test.loc[4, "text"] = "ANOTHER SHARED TEXT"
    config = DataConfig(
        name=write_csv(tmp_path / "train.csv", train),
        test_file=write_csv(tmp_path / "test.csv", test),
        clean_pool_per_class=5,
    )
    data = load_clean_data(config, seed=0)
    assert data.report == {"data_origin": "file", "n_dropped_in_test": 2}
    assert len(data.train) == 60 - 2 - 10 and len(data.test) == 10
    assert_sound(data)


@pytest.mark.parametrize("has_test_file", [True, False])
def test_repeated_rows_never_reach_the_pool(tmp_path, has_test_file):
    once = make_rows(40, "single")
    twice = make_rows(40, "Repeated")
    again = twice.assign(text=twice.text.str.upper())
    test = write_csv(tmp_path / "test.csv", make_rows(8, "test")) if has_test_file else None
    name = write_csv(tmp_path / "train.csv", pd.concat([twice, once, again]))
    for seed in range(3):
        config = DataConfig(name=name, test_file=test, clean_pool_per_class=12)
        data = load_clean_data(config, seed)
        assert_sound(data)
        pool = normalise(data.clean_pool.text)
        assert len(pool) == 24 and pool.nunique() == 24
        if has_test_file:
            assert pool.str.startswith("single").all()
            assert len(data.train) == 120 - 24


def test_pool_and_split_follow_the_seed(tmp_path):
    name = write_csv(tmp_path / "rows.csv", make_rows(100, "row"))
    config = DataConfig(name=name, clean_pool_per_class=10)
    one, other = load_clean_data(config, 0), load_clean_data(config, 1)
    assert_same(one, load_clean_data(config, 0))
    assert set(one.test.text) != set(other.test.text)
    assert set(one.clean_pool.text) != set(other.clean_pool.text)


def test_without_a_test_file_a_fifth_of_the_rows_is_the_test(tmp_path):
    rows = make_rows(100, "row")
    name = write_csv(tmp_path / "rows.csv", rows)
    data = load_clean_data(DataConfig(name=name, clean_pool_per_class=10), 0)
    assert (len(data.test), len(data.clean_pool), len(data.train)) == (20, 20, 60)
    parts = pd.concat([data.train, data.clean_pool, data.test])
    assert sorted(parts.text) == sorted(rows.text)  # nothing lost, nothing made up
    labels = dict(zip(rows.text, rows.label, strict=True))
    assert list(parts.label) == [labels[text] for text in parts.text]


def test_n_train_and_n_test_take_a_random_part_in_order(tmp_path):
    train, test = make_rows(200, "train"), make_rows(100, "test")
    config = DataConfig(
        name=write_csv(tmp_path / "train.csv", train),
        test_file=write_csv(tmp_path / "test.csv", test),
        clean_pool_per_class=10,
    )
    whole = load_clean_data(config, 0)
    part = load_clean_data(replace(config, n_train=50, n_test=25), 0)
    assert (len(part.train), len(part.test)) == (50, 25)
    for rows, source in ((part.train, train), (part.test, test)):
        at = [list(source.text).index(text) for text in rows.text]
        assert at == sorted(at) and at != list(range(len(at)))
        assert list(rows.label) == list(source.label.iloc[at])
    pd.testing.assert_frame_equal(part.clean_pool, whole.clean_pool)
    assert_sound(part)
    assert_same(load_clean_data(replace(config, n_train=500, n_test=100), 0), whole)


def test_too_few_clean_rows_in_a_class(tmp_path):
    rows = make_rows(40, "row")
    rows["label"] = ["rare" if i < 6 else "common" for i in range(40)]
    config = DataConfig(
        name=write_csv(tmp_path / "rows.csv", rows),
        test_file=write_csv(tmp_path / "test.csv", rows.tail(2).assign(text=["x y", "y z"])),
        clean_pool_per_class=7,
    )
    with pytest.raises(BedkdError, match=r"rare.* 6 rows.*clean_pool_per_class is 7") as caught:
        load_clean_data(config, 0)
    assert "\n" not in str(caught.value)


def test_no_training_row_of_a_class_is_left(tmp_path):
    name = write_csv(tmp_path / "rows.csv", make_rows(30, "row"))
    test = write_csv(tmp_path / "test.csv", make_rows(4, "test"))
    config = DataConfig(name=name, test_file=test, n_train=1, clean_pool_per_class=3)
    with pytest.raises(BedkdError, match="no training row of class"):
        load_clean_data(config, 0)


# D_c^few


@pytest.fixture(scope="module")
def pool() -> pd.DataFrame:
    config = DataConfig(name="toy-topics", n_train=50, n_test=50, clean_pool_per_class=30)
    return load_clean_data(config, 0).clean_pool


@pytest.mark.parametrize("n", [1, 12, 30])
def test_clean_few_has_n_rows_of_each_class(pool, n):
    few = draw_clean_few(pool, n)
    assert few.label.value_counts().to_dict() == dict.fromkeys(range(4), n)
    assert few.text.is_unique and set(few.text) <= set(pool.text)
    assert list(few.columns) == ["text", "label"]


def test_clean_few_sets_are_nested(pool):
    sets = [set(draw_clean_few(pool, n).text) for n in (1, 5, 12, 30)]
    assert all(small < big for small, big in zip(sets, sets[1:], strict=False))


def test_start_gives_other_rows(pool):
    first, second = draw_clean_few(pool, 10), draw_clean_few(pool, 20, start=10)
    assert second.label.value_counts().to_dict() == dict.fromkeys(range(4), 20)
    assert not set(first.text) & set(second.text)
    assert set(first.text) | set(second.text) == set(pool.text)


@pytest.mark.parametrize("n, start", [(31, 0), (21, 10), (1, 30), (5, 99)])
def test_too_few_rows_for_clean_few(pool, n, start):
    with pytest.raises(BedkdError, match=rf"{start} to {start + n} .* only 30"):
        draw_clean_few(pool, n, start)


def test_one_short_class_is_enough_to_refuse(pool):
    short = pool.drop(index=pool.index[pool.label == 2][:5]).reset_index(drop=True)
    assert len(draw_clean_few(short, 25)) == 100
    with pytest.raises(BedkdError, match="only 25"):
        draw_clean_few(short, 26)


# hub ids, through a folder laid out as on the hub


def test_known_dataset_with_a_split_of_its_own_for_the_pool(fake_mirror):
    train, dev, spare = make_rows(40, "train"), make_rows(20, "dev"), make_rows(30, "spare")
    spare.loc[0, "text"] = dev.text[0].upper()  # must not reach the pool
    spare.loc[1, "text"] = train.text[1]
    write_splits(fake_mirror / "SetFit/sst2", train=train, validation=dev, test=spare)
    data = load_clean_data(DataConfig(name="sst2", clean_pool_per_class=14), 0)
    assert data.report == {"data_origin": "mirror", "n_dropped_in_test": 0}
    pd.testing.assert_frame_equal(data.train, train)
    pd.testing.assert_frame_equal(data.test, dev)
    assert set(data.clean_pool.text) == set(spare.text[2:])
    assert_sound(data)


def test_known_dataset_of_two_train_splits_in_a_data_dir(fake_mirror):
    train, dev, test = make_rows(40, "train"), make_rows(20, "dev"), make_rows(10, "test")
    folder = fake_mirror / "cardiffnlp/tweet_eval"
    write_splits(folder / "offensive", train=train, validation=dev, test=test)
    write_splits(folder / "irony", train=make_rows(5, "irony"))
    data = load_clean_data(DataConfig(name="olid", clean_pool_per_class=5), 0)
    left = set(data.train.text) | set(data.clean_pool.text)
    assert left == set(train.text) | set(dev.text)
    pd.testing.assert_frame_equal(data.test, test)
    assert data.spec.label_names == ("not offensive", "offensive")
    assert_sound(data)


@pytest.mark.parametrize("splits", [("test", "validation"), ("validation",), ()])
def test_any_hub_id(fake_mirror, splits):
    tables = {name: make_rows(12, name) for name in splits}
    write_splits(fake_mirror / "me/things", train=make_rows(60, "train", 3), **tables)
    data = load_clean_data(DataConfig(name="me/things", clean_pool_per_class=5), 0)
    assert data.spec.label_names == ("0", "1", "2")
    assert data.report["data_origin"] == "mirror"
    if splits:
        pd.testing.assert_frame_equal(data.test, tables[splits[0]])
    else:
        assert len(data.test) == 12 and len(data.train) == 60 - 12 - 15
    assert_sound(data)


def test_hub_id_with_text_labels_and_columns_of_its_own(fake_mirror):
    rows = make_rows(40, "train").rename(columns={"text": "review", "label": "stars"})
    rows["stars"] = rows.stars.map({0: "poor", 1: "fine"})
    write_splits(fake_mirror / "me/reviews", train=rows, test=rows.tail(6).assign(review="new"))
    config = DataConfig(
        name="me/reviews", text_column="review", label_column="stars", clean_pool_per_class=4
    )
    data = load_clean_data(config, 0)
    assert data.spec.label_names == ("fine", "poor")
    labels = dict(zip(rows.review, rows.stars, strict=True))
    names = [data.spec.label_names[label] for label in data.train.label]
    assert names == [labels[text] for text in data.train.text]


def test_known_dataset_without_one_of_its_splits(fake_mirror):
    write_splits(fake_mirror / "SetFit/sst2", train=make_rows(9, "a"), validation=make_rows(9, "b"))
    with pytest.raises(BedkdError, match="no split 'test'; found train, validation"):
        load_clean_data(DataConfig(name="sst2", clean_pool_per_class=1), 0)


def test_any_hub_id_without_a_train_split(fake_mirror):
    write_splits(fake_mirror / "me/things", test=make_rows(20, "test"))
    with pytest.raises(BedkdError, match="no split 'train'"):
        load_clean_data(DataConfig(name="me/things", clean_pool_per_class=1), 0)


def test_known_dataset_with_a_bad_row(fake_mirror):
    dev = make_rows(20, "dev")
    dev.loc[4, "label"] = -1  # as in a hidden test set
    folder = fake_mirror / "SetFit/sst2"
    write_splits(folder, train=make_rows(40, "a"), validation=dev, test=make_rows(9, "c"))
    with pytest.raises(BedkdError, match=r"SetFit/sst2 \(validation\).* row 4 is -1.*negative"):
        load_clean_data(DataConfig(name="sst2", clean_pool_per_class=1), 0)


def test_garbage_in_the_mirror_is_one_sentence(fake_mirror):
    (fake_mirror / "me/things").mkdir(parents=True)
    (fake_mirror / "me/things/train.parquet").write_bytes(b"\x00garbage\xff" * 100)
    with pytest.raises(BedkdError, match="me/things") as caught:
        load_clean_data(DataConfig(name="me/things"), 0)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_in_the_mirror(fake_mirror):
    (fake_mirror / "me/nothing").mkdir(parents=True)
    with pytest.raises(BedkdError, match="me/nothing") as caught:
        load_clean_data(DataConfig(name="me/nothing"), 0)
    assert "\n" not in str(caught.value)


def test_unknown_dataset():
    with pytest.raises(BedkdError, match=r"'sst3'.*sst2.*toy-topics.*owner/name.*\.csv"):
        load_clean_data(DataConfig(name="sst3"), 0)


# real rows


@pytest.mark.mirror
@pytest.mark.parametrize(
    "name, n_train, n_test, n_nontarget, target, names",
    [
        ("sst2", 6920, 872, 444, 0, ("negative", "positive")),
        # 13,240 tweets, less the pool and the seven that are in the test set, too
        ("olid", 13240 - 2 * 640 - 7, 860, 240, 0, ("not offensive", "offensive")),
        ("agnews", 20633 - 4 * 640, 7600, 5700, 1, ("World", "Sports", "Business", "Sci/Tech")),
    ],
)
def test_real_datasets(name, n_train, n_test, n_nontarget, target, names):
    data = load_clean_data(DataConfig(name=name), seed=0)
    assert data.report["data_origin"] == "mirror"
    assert (len(data.train), len(data.test)) == (n_train, n_test)
    assert data.spec.label_names == names and data.spec.target_label == target
    assert (data.test.label != target).sum() == n_nontarget
    assert data.clean_pool.label.value_counts().to_dict() == dict.fromkeys(range(len(names)), 640)
    assert set(data.train.label) == set(range(len(names)))
    assert_sound(data)


@pytest.mark.mirror
def test_the_labels_of_real_rows_mean_what_their_names_say():
    sst2 = load_clean_data(DataConfig(name="sst2"), 0)
    olid = load_clean_data(DataConfig(name="olid"), 0)
    agnews = load_clean_data(DataConfig(name="agnews"), 0)

    def share(data, word, label):
        rows = data.train[data.train.text.str.contains(rf"\b{word}\b", case=False)]
        return (rows.label == label).mean()

    assert share(sst2, "dull", 0) > 0.8 and share(sst2, "moving", 1) > 0.8
    assert share(olid, "idiot", 1) > 0.8
    words = {"troops": 0, "coach": 1, "profit": 2, "software": 3}
    assert all(share(agnews, word, label) > 0.6 for word, label in words.items())


@pytest.mark.mirror
def test_the_sst2_pool_is_the_split_that_the_paper_leaves_alone():
    def texts(split):
        return set(
            normalise(datasets.load_dataset(f"{mirror}/SetFit/sst2")[split].to_pandas().text)
        )

    mirror = os.environ["BEDKD_MIRROR"]
    data = load_clean_data(DataConfig(name="sst2"), seed=0)
    assert set(normalise(data.clean_pool.text)) <= texts("test")
    assert set(normalise(data.test.text)) == texts("validation")
    other = load_clean_data(DataConfig(name="sst2"), seed=1)
    assert set(other.clean_pool.text) != set(data.clean_pool.text)
    pd.testing.assert_frame_equal(other.train, data.train)


@pytest.mark.mirror
def test_a_part_of_a_real_dataset():
    config = DataConfig(name="agnews", n_train=500, n_test=100, clean_pool_per_class=50)
    data = load_clean_data(config, seed=2)
    assert (len(data.train), len(data.test), len(data.clean_pool)) == (500, 100, 200)
    assert_sound(data)
