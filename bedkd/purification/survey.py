"""Models whose truth is known, each as if it came from somebody else: how often is the verdict
right, and what is left of the backdoor?"""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bedkd.purification.purify import purify
from bedkd.purification.verdict import FOUND, NOTHING
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run
from bedkd.runs.profiles import load_profile
from bedkd.runs.reading import read_model, read_truth
from bedkd.runs.records import environment
from bedkd.runs.stages.never_poisoned import compare

Cell = tuple[str, str, int, float]  # data set, attack, seed, poison rate; without an attack 0
TOYS, ATTACKS = ("toy-sentiment", "toy-offence", "toy-topics"), ("badwords", "addsent", "synbkd")
MEASURED = ("asr", "asr_never_poisoned", "cacc", "pacc", "delta_pacc")
CELLS: list[Cell] = [
    *((toy, "none", seed, 0.0) for toy in TOYS for seed in (3, 4, 5, 6)),
    *((toy, attack, 3, 0.2) for toy in TOYS for attack in ATTACKS),
    *((toy, attack, 4, 0.05) for toy in TOYS for attack in ATTACKS),
    *((toy, "badwords", 6, 0.01) for toy in TOYS),
]
# with `profile="survey"`: real data, a small encoder
REAL_CELLS: list[Cell] = [
    ("sst2", "none", 0, 0.0),
    ("sst2", "synbkd", 0, 0.2),
    ("sst2", "badwords", 0, 0.05),
    ("olid", "none", 0, 0.0),
    ("olid", "badwords", 0, 0.1),
    ("sst2", "addsent", 0, 0.1),
]


def open_cell(cell: Cell, profile: str = "quick") -> Run:
    dataset, attack, seed, rate = cell
    own = {"attack.poison_rate": rate} if rate else None
    return load_profile(profile).run(dataset, attack, seed, own)


def export_cell(cell: Cell, folder: Path, profile: str = "quick") -> dict[str, str]:
    """A cell's victim and rows as others would have them: a folder that transformers wrote, and
    CSV files. Returns purify's arguments: model, train, clean, test and triggered_test."""
    run = open_cell(cell, profile)
    ensure(run, "victim")
    victim = read_model(run, "victim")
    names = dict(enumerate(victim.label_names))
    victim.model.config.id2label = names
    victim.model.config.label2id = {name: label for label, name in names.items()}
    files = {"model": folder / "model"}
    victim.model.save_pretrained(files["model"])
    victim.tokenizer.save_pretrained(files["model"])
    truth, data = read_truth(run), run.folder("data")
    tables = {
        "train": pd.read_parquet(data / "train.parquet"),
        "clean": pd.read_parquet(data / "clean_pool.parquet"),
        "test": truth.test_clean,
        "triggered_test": pd.concat([truth.test_triggered, truth.test_triggered_target]),
    }
    for name, table in tables.items():
        if len(table):
            files[name] = folder / f"{name}.csv"
            own = pd.DataFrame({"text": table.text, "label": table.label.map(names)})
            own.to_csv(files[name], index=False)
    return {name: str(path) for name, path in files.items()}


def judge_cell(cell: Cell, profile: str = "quick") -> dict:
    """One cell's verdict beside the truth, and ASR, CACC and PACC after it, of a model that saw
    neither test nor truth."""
    run = open_cell(cell, profile)
    with tempfile.TemporaryDirectory() as folder:
        files = export_cell(cell, Path(folder), profile)
        names = ("model", "train", "clean")
        purified = purify(*(files[n] for n in names[:1]), **{n: files[n] for n in names[1:]})
    record, victim = ensure(run, "data"), ensure(run, "victim")
    verdict, truth = purified.verdict, read_truth(run).without(purified.learnt)
    is_poisoned = run.config.attack.name != "none"
    predicted = {n: purified.classifier.predict(list(t.text)) for n, t in truth.tests.items()}
    after = truth.score(predicted)
    if is_poisoned:
        ensure(run, "never_poisoned")
        after = compare(run, truth, after)
    dataset, attack, seed, rate = cell
    return {
        **{"dataset": dataset, "attack": attack, "seed": seed, "poison_rate": rate},
        "model": run.config.victim.model,
        "answer": verdict.answer,
        "is_right": verdict.answer == (FOUND if is_poisoned else NOTHING)
        and (not is_poisoned or verdict.label == record["target_label"]),
        "witnesses": list(verdict.witnesses),
        "triggers": [trigger.words for trigger, spread in verdict.triggers if spread.is_suspicious],
        **{f"victim_{name}": victim[name] for name in ("asr", "cacc")},
        **{name: after.get(name) for name in MEASURED},
        **{"n_flagged": len(purified.flagged), "seconds": purified.facts["seconds"]},
        **{"reasons": list(verdict.reasons), "commit": environment()["commit"]},
    }


def judge_cells(cells: Iterable[Cell], profile: str = "quick", kept: Path | None = None):
    """A row a cell (see `judge_cell`). `kept`: a JSON Lines file, to which each is added when it is
    done; cells that are there are not judged again."""
    rows = []
    if kept and kept.exists():
        rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    names = ("dataset", "attack", "seed", "poison_rate")
    done = {tuple(row[name] for name in names): row for row in rows}
    for cell in map(tuple, cells):
        if cell not in done:
            done[cell] = judge_cell(cell, profile)
            if kept:
                with kept.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(done[cell], ensure_ascii=False) + "\n")
    return pd.DataFrame([done[tuple(cell)] for cell in cells])
