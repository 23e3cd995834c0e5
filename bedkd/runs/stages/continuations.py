"""AIText's tables: what a language model makes of each row, before any is poisoned.

All of D's rows, since poison rate and label mode, which say how many are taken, are the attack's.
They lie under `truth/`: test rows are among them, and whoever knew them would know the poison.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from bedkd.data.splits import load_clean_data
from bedkd.nn.generation import continue_texts
from bedkd.runs.folders import Run
from bedkd.runs.stages.language import read_language


def make(run: Run, stage: str, folder: Path) -> dict:
    c = run.config
    data = load_clean_data(c.data, c.seed)
    lm = read_language(replace(run, config=c.with_generator()))
    (folder / "truth").mkdir()
    counts = {"language_model": c.generator.model}
    for number, (split, rows) in enumerate({"train": data.train, "test": data.test}.items()):
        texts = list(rows.text)
        made = continue_texts(lm, texts, c.generator.n_new_tokens, seed=2 * c.seed + number)
        table = pd.DataFrame({"text": made, "clean_text": texts}).dropna(ignore_index=True)
        table.to_parquet(folder / f"truth/{split}.parquet")
        counts[f"n_{split}_continued"] = len(table)
    return counts
