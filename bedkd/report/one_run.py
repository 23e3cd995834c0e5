"""What the notebooks show of one run. Reads the truth; nothing here goes back to a defence."""

from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.defences import finetune, imbert, onion
from bedkd.defences.interface import EquippedView
from bedkd.defences.language.word_scores import leave_one_out
from bedkd.evaluation.metrics import percent
from bedkd.evaluation.watchers import watch_metrics
from bedkd.method.mepd import select_poison_few
from bedkd.report.layouts import ABLATION_NAMES, DEFENCE_NAMES
from bedkd.runs.ensure import ensure, load_truth, load_view
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_model
from bedkd.runs.stages.language import read_language

# of a defence's record: what others have too, or what is shown elsewhere
SHARED_FIELDS = {
    *("stage", "key", "dataset", "attack", "model", "seed", "poison_rate", "label_mode", "config"),
    *("versions", "commit", "started_at", "files", "defence", "asr", "cacc", "target_label"),
}
SELECTIONS = ("file_order", "random", "lowest_mepd", "teacher_agreement")


def load_poisoned(run: Run) -> pd.DataFrame:
    """The poisoned rows of D*: text, label, clean_text, clean_label, method."""
    truth = load_truth(run).train
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    return train.join(truth)[truth.is_poisoned]


def load_poison_few(run: Run) -> pd.DataFrame:
    """D_p^few* with its truth: row, text, label, is_poisoned, clean_text, clean_label, method."""
    few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    return few.join(load_truth(run).train, on="row")


def compare_selections(run: Run) -> pd.DataFrame:
    """The rules of `mepd.selection` on the same scores: rows, purity and relabelled (percent)."""
    view, truth, c = load_view(run), load_truth(run).train, run.config
    ensure(run, "mepd")
    scores = pd.read_parquet(run.folder("mepd") / "train.parquet").mepd.to_numpy()
    rows = {}
    for selection in SELECTIONS:
        config = replace(c.mepd, selection=selection)
        few = select_poison_few(view.train, scores, view.victim_probabilities, config, seed=c.seed)
        chosen = truth.iloc[few.row]
        is_relabelled = chosen.is_poisoned & (chosen.clean_label != few.label.to_numpy())
        shares = {"purity (%)": chosen.is_poisoned, "relabelled (%)": is_relabelled}
        rows[selection] = {"rows": len(few)} | {k: percent(v) for k, v in shares.items()}
    return pd.DataFrame(rows).T


def compare_predictions(run: Run, n: int) -> pd.DataFrame:
    """Some triggered test rows: true label, the victim's and the clean model's prediction."""
    ensure(run, "akd")
    truth, seed = load_truth(run), run.config.seed
    names, some = np.array(truth.label_names), truth.test_triggered
    some = some.sample(min(n, len(some)), random_state=seed)
    table = {"text": some.text.to_numpy(), "true": names[some.label]}
    for column, stage in (("victim", "victim"), ("BeDKD", "akd")):
        predicted = read_model(run, stage).predict(list(some.text)).argmax(axis=1)
        table[column] = names[predicted]
    return pd.DataFrame(table)


def compare_parts(run: Run) -> pd.DataFrame:
    """ASR and CACC of the victim, of BeDKD's parts and of BeDKD; makes what is not there."""
    names = {"none": DEFENCE_NAMES["none"]} | ABLATION_NAMES
    stages = {"none": "victim", "bedkd": "akd"}  # of those whose stage has another name
    records = {name: ensure(run, stages.get(key, key)) for key, name in names.items()}
    rows = {name: {"ASR": r["asr"], "CACC": r["cacc"]} for name, r in records.items()}
    return pd.DataFrame(rows).T


def describe_points(points: list[tuple[object, Run]]) -> pd.DataFrame:
    """A sweep's finished points: the victim's and BeDKD's ASR and CACC, and how MEPD did."""
    shown = ("asr", "cacc", "far_train", "frr_train", "poison_few_purity", "seconds")
    rows = {}
    for value, run in points:
        victim, clean = run.record("victim"), run.record("akd")
        rows[value] = {"asr_victim": victim["asr"], "cacc_victim": victim["cacc"]}
        rows[value] |= {name: clean[name] for name in shown}
    return pd.DataFrame(rows).T.rename_axis("value")


def describe_defence(record: dict) -> pd.Series:
    """What a defence's record says of its own: what it used and chose, seconds, memory."""
    last = ("seconds", "seconds_inference", "peak_memory_mb", "device", "precision", "threads")
    own = [name for name in record if name not in SHARED_FIELDS and name not in last]
    return pd.Series({name: record[name] for name in (*own, *last)})


def show_defended(run: Run, defence: str, n: int) -> pd.DataFrame:
    """Some triggered test rows (clean ones without an attack): what is taken out of the text, the
    true label, the victim's prediction and the defended one."""
    ensure(run, defence)
    view, truth = load_view(run), load_truth(run)
    kind = "triggered" if len(truth.test_triggered) else "clean"
    rows, names = getattr(truth, f"test_{kind}").head(n), np.array(truth.label_names)
    after = np.load(run.folder(defence) / "test_probabilities.npz")[kind][:n].argmax(axis=1)
    before = view.victim.predict(list(rows.text)).argmax(axis=1)
    table = {"text": rows.text.to_numpy()}
    if defence in TAKEN_OUT:
        table["taken out"] = TAKEN_OUT[defence](run, view, list(rows.text))
    for column, labels in (("true", rows.label), ("victim", before), (defence, after)):
        table[column] = names[labels]
    return pd.DataFrame(table)


def taken_by_onion(run: Run, view, texts: list[str]) -> list[str]:
    threshold = run.record("onion")["threshold"]
    scores = leave_one_out(read_language(run), texts)
    pairs = zip(texts, scores, strict=True)
    return [" ".join(onion.removed_words(text, row, threshold)) for text, row in pairs]


def taken_by_imbert(run: Run, view, texts: list[str]) -> list[str]:
    config = replace(run.config.imbert, max_score=run.record("imbert").get("max_score"))
    pieces = imbert.show_removal(view.victim, texts, config)
    taken = pieces[pieces.is_removed].groupby("row").piece.agg(" ".join)
    return [taken.get(row, "") for row in range(len(texts))]


TAKEN_OUT = {"onion": taken_by_onion, "imbert": taken_by_imbert}


def finetune_curve(run: Run, learning_rates: list[float]) -> pd.DataFrame:
    """ASR and CACC after each epoch of fine-tuning: learning_rate, epoch, asr, cacc."""
    view, truth, c = load_view(run), load_truth(run), run.config
    equipped = EquippedView(**vars(view))
    watch = watch_metrics(view.victim, truth, 1, c.finetune.epochs)
    parts = []
    for rate in learning_rates:
        config = replace(c.finetune, learning_rate=rate)
        defended = finetune.defend(equipped, config, seed=c.seed, watch=watch)
        parts.append(pd.DataFrame(defended.history).assign(learning_rate=rate))
    return pd.concat(parts, ignore_index=True)
