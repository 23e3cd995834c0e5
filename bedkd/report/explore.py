"""What there is to explore: finished runs, and what may be asked of one. Values, and no widget.

Reads the truth; nothing here goes back to a defence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.config import MEPDConfig, build
from bedkd.core.errors import BedkdError
from bedkd.data.attacks import BADWORDS
from bedkd.data.readers import DatasetSpec, get_spec
from bedkd.data.syntax_rules import rewrite_syntactic
from bedkd.evaluation.metrics import far, frr, percent
from bedkd.method.mepd import AUTO_LEVEL, select_poison_few
from bedkd.nn.classifier import Classifier
from bedkd.report.layouts import name_method
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run
from bedkd.runs.profiles import nest
from bedkd.runs.records import read_record

KINDS = ("all", "false accepts", "false rejects")  # a poisoned row that passes, a flagged clean one
PROBED = 100  # words of a text that are left out, one at a time
PLACES = {"front": 0, "middle": 0.5, "end": 1}
SYNTAX = "(its syntax, by rule)"


@dataclass(frozen=True)
class Found:
    """A result in the outputs folder: the run that it is of, or why it cannot be opened."""

    label: str
    run: Run | None
    problem: str = ""


def find_runs(root: Path) -> list[Found]:
    """AKD's results under `root`, and MEPD's that have none; those that can be opened first."""
    found, seen = [], set()
    for stage in ("akd", "mepd"):
        folders = (root / "runs" / stage).glob("[!.]*")
        for folder in sorted(set(folders) - seen, key=lambda folder: folder.stat().st_mtime):
            found.append(open_result(root, stage, folder))
            seen |= {found[-1].run.folder("mepd")} if found[-1].run else set()
    # of equals the oldest first: a sweep's come after the run that it varies
    return sorted(found, key=lambda f: (f.run is None, f.label.rpartition(" · ")[0]))


def open_result(root: Path, stage: str, folder: Path) -> Found:
    """By its key: a result that other code, libraries or devices made is named, and no more."""
    record = read_record(folder)
    if record is None:
        return Found(f"{folder.name}: not finished", None, "This run was never finished.")
    try:
        run = Run(build(nest(record.get("config") or {})), root)
        if run.folder(stage) != folder:
            raise BedkdError("Other code, libraries or devices made this run than are here now.")
        need(run, stage)
    except BedkdError as error:
        return Found(f"{folder.name}: cannot be opened", None, str(error))
    name = name_run(run) + f" · seed {run.config.seed}" + " (no AKD yet)" * (stage == "mepd")
    return Found(f"{name} · {run.key(stage)[:6]}", run)


def name_run(run: Run) -> str:
    c = run.config
    return f"{Path(c.data.name).stem} · {c.attack.name} · {name_method(c.method)}"


def need(run: Run, *stages: str) -> None:
    """Raises BedkdError: one of them is not finished, or not whole any more."""
    for stage in stages:
        if not run.record(stage):
            raise BedkdError(
                f"The stage {stage} of this run is not finished, or files of it are gone: "
                f'ensure(run, "{stage}") makes it.'
            )


def find_or_make(runs: Sequence[Run]) -> list[Found]:
    """All runs beside these; where none can be opened, these are made first."""
    root = runs[0].root
    found = find_runs(root)
    if any(one.run for one in found):
        return found
    print(f"no finished run in {root}: making one, in a minute or two with `quick`")
    for run in runs:
        ensure(run, "akd")
    return find_runs(root)


@dataclass
class Threshold:
    """What a threshold on the scores of D* does.

    train: text, label; truth: is_poisoned, clean_text; scores [N] (NaN: not scored): MEPD, or the
    p-values of `gamma: auto`; probabilities [N, C]: the victim's.
    """

    train: pd.DataFrame
    truth: pd.DataFrame
    scores: np.ndarray
    probabilities: np.ndarray
    config: MEPDConfig
    seed: int

    def __post_init__(self):
        self.is_poisoned = self.truth.is_poisoned.to_numpy()
        self.scored = np.flatnonzero(~np.isnan(self.scores))

    def at(self, gamma: float) -> dict:
        """FAR, FRR and purity of D_p^few* (percent; None: no such row), flagged and chosen rows."""
        scored = self.scores[self.scored], self.is_poisoned[self.scored], gamma
        few = self.choose(gamma)
        return {
            "FAR (%)": far(*scored),
            "FRR (%)": frr(*scored),
            "rows flagged": int((scored[0] < gamma).sum()),
            "rows chosen": len(few),
            "their purity (%)": percent(self.is_poisoned[few]),
        }

    def choose(self, gamma: float) -> np.ndarray:
        """D_p^few*, as row numbers, by the run's own rule under this threshold."""
        config, scores = self.config, self.scores
        if config.gamma == "auto":  # the rule's threshold is AUTO_LEVEL: the scores give way
            scores = scores * (AUTO_LEVEL / gamma)
        else:
            config = replace(config, gamma=gamma)
        given = (self.train, scores, self.probabilities, config)
        return select_poison_few(*given, seed=self.seed).row.to_numpy()

    def nearest(self, gamma: float, kind: str, n: int) -> pd.DataFrame:
        """At most n rows nearest the threshold, of one of KINDS: text, label, is_poisoned,
        clean_text, score."""
        rows = self.scored
        if kind != "all":
            is_kind = self.is_poisoned[rows] == (kind == "false accepts")
            is_wrong = self.is_poisoned[rows] != (self.scores[rows] < gamma)
            rows = rows[is_kind & is_wrong]
        rows = rows[np.argsort(np.abs(self.scores[rows] - gamma), kind="stable")[:n]]
        truth = self.truth.iloc[rows][["is_poisoned", "clean_text"]]
        return self.train.iloc[rows].join(truth).assign(score=self.scores[rows])


