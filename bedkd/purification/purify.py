"""Bring your own model: is it backdoored, and a clean one back.

The steps are the functions of `method/` that the paper's reproduction runs, too.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.config import RunConfig, build
from bedkd.core.devices import pick_compute
from bedkd.core.errors import BedkdError
from bedkd.evaluation import metrics
from bedkd.nn.classifier import Classifier
from bedkd.purification.detection import RATES, Detection, detect, predict_chunks
from bedkd.purification.erasing import count_turned, erase
from bedkd.purification.inputs import check_pair, read_rows
from bedkd.purification.models import adopt, check_memory, load_model
from bedkd.purification.origin import describe_model, describe_rows
from bedkd.purification.result import Purified
from bedkd.purification.verdict import Verdict, judge, list_flagged
from bedkd.runs.nested import merge, nest
from bedkd.runs.profiles import PLUS

METHODS = {"bedkd_plus": PLUS, "bedkd": {}}
SECTIONS = ("dmm", "mepd", "akd")
N_SCORED = 4000  # rows of D* under the DMMs; in the others only a trigger shows
MIN_HELD_OUT = 50  # trusted rows beyond those that are used; with fewer, those are measured on


def purify(
    model,
    tokenizer=None,
    train=None,
    clean=None,
    *,
    test=None,
    triggered_test=None,
    method: str = "bedkd_plus",
    settings: dict | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    text_column: str | None = None,
    label_column: str | None = None,
    allow_pickle: bool = False,
    max_length: int | None = None,
) -> Purified:
    """A verdict on a sequence classifier and, if a backdoor is found, a clean one.

    model: a transformers model, with its tokenizer, or a folder or hub id. train: the rows that it
    was trained on; clean: rows that are trusted, 40 of each label at least, better 320. test: clean
    rows, triggered_test: rows with the trigger and their true labels; both are only measured on.
    Each is a DataFrame, a `datasets.Dataset`, a pair (texts, labels), a file, or a hub id
    (owner/name, or owner/name:split). Labels: the model's ids or names.

    method: `bedkd_plus`, or `bedkd` as printed, which has no verdict and always erases. settings:
    `section.name` to a value, of the sections dmm, mepd and akd (`core.config`). max_length: in
    tokens; None: the model's own limit, up to 512. allow_pickle: load weights that are no
    safetensors.

    Raises BedkdError: bad input, or a model that does not fit into memory.
    """
    started = time.perf_counter()
    settings = dict(settings or {})
    config = make_config(method, settings, seed, device, precision)
    compute = pick_compute(config.device, config.precision)
    if isinstance(model, str | Path):
        victim = load_model(model, compute, allow_pickle=allow_pickle, max_length=max_length)
    else:
        victim = adopt(model, tokenizer, compute, max_length=max_length)
    sources = {"train": train, "clean": clean, "test": test, "triggered_test": triggered_test}
    rows = {
        name: read_rows(
            source, victim.label_names, name, text_column=text_column, label_column=label_column
        )
        for name, source in sources.items()
        if source is not None or name in ("train", "clean")
    }
    tables = check_pair(rows["train"], rows["clean"], len(victim.label_names))
    check_memory(victim, n_copies=1 + config.dmm.n_folds)
    few, held_out = split_trusted(tables.clean, config)
    found = detect(victim, tables.train, few, config, pick_rates(settings, "dmm"))
    verdict = judge(found, tables.train, victim.label_names)
    student, tries, learnt = victim, [], np.empty(0, dtype=int)
    if verdict.is_found or method == "bedkd":
        student, tries, learnt = erase(victim, tables.train, found, pick_rates(settings, "akd"))
    tests = {name: rows[name] for name in ("test", "triggered_test") if name in rows}
    facts = {
        "method": method,
        "model": describe_model(model),
        "rows": {name: describe_rows(sources[name], table) for name, table in rows.items()},
        "notes": list(tables.notes),
        "n_trusted": len(few),
        "settings": list_settings(found.config, tries),
        "tries": tries,
        "device": compute.device.type,
        "max_length": victim.max_length,
        "seconds": time.perf_counter() - started,
    }
    measured = measure(victim, student, found, verdict, held_out, tables.train, tests)
    flagged = list_flagged(found, tables.train, verdict)
    scores = found.scores.assign(label=tables.train.label).dropna()
    return Purified(student, verdict, flagged, scores, learnt, measured, facts)


def make_config(method: str, settings: dict, seed: int, device: str, precision: str) -> RunConfig:
    """Raises BedkdError: an unknown method or parameter, or a value out of range."""
    if method not in METHODS:
        raise BedkdError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if unknown := [name for name in settings if name.split(".")[0] not in SECTIONS]:
        raise BedkdError(
            f"{unknown[0]} is no setting of purify; its sections are {', '.join(SECTIONS)}, such "
            "as akd.cycles"
        )
    own = {"seed": seed, "device": device, "precision": precision}
    base = merge(METHODS[method], {"dmm": {"n_scored": N_SCORED}}) if METHODS[method] else {}
    return build(merge(merge(base, nest(settings)), own))


def pick_rates(settings: dict, section: str) -> tuple[float, ...]:
    """The learning rates to be tried in turn: the one that is set, or RATES."""
    given = settings.get(f"{section}.learning_rate")
    return RATES if given is None else (float(given),)


def split_trusted(clean: pd.DataFrame, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """D_c^few, at most n_c random rows of each label, and what is left over."""
    order = np.random.default_rng([config.seed, 60]).permutation(len(clean))
    mixed = clean.iloc[order]
    n = max(config.dmm.n_clean_per_class, config.akd.n_clean_per_class)
    few = mixed.groupby("label").head(n).sort_values("label", kind="stable")
    return few.reset_index(drop=True), mixed.drop(index=few.index).reset_index(drop=True)


def measure(
    victim: Classifier,
    student: Classifier,
    found: Detection,
    verdict: Verdict,
    held_out: pd.DataFrame,
    train: pd.DataFrame,
    tests: dict[str, pd.DataFrame],
) -> dict[str, list[float | None]]:
    """[before, after], in percent, by a sentence that says of what."""
    is_held = len(held_out) >= MIN_HELD_OUT
    trusted = held_out if is_held else found.few
    kind = "trusted rows" if is_held else "trusted rows (those used)"
    both = (victim, student)
    measured = {f"accuracy on {kind}": [accuracy(model, trusted) for model in both]}
    if verdict.is_found and found.evidence.triggers:
        triggers, label, seed = found.evidence.triggers, verdict.label, found.config.seed
        measured[f"{kind} of other labels that a rebuilt trigger turns"] = [
            count_turned(model, trusted, triggers, label, seed) for model in both
        ]
    scored = np.flatnonzero(~np.isnan(found.deciding))
    if student is not victim:
        now = student.predict(list(train.text.iloc[scored])).argmax(axis=1)
        share = metrics.percent(now != found.victim[scored].argmax(axis=1))
        measured["training rows with another answer now"] = [None, share]
    if "test" in tests:
        measured["accuracy on test rows (CACC)"] = [accuracy(m, tests["test"]) for m in both]
    if "triggered_test" in tests:
        rows = tests["triggered_test"]
        measured["accuracy on triggered test rows (PACC)"] = [accuracy(m, rows) for m in both]
        if verdict.label is not None:
            others = rows[rows.label != verdict.label]
            measured["of other labels' triggered rows that have the leaning label (ASR)"] = [
                metrics.asr(model.predict(list(others.text)), verdict.label) for model in both
            ]
    return measured


def accuracy(model: Classifier, rows: pd.DataFrame) -> float | None:
    return metrics.cacc(predict_chunks(model, rows.text), rows.label)


def list_settings(config: RunConfig, tries: list[dict]) -> dict:
    """What was used, `section.name` to value."""
    used = {k: v for k, v in config.flat().items() if k.split(".")[0] in SECTIONS}
    for tried in tries:
        if tried["is_taken"]:
            used["akd.learning_rate"] = tried["learning_rate"]
    return used | {"seed": config.seed, "precision": config.precision}
