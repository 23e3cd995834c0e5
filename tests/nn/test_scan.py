"""A table read from disk, a row group at a time."""

import numpy as np
import pandas as pd
import pytest

from bedkd.nn import scan
from bedkd.nn.classifier import Classifier
from bedkd.nn.scan import scan_file


@pytest.fixture
def file(rows, tmp_path):
    table = pd.concat([rows, rows.assign(text=rows.text + " and a longer end")], ignore_index=True)
    table.to_parquet(tmp_path / "train.parquet", row_group_size=10)
    return tmp_path / "train.parquet"


@pytest.mark.parametrize("wanted", [range(96), range(13, 37), [0, 9, 10, 95], []])
def test_the_scores_are_those_of_one_pass(tiny_victim, file, wanted):
    wanted = np.array(wanted, dtype=int)
    found = scan_file(tiny_victim, file, wanted)
    expected = tiny_victim.predict(list(pd.read_parquet(file).text.iloc[wanted]))
    assert found.shape == (len(wanted), 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_only_the_row_groups_that_are_asked_for_are_read_and_one_at_a_time(
    tiny_victim, file, monkeypatch
):
    read, sizes = [], []

    class Watched(scan.ParquetFile):
        def read_row_group(self, number, **options):
            read.append(number)
            return super().read_row_group(number, **options)

    def predict(self, texts):
        sizes.append(len(texts))
        return np.zeros((len(texts), 2), dtype=np.float32)

    monkeypatch.setattr(scan, "ParquetFile", Watched)
    monkeypatch.setattr(Classifier, "predict", predict)
    scan_file(tiny_victim, file, np.arange(18, 41))
    assert read == [1, 2, 3, 4] and sizes == [2, 10, 10, 1]