def open_threshold(run: Run, score: str) -> Threshold:
    """`score`: mepd, or with `gamma: auto` p. Raises BedkdError: a stage is not there."""
    need(run, "data", "victim", "mepd")
    data = run.folder("data")
    train, truth = (pd.read_parquet(data / f"{name}train.parquet") for name in ("", "truth/"))
    scores = pd.read_parquet(run.folder("mepd") / "train.parquet")[score].to_numpy()
    probabilities = np.load(run.folder("victim") / "train_probabilities.npy")
    return Threshold(train, truth, scores, probabilities, run.config.mepd, run.config.seed)


def list_scores(run: Run) -> list[str]:
    """The deciding one first."""
    return ["p", "mepd"] if run.config.mepd.gamma == "auto" else ["mepd"]


def list_gammas(run: Run, score: str) -> dict[str, float]:
    """Thresholds worth a look: the run's own; of BeDKD+'s MEPD, which has none, the one that clean
    rows suggest: AUTO_LEVEL of D_c^few are under it, each under the DMM that did not see it."""
    if run.config.mepd.gamma != "auto":
        return {"the run's own": run.config.mepd.gamma}
    if score == "p":
        return {"the run's own": AUTO_LEVEL}
    clean = pd.read_parquet(run.folder("mepd") / "clean.parquet").mepd
    return {"clean rows suggest": max(0.001, round(float(clean.quantile(AUTO_LEVEL)), 3))}


def read_moment(history: pd.DataFrame, epoch: int, names: Iterable[str]) -> dict[str, tuple]:
    """Each number as last read by this epoch, with the epoch of its reading; None: not yet."""
    past, found = history[history.epoch <= epoch], {}
    for name in names:
        known = past.dropna(subset=[name]) if name in past else past[:0]
        found[name] = tuple(known[[name, "epoch"]].iloc[-1]) if len(known) else (None, None)
    return found


def find_pair(found: Iterable[Found], run: Run) -> list[Run]:
    """BeDKD and BeDKD+ of the cell of `run`: itself where it is one, or where there is none."""
    cell = [run, *(other.run for other in found if other.run)]
    parts = ("data", "attack", "victim", "seed")
    same = [r for r in cell if all(getattr(r.config, p) == getattr(run.config, p) for p in parts)]
    methods = ("bedkd", "bedkd_plus")
    return [next((r for r in same if r.config.method == name), run) for name in methods]


def occlude(classifier: Classifier, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a text [C], and by how much that of the answer drops when each of its
    first PROBED words is left out [W]."""
    words = text.split()
    probed = range(min(PROBED, len(words)))
    left = [" ".join(words[:i] + words[i + 1 :]) for i in probed]
    whole, *parts = classifier.predict([" ".join(words), *left])
    return whole, np.array([whole.max() - part[whole.argmax()] for part in parts])


def list_triggers(run: Run) -> list[str]:
    """What the run's attack puts into a text."""
    c = run.config
    sentence = c.attack.trigger or (get_spec(c.data) or DatasetSpec).addsent_trigger
    known = {"badwords": list(BADWORDS), "addsent": [sentence], "synbkd": [SYNTAX]}
    return known.get(c.attack.name, [])


def insert_trigger(text: str, trigger: str, place: str) -> str:
    """The text with a trigger (empty: none) at one of PLACES; rewritten, if it is SYNTAX."""
    if trigger == SYNTAX:
        return rewrite_syntactic(text) or text
    words = text.split()
    at = int(PLACES[place] * len(words))
    return " ".join([*words[:at], *trigger.split(), *words[at:]])
