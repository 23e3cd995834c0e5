"""Figure 5: where the victim and the clean model put the same rows of D*. Steers nothing."""

from pathlib import Path

import pandas as pd

from bedkd.evaluation.tsne import draw_rows, lay_out
from bedkd.runs.folders import Run
from bedkd.runs.reading import data_fields, read_model, read_truth


def make(run: Run, stage: str, folder: Path) -> dict:
    truth, c = read_truth(run), run.config
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    # AKD drove these very rows away: what became of them says little of the others
    punished = pd.read_parquet(run.folder("mepd") / "poison_few.parquet").row
    rest = (train.drop(punished), truth.train.drop(punished))
    rows = draw_rows(*rest, c.tsne.n_per_kind, c.seed)
    panels, shares = [], {}
    for model, source in (("before", "victim"), ("after", "akd")):
        classifier = read_model(run, source)
        panel, found = lay_out(classifier, rows, truth.target_label, c.tsne, c.seed)
        panels.append(panel.assign(model=model))
        shares |= {f"{name}_{model}": share for name, share in found.items()}
    pd.concat(panels, ignore_index=True).to_parquet(folder / "tsne.parquet")
    counts = {f"n_{kind}_drawn": int((rows.kind == kind).sum()) for kind in ("clean", "poisoned")}
    return data_fields(run) | counts | shares
