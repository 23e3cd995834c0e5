"""How each stage is made: it reads what came before from its folder, and leaves a folder.

Files under `truth/` say which rows are poisoned: the defender's functions never see them, only
`metrics` does. A stage's key digests its own function here and the functions that this one calls.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.defence_config import CLEAN_SHARE, TextGuardConfig
from bedkd.core.files import write_json
from bedkd.core.hub import TINY_LM
from bedkd.data.attacks import poison
from bedkd.data.generated import TOY_TASKS, generate
from bedkd.data.readers import get_spec
from bedkd.data.splits import draw_clean_few, draw_clean_share, load_clean_data, subsample
from bedkd.defences.certificate import certified_accuracy
from bedkd.defences.interface import EquippedView
from bedkd.defences.language.model import (
    load_language_model,
    read_language_model,
    save_language_model,
    train_tiny_lm,
)
from bedkd.defences.proxies import load_proxy
from bedkd.defences.teacher import hidden_size, load_teacher, save_teacher, train_teacher
from bedkd.evaluation import metrics
from bedkd.evaluation.sides import Truth
from bedkd.evaluation.tsne import draw_rows, lay_out
from bedkd.evaluation.watchers import Watched, watch_mepd, watch_metrics
from bedkd.method.akd import distill_clean_model
from bedkd.method.dmm import distill_dmm
from bedkd.method.mepd import flag_poisoned, mepd, select_poison_few
from bedkd.nn.classifier import new_classifier, save_classifier, train_victim
from bedkd.runs.folders import ABLATIONS, RIVALS, STAGES, Run
from bedkd.runs.reading import compute_of, read_model, read_truth, read_view

SHARED_SEED = 900  # of what all cells share: no cell's seed, so none of its rows
LANGUAGE_ROWS = 2000  # generated texts of each task that the tiny language model reads


def make_data(run: Run, folder: Path) -> dict:
    """D*, the defender's clean rows, and the truth about both."""
    c = run.config
    data = load_clean_data(c.data, c.seed)
    poisoned = poison(data, c.attack, c.seed)
    (folder / "truth").mkdir()
    poisoned.train.to_parquet(folder / "train.parquet")
    poisoned.clean_pool.to_parquet(folder / "clean_pool.parquet")
    draw_clean_share(data.train, c.data, c.seed).to_parquet(folder / "clean_share.parquet")
    poisoned.train_truth.to_parquet(folder / "truth/train.parquet")
    poisoned.test_clean.to_parquet(folder / "truth/clean.parquet")
    poisoned.test_triggered.to_parquet(folder / "truth/triggered.parquet")
    counts = {
        "n_train": len(poisoned.train),
        "n_test": len(poisoned.test_clean),
        "n_test_triggered": len(poisoned.test_triggered),
    }
    return poisoned.report | counts | {"label_names": list(data.spec.label_names)}


def make_victim(run: Run, folder: Path) -> dict:
    """Train f_θ* on D*; keep its probabilities on D*, which every defence asks for."""
    truth, train = read_truth(run), pd.read_parquet(run.folder("data") / "train.parquet")
    c, compute = run.config, compute_of(run)
    started = time.perf_counter()
    victim, history = train_victim(train, truth.label_names, c.victim, compute=compute, seed=c.seed)
    seconds = time.perf_counter() - started
    save_classifier(victim, folder / "model", {"base": c.victim.model})
    np.save(folder / "train_probabilities.npy", victim.predict(list(train.text)))
    evaluation = score_tests(predict_tests(folder, victim.predict, truth), truth)
    write_json(folder / "history.json", history)
    return data_fields(run) | {"defence": "none", "seconds": seconds} | evaluation


def make_dmm(run: Run, folder: Path) -> dict:
    """Distil the DMM; keep its probabilities, so that any γ or selection costs no pass."""
    view, truth, c = read_view(run), read_truth(run), run.config
    few = draw_clean_few(view.clean_pool, c.dmm.n_clean_per_class)
    watch = Watched(watch_mepd(view, truth, c.seed))
    started = time.perf_counter()
    dmm, history = distill_dmm(view.victim, few, c.dmm, seed=c.seed, watch=watch)
    seconds = time.perf_counter() - started - watch.seconds
    started = time.perf_counter()
    np.save(folder / "train_probabilities.npy", dmm.predict(list(view.train.text)))
    scoring = time.perf_counter() - started
    save_classifier(dmm, folder / "model", {"base": c.victim.model, "role": "dmm"})
    predict_tests(folder, dmm.predict, truth)
    write_json(folder / "history.json", history)
    accuracy = history[-1]["flipped_accuracy"]
    return {"seconds": seconds, "seconds_scoring": scoring, "flipped_accuracy": accuracy}


