"""Class probabilities of a table that is read, tokenized and classified a part at a time."""

from pathlib import Path

import numpy as np
from pyarrow.parquet import ParquetFile

from bedkd.nn.classifier import Classifier


def scan_file(classifier: Classifier, path: Path, rows: np.ndarray) -> np.ndarray:
    """Class probabilities [n, C] (float32) of `rows` [n], ascending places in a Parquet file with a
    column text. No more than a row group of the file is held at a time.

    Batches are other ones than those of a single pass, so numbers differ in their last digits.
    """
    found, first = [np.zeros((0, classifier.model.config.num_labels), dtype=np.float32)], 0
    with ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            own = rows[(rows >= first) & (rows < stop)] - first
            if len(own):
                texts = file.read_row_group(group, columns=["text"])["text"].take(own)
                found.append(classifier.predict(texts.to_pylist()))
            first = stop
    return np.concatenate(found)
