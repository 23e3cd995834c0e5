"""What the notebooks show of one run. Reads the truth; nothing here goes back to a defence."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd

from bedkd.defences import finetune, imbert, onion
from bedkd.defences.interface import EquippedView
from bedkd.defences.language.word_scores import leave_one_out
from bedkd.evaluation.metrics import percent
from bedkd.evaluation.watchers import watch_metrics
from bedkd.method.dmm import reading_epochs
from bedkd.method.mepd import mepd, select_poison_few
from bedkd.method.triggers import MIN_FLIPS
from bedkd.report.layouts import ABLATION_NAMES, DEFENCE_NAMES, NAMES
from bedkd.report.loading import load_scores
from bedkd.runs.ensure import ensure, load_truth, load_view
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_model
from bedkd.runs.stages.dmm import read_path
from bedkd.runs.stages.onion import read_scorer
from bedkd.runs.stages.predictions import load_tests

COSTS = ("seconds", "seconds_inference", "peak_memory_mb", "device", "precision", "threads")
RATES = ("asr", "cacc", "pacc", "lfr_target")
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
        rows[selection] = len(few), percent(chosen.is_poisoned), percent(is_relabelled)
    columns = ["rows", "purity (%)", "relabelled (%)"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def compare_scores(run: Run, n: int) -> pd.DataFrame:
    """What parts poisoned from clean rows of D*: the first DMM's MEPD at each epoch that was kept,
    their mean over epochs and DMMs, and the p-values along the path.

    Columns: AUC (percent), and the purity (percent) of the `n` lowest rows on which the victim
    agrees with the given label. `run`: with several folds.
    """
    from sklearn.metrics import roc_auc_score  # of the notebooks, one alone asks for it

    view, truth = load_view(run), load_truth(run).train
    ensure(run, "mepd")
    path, c = read_path(run), run.config.dmm
    rows = path["rows"]
    labels = view.train.label.to_numpy()[rows]
    epochs = map("epoch {}".format, sorted(reading_epochs(c.epochs, c.n_readings)))
    first = mepd(view.victim_probabilities[rows], path["train"][0])  # [epochs, N]
    kept = load_scores(run, "train").reset_index(drop=True)
    scores = pd.DataFrame(dict(zip(epochs, first, strict=True)))
    scores = scores.assign(**{"mean of the path": kept.mepd, "p-values along the path": kept.p})
    is_poisoned = truth.is_poisoned.to_numpy()[rows]
    is_agreed = view.victim_probabilities[rows].argmax(axis=1) == labels

    def judge(score: pd.Series) -> dict:
        lowest = score[is_agreed].nsmallest(n).index
        auc = 100 * roc_auc_score(is_poisoned, -score) if is_poisoned.any() else np.nan
        return {"AUC": auc, f"purity of the lowest {n}": percent(is_poisoned[lowest])}

    return scores.apply(judge, result_type="expand").T


def load_triggers(run: Run) -> pd.DataFrame:
    """What counter-poison tried out: piece (one of `n_pieces`), found and clean rows that have it,
    clean rows of other labels that it turns (percent), and whether it counts as a trigger."""
    ensure(run, "akd")
    tried = json.loads((run.folder("akd") / "triggers.json").read_text())
    tried = pd.DataFrame(tried, columns=["kind", "words", "pieces", "n_found", "n_clean", "flips"])
    pieces = tried.pop("pieces").str
    tried.insert(2, "example", pieces[0])
    tried.insert(3, "n_pieces", pieces.len())
    return tried.assign(is_trigger=tried.flips >= MIN_FLIPS)


def compare_records(records: dict[str, dict]) -> pd.DataFrame:
    """ASR, CACC, PACC and the target class's LFR (percent) of each record."""
    rows = pd.DataFrame.from_dict(records, orient="index")[list(RATES)]
    return rows.astype(float).rename(columns=NAMES["metric"])


def compare_methods(runs: dict[str, Run]) -> pd.DataFrame:
    """`compare_records` of the victim, of the clean model of each run, and of the model that never
    saw poison."""
    first = next(iter(runs.values()))
    found = {"No defence": ensure(first, "victim")}
    found |= {name: ensure(run, "akd") for name, run in runs.items()}
    if first.config.attack.name != "none":
        found["Never poisoned"] = ensure(first, "never_poisoned")
    return compare_records(found)