def make_mepd(run: Run, folder: Path) -> dict:
    """Score D*, flag, and choose D_p^few*. Then, and only then, look at the truth."""
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    victim = np.load(run.folder("victim") / "train_probabilities.npy")
    started = time.perf_counter()
    scores = mepd(victim, np.load(run.folder("dmm") / "train_probabilities.npy"))
    c = run.config
    few = select_poison_few(train, scores, victim, c.mepd, seed=c.seed)
    seconds = time.perf_counter() - started
    pd.DataFrame({"mepd": scores}).to_parquet(folder / "train.parquet")
    few.to_parquet(folder / "poison_few.parquet")
    tests = read_test_scores(run)
    tests.to_parquet(folder / "test.parquet")
    found = detection_fields(read_truth(run), scores, tests, few, c.mepd.gamma)
    return {"seconds": seconds} | found


def make_akd(run: Run, folder: Path) -> dict:
    """Distil CM from the victim; ASR and CACC are read on the way, and steer nothing."""
    view, truth, c = read_view(run), read_truth(run), run.config
    start = 0 if c.akd.is_clean_shared else c.dmm.n_clean_per_class
    few = draw_clean_few(view.clean_pool, c.akd.n_clean_per_class, start)
    poison_few = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    watch = Watched(watch_metrics(view.victim, truth, c.akd.evaluate_every, c.akd.cycles))
    started = time.perf_counter()
    clean, history = distill_clean_model(
        view.victim, few, poison_few, c.akd, seed=c.seed, watch=watch
    )
    seconds = time.perf_counter() - started - watch.seconds
    save_classifier(clean, folder / "model", {"base": c.victim.model, "role": "clean model"})
    write_json(folder / "history.json", history)
    evaluation = {name: history[-1][name] for name in ("asr", "cacc")}
    times = {"seconds_dmm": run.record("dmm")["seconds"], "seconds_akd": seconds}
    times["seconds_scoring"] = run.record("dmm")["seconds_scoring"]
    own = {"defence": "bedkd", "n_clean": len(few), "n_poison": len(poison_few)}
    detection = {name: run.record("mepd")[name] for name in DETECTION_FIELDS}
    times["seconds"] = sum(times.values())
    return data_fields(run) | own | evaluation | detection | times


def make_tsne(run: Run, folder: Path) -> dict:
    """Figure 5: where the victim and the clean model put the same rows of D*. Steers nothing."""
    truth, c = read_truth(run), run.config
    train = pd.read_parquet(run.folder("data") / "train.parquet")
    # AKD drove these very rows away: what became of them says little of the others
    punished = pd.read_parquet(run.folder("mepd") / "poison_few.parquet").row
    rest = (train.drop(punished), truth.train.drop(punished))
    rows = draw_rows(*rest, c.tsne.n_per_kind, c.seed)
    panels, shares = [], {}
    for model, stage in (("before", "victim"), ("after", "akd")):
        classifier = read_model(run, stage)
        panel, found = lay_out(classifier, rows, truth.target_label, c.tsne, c.seed)
        panels.append(panel.assign(model=model))
        shares |= {f"{name}_{model}": share for name, share in found.items()}
    pd.concat(panels, ignore_index=True).to_parquet(folder / "tsne.parquet")
    counts = {f"n_{kind}_drawn": int((rows.kind == kind).sum()) for kind in ("clean", "poisoned")}
    return data_fields(run) | counts | shares


def make_language(run: Run, folder: Path) -> dict:
    """ONION's language model: the tiny one is trained here, any other only found."""
    c, compute = run.config.language, compute_of(run)
    if c.model != TINY_LM:
        load_language_model(c.model, c.max_length, compute)
        return {"language_model": c.model}
    texts = [text for task in TOY_TASKS for text in generate(task, LANGUAGE_ROWS, SHARED_SEED).text]
    language = train_tiny_lm(texts, config=c, compute=compute, seed=SHARED_SEED)
    save_language_model(language, folder / "model")
    return {"language_model": c.model, "n_train": len(texts)}


def make_teacher(run: Run, folder: Path) -> dict:
    """W2SDefense's teacher. It knows the proxy alone, so all attacks share it."""
    c = run.config
    names = read_label_names(run)
    proxy = read_proxy(run, names)
    width = hidden_size(c.victim.model)
    teacher, history = train_teacher(
        proxy, names, width, c.teacher, compute=compute_of(run), seed=SHARED_SEED
    )
    save_teacher(teacher, folder / "model")
    write_json(folder / "history.json", history)
    return {"teacher": c.teacher.model, "proxy": c.teacher.proxy, "n_proxy": len(proxy)}


def read_proxy(run: Run, label_names: tuple[str, ...]) -> pd.DataFrame:
    c = run.config
    if c.teacher.proxy == CLEAN_SHARE:
        rows = pd.read_parquet(run.folder("data") / "clean_share.parquet")
        return subsample(rows, c.teacher.n_proxy, np.random.default_rng([c.seed, 60]))
    return load_proxy(c.teacher, label_names, SHARED_SEED)


def read_label_names(run: Run) -> tuple[str, ...]:
    spec = get_spec(run.config.data)
    return tuple(spec.label_names if spec else run.record("data")["label_names"])


