"""What `20_explore` asks of finished runs. Values, and no widget.

Reads the truth; nothing here goes back to a defence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bedkd.core.config import MEPDConfig, build
from bedkd.core.errors import BedkdError
from bedkd.evaluation.metrics import far, frr, percent
from bedkd.method.mepd import AUTO_LEVEL, select_poison_few
from bedkd.report.layouts import name_method
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run
from bedkd.runs.nested import nest
from bedkd.runs.records import read_record

KINDS = ("all", "false accepts", "false rejects")  # a poisoned row that passes, a flagged clean one
# a result in the outputs folder: its label, and its run, or in a sentence why it cannot be opened
Found = tuple[str, Run | str]


def find_runs(root: Path) -> list[Found]:
    """AKD's results under `root`, and MEPD's that have none; those that can be opened first."""
    found, seen = [], set()
    for stage in ("akd", "mepd"):
        folders = set((root / "runs" / stage).glob("[!.]*/")) - seen
        found += (
            open_result(root, stage, f) for f in sorted(folders, key=lambda f: f.stat().st_mtime)
        )
        seen = {run.folder("mepd") for run in list_open(found)}
    # of equals the oldest first: a sweep's come after the run that it varies
    return sorted(found, key=lambda f: (isinstance(f[1], str), f[0].rpartition(" · ")[0]))


def list_open(found: Iterable[Found]) -> list[Run]:
    return [run for _, run in found if isinstance(run, Run)]


def open_result(root: Path, stage: str, folder: Path) -> Found:
    """By its key: a result that other code, libraries or devices made is named, and no more."""
    record = read_record(folder)
    if record is None:
        return f"{folder.name}: not finished", "This run was never finished."
    try:
        run = Run(build(nest(record.get("config") or {})), root)
        if run.folder(stage) != folder:
            raise BedkdError("Other code, libraries or devices made this run than are here now.")
        need(run, stage)
    except BedkdError as error:
        return f"{folder.name}: cannot be opened", str(error)
    unfinished = " (no AKD yet)" * (stage == "mepd")
    return f"{name_run(run)} · seed {run.config.seed}{unfinished} · {run.key(stage)[:6]}", run


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
    if not list_open(find_runs(root)):
        print(f"no finished run in {root}: making one, in a minute or two with `quick`")
        for run in runs:
            ensure(run, "akd")
    return find_runs(root)


def find_pair(found: Iterable[Found], run: Run) -> list[Run]:
    """BeDKD and BeDKD+ of the cell of `run`: itself where it is one, or where there is none."""

    def cell(run: Run) -> tuple:
        return run.config.data, run.config.attack, run.config.victim, run.config.seed

    same = {r.config.method: r for r in reversed(list_open(found)) if cell(r) == cell(run)}
    same[run.config.method] = run
    return [same.get(method, run) for method in ("bedkd", "bedkd_plus")]


@dataclass(frozen=True)
class Threshold:
    """What a threshold on the scores of D* does.

    rows: text, label, is_poisoned, clean_text, and score (NaN: not scored), which is MEPD, or with
    `gamma: auto` a p-value. probabilities [N, C]: the victim's.
    """

    rows: pd.DataFrame
    probabilities: np.ndarray
    config: MEPDConfig
    seed: int

    def at(self, gamma: float) -> dict:
        """FAR, FRR and purity of D_p^few* (percent; None: no such row), flagged and chosen rows."""
        scored = self.rows[["score", "is_poisoned"]].dropna()
        few = self.choose(gamma)
        return {
            "FAR (%)": far(scored.score, scored.is_poisoned, gamma),
            "FRR (%)": frr(scored.score, scored.is_poisoned, gamma),
            "rows flagged": int((scored.score < gamma).sum()),
            "rows chosen": len(few),
            "their purity (%)": percent(self.rows.is_poisoned.to_numpy()[few]),
        }

    def choose(self, gamma: float) -> np.ndarray:
        """D_p^few*, as row numbers, by the run's own rule under this threshold."""
        config, scores = self.config, self.rows.score.to_numpy()
        if config.gamma == "auto":  # the rule's threshold is AUTO_LEVEL: the scores give way
            scores = scores * (AUTO_LEVEL / gamma)
        else:
            config = replace(config, gamma=gamma)
        given = (self.rows[["text", "label"]], scores, self.probabilities, config)
        return select_poison_few(*given, seed=self.seed).row.to_numpy()

    def nearest(self, gamma: float, kind: str, n: int) -> pd.DataFrame:
        """At most n of the `rows` nearest the threshold, of one of KINDS."""
        rows, is_low = self.rows, self.rows.score < gamma
        wanted = {
            "all": rows.score.notna(),
            "false accepts": rows.is_poisoned & (rows.score >= gamma),
            "false rejects": ~rows.is_poisoned & is_low,
        }
        return rows.loc[(rows.score[wanted[kind]] - gamma).abs().nsmallest(n).index]


def open_threshold(run: Run, score: str) -> Threshold:
    """`score`: of `list_gammas`. Raises BedkdError: a stage is not there."""
    need(run, "data", "victim", "mepd")
    data, mepd = run.folder("data"), run.folder("mepd")
    rows = pd.read_parquet(data / "train.parquet")
    truth = pd.read_parquet(data / "truth/train.parquet")[["is_poisoned", "clean_text"]]
    rows = rows.join(truth).assign(score=pd.read_parquet(mepd / "train.parquet")[score])
    probabilities = np.load(run.folder("victim") / "train_probabilities.npy")
    return Threshold(rows, probabilities, run.config.mepd, run.config.seed)


def list_gammas(run: Run) -> dict[str, tuple[str, float]]:
    """The run's scores, the deciding one first, each with a threshold worth a look and its name:
    the run's own; of BeDKD+'s MEPD, which has none, the one that clean rows suggest: AUTO_LEVEL of
    D_c^few are under it, each under the DMM that did not see it."""
    if run.config.mepd.gamma != "auto":
        return {"mepd": ("the run's own", run.config.mepd.gamma)}
    clean = pd.read_parquet(run.folder("mepd") / "clean.parquet").mepd
    suggested = max(0.001, round(float(clean.quantile(AUTO_LEVEL)), 3))
    return {"p": ("the run's own", AUTO_LEVEL), "mepd": ("clean rows suggest", suggested)}


def read_moment(history: pd.DataFrame, epoch: int, names: Iterable[str]) -> pd.DataFrame:
    """Each number as last read by this epoch: value, and `at`, the epoch of its reading; NaN: not
    yet."""
    past = history[history.epoch <= epoch].set_index("epoch").reindex(columns=list(names))
    at = past.apply(pd.Series.last_valid_index)
    return pd.DataFrame({"value": past.ffill().iloc[-1].astype(float), "at": at.astype(float)})