def compare_parts(run: Run, beyond: dict[str, Run]) -> pd.DataFrame:
    """`compare_records` of the victim, of BeDKD's parts and of BeDKD, and of the runs `beyond` it
    by `RunConfig.method`; makes what is not there."""
    titles = {"none": DEFENCE_NAMES["none"]} | ABLATION_NAMES
    made_by = {name: (run, name) for name in titles} | {"none": (run, "victim")}
    made_by |= {name: (own, "akd") for name, own in ({"bedkd": run} | beyond).items()}
    return compare_records({title: ensure(*made_by[name]) for name, title in titles.items()})


def compare_predictions(runs: dict[str, Run], n: int, *, stage: str = "akd") -> pd.DataFrame:
    """Some triggered test rows (clean ones without an attack) of one cell: what a defence takes out
    of the text, the true label, and what the victim and the `stage` of each run say."""
    first = next(iter(runs.values()))
    truth = load_truth(first)
    kind = "clean" if truth.test_triggered.empty else "triggered"
    rows, names = truth.tests[kind].reset_index(drop=True), np.array(truth.label_names)
    rows = rows.sample(min(n, len(rows)), random_state=first.config.seed)
    for run in runs.values():
        ensure(run, stage)
    table = {"text": rows.text.to_numpy()}
    if stage in TAKEN_OUT:
        table["taken out"] = TAKEN_OUT[stage](first, list(rows.text))
    table["true"] = names[rows.label]
    models = {"victim": (first, "victim")} | {name: (run, stage) for name, run in runs.items()}
    for name, (run, made) in models.items():
        predicted = load_tests(run.folder(made))[kind].argmax(axis=1)
        table[name] = names[predicted[rows.index]]
    return pd.DataFrame(table)


def list_facts(victim: dict, defences: list[dict]) -> list[str]:
    """The fields of defences' records that the victim's has not: what each used and chose; then
    what it cost."""
    own = [name for record in defences for name in record if name not in victim]
    return [*dict.fromkeys(name for name in own if name not in COSTS), *COSTS]


def taken_by_onion(run: Run, texts: list[str]) -> list[str]:
    threshold = run.record("onion")["threshold"]
    scores = leave_one_out(read_scorer(run), texts)
    pairs = zip(texts, scores, strict=True)
    return [" ".join(onion.removed_words(text, row, threshold)) for text, row in pairs]


def taken_by_imbert(run: Run, texts: list[str]) -> list[str]:
    config = replace(run.config.imbert, max_score=run.record("imbert").get("max_score"))
    pieces = imbert.show_removal(read_model(run, "victim"), texts, config)
    taken = pieces[pieces.is_removed].groupby("row").piece.agg(" ".join)
    return list(taken.reindex(range(len(texts)), fill_value=""))


TAKEN_OUT = {"onion": taken_by_onion, "imbert": taken_by_imbert}


def finetune_curve(run: Run, learning_rates: list[float]) -> pd.DataFrame:
    """ASR and CACC after each epoch of fine-tuning: learning rate (a text), epoch, asr, cacc."""
    view, truth, c = load_view(run), load_truth(run), run.config
    equipped = EquippedView(**vars(view))
    watch = watch_metrics(view.victim, truth, 1, c.finetune.epochs)
    parts = []
    for rate in learning_rates:
        config = replace(c.finetune, learning_rate=rate)
        defended = finetune.defend(equipped, config, seed=c.seed, watch=watch)
        parts.append(pd.DataFrame(defended.history).assign(**{"learning rate": f"{rate:.0e}"}))
    return pd.concat(parts, ignore_index=True)


def compare_neighbours(record: dict) -> pd.DataFrame:
    """Poisoned rows among clean rows of their true class (percent), before and after BeDKD."""
    kinds = {"neighbours_true": "other than the target", "neighbours_true_target": "the target"}
    columns = {m: [record[f"{name}_{m}"] for name in kinds] for m in ("before", "after")}
    return pd.DataFrame(columns, pd.Index(kinds.values(), name="true class"), dtype=float)


def count_predictions(points: pd.DataFrame, label_names: list[str]) -> pd.DataFrame:
    """Rows drawn for t-SNE: by kind and true class (down), model and prediction (across)."""
    names = dict(enumerate(label_names))
    true, predicted = points.label.map(names), points.predicted.map(names)
    rows = [points.kind, true.fillna("unknown").rename("true class")]
    return pd.crosstab(rows, [points.model, predicted])[["before", "after"]]