def make_defence(run: Run, folder: Path, stage: str) -> dict:
    """Any rival or ablation: defend, then measure what comes out on the tests."""
    spec, truth = STAGES[stage], read_truth(run)
    module = importlib.import_module(f"bedkd.{spec.modules[0]}")
    view = equip(run, stage)
    started = time.perf_counter()
    defended = module.defend(view, getattr(run.config, spec.sections[0]), seed=run.config.seed)
    times = {"seconds": time.perf_counter() - started}
    started = time.perf_counter()
    arrays = predict_tests(folder, defended.predict, truth)
    times["seconds_inference"] = time.perf_counter() - started
    if defended.model:
        save_classifier(defended.model, folder / "model", {"base": run.config.victim.model})
    write_json(folder / "history.json", defended.history)
    evaluation = score_tests(arrays, truth)
    if stage == "textguard" and run.config.textguard.mode == "certified":
        evaluation |= certify(arrays["clean"], truth.test_clean.label, run.config.textguard)
    return data_fields(run) | {"defence": stage} | evaluation | defended.facts | times


def certify(shares: np.ndarray, labels, config: TextGuardConfig) -> dict:
    """Certified accuracy with k groups corrupted, from TextGuard's shares of votes."""
    votes = np.rint(shares * config.n_groups).astype(int)
    return {f"certified_accuracy_{k}": v for k, v in certified_accuracy(votes, labels).items()}


def equip(run: Run, stage: str) -> EquippedView:
    """The defender's view, and what this defence brings along."""
    view, c = read_view(run), run.config
    more = {}
    if stage == "onion":
        more["language"] = read_language(run)
    if stage == "w2s":
        teacher = load_teacher(run.folder("teacher") / "model", compute_of(run))
        more |= {"teacher": teacher, "proxy": read_proxy(run, view.victim.label_names)}
    if STAGES[stage].upstream == "mepd":
        more["poison_few"] = pd.read_parquet(run.folder("mepd") / "poison_few.parquet")
    if stage == "textguard":
        names, texts = view.victim.label_names, list(view.train.text)
        more["fresh"] = partial(new_classifier, c.victim, texts, names, view.victim.compute)
    return EquippedView(**vars(view), **more)


def read_language(run: Run):
    c = run.config.language
    if c.model == TINY_LM:
        return read_language_model(run.folder("language") / "model", compute_of(run))
    return load_language_model(c.model, c.max_length, compute_of(run))


MAKERS: dict[str, Callable[[Run, Path], dict]] = {
    "data": make_data,
    "victim": make_victim,
    "dmm": make_dmm,
    "mepd": make_mepd,
    "akd": make_akd,
    "tsne": make_tsne,
    "language": make_language,
    "teacher": make_teacher,
    **{name: partial(make_defence, stage=name) for name in (*RIVALS, *ABLATIONS)},
}


DETECTION_FIELDS = (
    *("far_train", "frr_train", "far_test", "frr_test"),
    *("n_flagged", "n_selected", "poison_few_purity"),
)


def predict_tests(folder: Path, predict: Callable, truth: Truth) -> dict[str, np.ndarray]:
    """Class probabilities [N, C] of the test sets `clean` and `triggered`, kept in `folder` too."""
    tables = {"clean": truth.test_clean, "triggered": truth.test_triggered}
    arrays = {name: predict(list(rows.text)) for name, rows in tables.items()}
    np.savez(folder / "test_probabilities.npz", **arrays)
    return arrays


def score_tests(arrays: dict[str, np.ndarray], truth: Truth) -> dict:
    """ASR (None without an attack) and CACC in percent, from what `predict_tests` gave."""
    return {
        "asr": metrics.asr(arrays["triggered"], truth.target_label),
        "cacc": metrics.cacc(arrays["clean"], truth.test_clean.label),
    }


def read_test_scores(run: Run) -> pd.DataFrame:
    """MEPD of the test rows, on which the paper's Table 3 counts FAR and FRR."""
    stages = ("victim", "dmm")
    victim, dmm = (np.load(run.folder(s) / "test_probabilities.npz") for s in stages)
    parts = [
        pd.DataFrame({"mepd": mepd(victim[name], dmm[name]), "is_poisoned": name == "triggered"})
        for name in ("clean", "triggered")
    ]
    return pd.concat(parts, ignore_index=True)


def detection_fields(truth: Truth, scores, tests: pd.DataFrame, few: pd.DataFrame, gamma: float):
    is_poisoned = truth.train.is_poisoned.to_numpy()
    return {
        "far_train": metrics.far(scores, is_poisoned, gamma),
        "frr_train": metrics.frr(scores, is_poisoned, gamma),
        "far_test": metrics.far(tests.mepd, tests.is_poisoned, gamma),
        "frr_test": metrics.frr(tests.mepd, tests.is_poisoned, gamma),
        "n_flagged": int(flag_poisoned(scores, gamma).sum()),
        "n_selected": len(few),
        "poison_few_purity": metrics.percent(is_poisoned[few.row]),
    }


def data_fields(run: Run) -> dict:
    record = run.record("data")
    return {name: value for name, value in record.items() if name.startswith("n_")} | {
        "target_label": record["target_label"]
    }
