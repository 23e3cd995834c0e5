"""BeDKD's clean model CM; ASR and CACC are read on the way, and steer nothing."""

import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from bedkd.core.config import RunConfig
from bedkd.core.files import write_json
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.sides import DefenderView
from bedkd.evaluation.watchers import Watched, reading_interval, watch_metrics
from bedkd.method.akd import distill_clean_model
from bedkd.method.counter import Carriers, find_carriers
from bedkd.method.evidence import Evidence, Suspect, gather_evidence, leaning_label
from bedkd.method.mepd import Lean
from bedkd.method.prior import match_prior
from bedkd.nn.classifier import Classifier, save_classifier
from bedkd.runs.folders import Run
from bedkd.runs.reading import data_fields, read_truth, read_view
from bedkd.runs.stages.never_poisoned import compare
from bedkd.runs.stages.predictions import predict_tests

DETECTION_FIELDS = (
    *("far_train", "frr_train", "far_test", "frr_test"),
    *("n_flagged", "n_selected", "poison_few_purity"),
)
LEAN_FIELDS = ("lean_label", "lean_share", "lean_others", "lean_chance", "lean_is_suspicious")


def make(run: Run, stage: str, folder: Path) -> dict:
    """Leaves CM, its history and, with counter-poison, triggers.json: what was tried out."""
    view, c = read_view(run), run.config
    start = 0 if c.akd.is_clean_shared else c.dmm.n_clean_per_class
    few = draw_clean_few(view.clean_pool, c.akd.n_clean_per_class, start)
    poison_few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    found = run.record("mepd")
    started = time.perf_counter()
    evidence = weigh(run, view, few, poison_few)
    carriers = draw_taught(view, few, evidence, c)
    seconds_counter = time.perf_counter() - started
    poison_few = evidence.poison_few
    learnt = poison_few.row if carriers is None else [*poison_few.row, *carriers.rows.row]
    truth = read_truth(run).without(learnt)
    trained = [few] * (1 + c.akd.n_counter) + [poison_few]
    every = reading_interval(truth, trained, c.akd.evaluate_every)
    watch = Watched(watch_metrics(view.victim, truth, every, c.akd.cycles))
    own = {"defence": c.method, "n_clean": len(few), "n_poison": len(poison_few)}
    if c.akd.n_counter:
        own |= keep_triggers(folder, evidence) | {"seconds_counter": seconds_counter}
        own["n_taught"] = 0 if carriers is None else len(carriers.rows)
    started = time.perf_counter()
    clean, history = erase(view, few, evidence, carriers, c, watch)
    seconds = seconds_counter + time.perf_counter() - started - watch.seconds
    save_classifier(clean, folder / "model", {"base": c.victim.model, "role": "clean model"})
    write_json(folder / "history.json", history)
    if c.akd.n_counter:
        own["n_cycles"] = history[-1]["epoch"]
    predicted = predict_tests(folder, clean.predict, truth)
    evaluation = compare(run, truth, truth.score(predicted))
    names = DETECTION_FIELDS + LEAN_FIELDS * ("lean_label" in found)
    detection = {name: found[name] for name in names}
    times = defence_seconds(run, seconds) | {"seconds_watching": watch.seconds}
    return data_fields(run) | own | evaluation | detection | times


def erase(
    view: DefenderView,
    few: pd.DataFrame,
    found: Evidence,
    carriers: Carriers | None,
    config: RunConfig,
    watch: Watched,
) -> tuple[Classifier, list[dict]]:
    """CM and its history; the victim as it is where BeDKD+ found nothing to erase. Where it rebuilt
    triggers, CM gives each label as often as the victim, and the last reading is of that."""
    if config.mepd.gamma == "auto" and found.poison_few.empty:
        return view.victim, [{"epoch": 0, "seconds": 0.0} | watch({"epoch": 0}, view.victim.model)]
    rows, triggers = (few, found.poison_few), found.triggers
    options = {"seed": config.seed, "watch": watch, "carriers": carriers, "triggers": triggers}
    clean, history = distill_clean_model(view.victim, *rows, config.akd, **options)
    if triggers:
        match_prior(clean, view.victim, view.train, triggers, seed=config.seed)
        history[-1] |= watch({"epoch": 0}, clean.model)  # which is always read
    return clean, history


def draw_taught(
    view: DefenderView, few: pd.DataFrame, found: Evidence, config: RunConfig
) -> Carriers | None:
    """The rows of D* that AKD learns from with the answers of its student; None without triggers.
    What is said of them says nothing of others, so they are in no test set of this run."""
    if not found.triggers or not config.akd.n_counter:
        return None
    label, n_rows = leaning_label(found.poison_few), config.akd.n_counter * len(few)
    return find_carriers(view.train, found.triggers, label, n_rows, seed=config.seed)


def keep_triggers(folder: Path, found: Evidence) -> dict:
    """What the record says of the triggers that were rebuilt; none where nothing is erased."""
    write_json(folder / "triggers.json", [asdict(candidate) for candidate in found.tried])
    return {
        "triggers": [candidate.words for candidate in found.triggers],
        "trigger_chance": min((spread.chance for _, spread in found.pairs), default=None),
        "witnesses": list(found.witnesses),
    }


def weigh(run: Run, view: DefenderView, few: pd.DataFrame, poison_few: pd.DataFrame) -> Evidence:
    c, record = run.config, run.record("mepd")
    scores = pd.read_parquet(run.folder("mepd") / "train.parquet").iloc[:, -1].to_numpy()
    suspect = Suspect(view.victim, view.train, scores, view.victim_probabilities, few, c.seed)
    lean = None
    if "lean_label" in record:
        lean = Lean(*(record[f"lean_{name}"] for name in ("label", "share", "others", "chance")))
    is_counter = c.akd.n_counter > 0
    return gather_evidence(suspect, poison_few, lean, c.mepd, with_triggers=is_counter)


def defence_seconds(run: Run, seconds_akd: float) -> dict:
    """BeDKD's seconds: DMM, both models' passes over D*, the choice of rows, AKD."""
    victim, dmm, mepd = (run.record(name) for name in ("victim", "dmm", "mepd"))
    times = {
        "seconds_dmm": dmm["seconds"],
        "seconds_scoring": sum(part["seconds_scoring"] for part in (victim, dmm, mepd))
        + mepd["seconds"],
        "seconds_akd": seconds_akd,
    }
    return times | {"seconds": sum(times.values())}
