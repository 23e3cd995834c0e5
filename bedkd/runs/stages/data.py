"""D*, the defender's clean rows, and the truth about both."""

from dataclasses import replace
from pathlib import Path

from bedkd.data.attacks import poison
from bedkd.data.splits import draw_clean_share, load_clean_data
from bedkd.runs.folders import Run

ROW_GROUP = 2**14  # rows that a scan in shards holds at a time


def make(run: Run, stage: str, folder: Path) -> dict:
    c = run.config
    data, attack = load_clean_data(c.data, c.seed), c.attack
    if c.is_written:
        attack = replace(attack, paraphrases=str(run.folder("continuations").absolute() / "truth"))
    poisoned = poison(data, attack, c.seed)
    (folder / "truth").mkdir()
    poisoned.train.to_parquet(folder / "train.parquet", row_group_size=ROW_GROUP)
    poisoned.clean_pool.to_parquet(folder / "clean_pool.parquet")
    draw_clean_share(data.train, c.data, c.seed).to_parquet(folder / "clean_share.parquet")
    poisoned.train_truth.to_parquet(folder / "truth/train.parquet")
    poisoned.test_clean.to_parquet(folder / "truth/clean.parquet")
    poisoned.test_triggered.to_parquet(folder / "truth/triggered.parquet")
    poisoned.test_triggered_target.to_parquet(folder / "truth/triggered_target.parquet")
    counts = {
        "n_train": len(poisoned.train),
        "n_test": len(poisoned.test_clean),
        "n_test_triggered": len(poisoned.test_triggered),
        "n_test_triggered_target": len(poisoned.test_triggered_target),
    }
    return poisoned.report | counts | {"label_names": list(data.spec.label_names)}
