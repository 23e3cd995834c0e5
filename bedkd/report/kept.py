"""What outputs/reference/ keeps of a profile, as README shows it."""

from dataclasses import dataclass

import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.report.claims import RIVALS, SPREAD
from bedkd.report.findings import CELL, CLOSE, count_failures, read_kept
from bedkd.report.layouts import DEFENCE_NAMES
from bedkd.report.published import describe_difference
from bedkd.report.reference import MISSING
from bedkd.report.show import NOTHING
from bedkd.report.table_cells import make_cells
from bedkd.report.tables import describe_source
from bedkd.runs.profiles import PROJECT, load_profile

REFERENCE = PROJECT / "outputs" / "reference"
METRICS = ("asr", "delta_pacc", "lfr_target", "cacc")
COMPARED = ("none", "bedkd", "bedkd_plus", "never_poisoned")  # in every cell of the main table
ROWS = {
    **{name: DEFENCE_NAMES[name] for name in ("none", *RIVALS)},
    "bedkd": "BeDKD as printed",
    "bedkd_plus": "**BeDKD+**",
    "never_poisoned": DEFENCE_NAMES["never_poisoned"],
}


@dataclass(frozen=True)
class Kept:
    """What is kept of a profile. cells: `select_cells` of its records."""

    profile: str
    records: pd.DataFrame
    cells: pd.DataFrame

    @property
    def commit(self) -> str:
        return self.records.commit[0][:9]

    @property
    def source(self) -> str:
        """Model, seeds, rows, device and commit of the cells, in a sentence or two."""
        done = self.cells.assign(state="ok")
        said = f"{describe_source(done).removesuffix('.')}, at commit {self.commit}."
        return f"{said} {describe_difference(done, 'table1')}".strip()

    @property
    def missing(self) -> str:
        """`244 of 661`: results of the profile that are not there; empty if all are."""
        page = REFERENCE / "tables" / self.profile / MISSING
        return page.read_text(encoding="utf-8").split(" results")[0] if page.exists() else ""

    @property
    def left(self) -> list[dict]:
        """Cells in which BeDKD+ ends over CLOSE: dataset, attack, asr, asr_never_poisoned."""
        rows = self.cells[self.cells.defence == "bedkd_plus"]
        return rows[rows.asr - rows.asr_never_poisoned > CLOSE].to_dict("records")

    @property
    def unmatched(self) -> list[dict]:
        """dataset and attack where no row of the target's carries the trigger."""
        rows = self.cells[self.cells.pacc.isna()].drop_duplicates(["dataset", "attack"])
        return rows.to_dict("records")

    @property
    def unmeasured(self) -> dict[str, list[str]]:
        """Of each data set the profile's rivals that were not measured in each of its cells."""
        found, rivals = {}, load_profile(self.profile).list_defences()
        for dataset, cells in self.cells.groupby("dataset", sort=False):
            n = cells.defence.value_counts()
            names = [DEFENCE_NAMES[name] for name in rivals if n.get(name, 0) < n["none"]]
            found |= {dataset: names} if names else {}
        return found

    @property
    def nearer(self) -> dict[str, list[str]]:
        """Of each data set the rivals with a smaller mean ΔPACC than BeDKD+, `W2SDefense (1.4)`,
        the smallest first, and last BeDKD+'s own, with the cells in which its PACC is the higher
        one, for a distance has no sign; none of a data set where it is the smallest."""
        found = {}
        for dataset, cells in self.cells.groupby("dataset", sort=False):
            means = average(cells).delta_pacc.drop("never_poisoned").dropna().sort_values()
            means = means[: means.index.get_loc("bedkd_plus") + 1]
            texts = [f"{DEFENCE_NAMES[name]} ({show(value)})" for name, value in means.items()]
            gains = (cells.pacc - cells.pacc_never_poisoned)[cells.defence == "bedkd_plus"].dropna()
            texts[-1] = texts[-1][:-1] + f", {(gains > 0).sum()} of {len(gains)} cells above it)"
            found |= {dataset: texts} if len(texts) > 1 else {}
        return found

    @property
    def failures(self) -> dict[str, str]:
        """Of each defence, `2 of 19`: cells that end over CLOSE, see `count_failures`."""
        counts = count_failures(self.cells).groupby("defence")[["failed", "cells"]].sum()
        return {row.Index: f"{row.failed} of {row.cells}" for row in counts.itertuples()}


def find_kept(profile: str) -> Kept | None:
    """None: no record is kept of it, or records of several commits, which are no one campaign and
    go into no table together."""
    try:
        records = read_kept(profile)
    except BedkdError:  # the template says what makes them
        return None
    cells = select_cells(records)
    return Kept(profile, records, cells) if records.commit.nunique() == 1 and len(cells) else None


def select_cells(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of the main grid's attacked cells (CELL) in which each of COMPARED is there; the
    attack that knows the method is left to the limits. Data sets in the order of `laptop`.
    `delta_pacc` of the victim too, whose record was there before that of the model that never saw
    poison. The others' is that of their record, of the rows that they did not learn from."""
    rows = records[(records.study == "") & ~records.attack.isin(["none", SPREAD])]
    rows = rows[rows.defence.isin(ROWS)].dropna(subset=["asr", "cacc"])
    order = {name: n for n, name in enumerate(load_profile("laptop").grid.dataset)}
    rows = rows.sort_values("dataset", key=lambda names: names.map(order), kind="stable")
    n = rows[rows.defence.isin(COMPARED)].groupby(CELL).defence.nunique()
    rows = rows.merge(n[n == len(COMPARED)].rename("n_compared").reset_index(), on=CELL)
    never = rows[rows.defence == "never_poisoned"].set_index(CELL).pacc.rename("pacc_clean")
    rows = rows.merge(never.reset_index(), on=CELL)
    return rows.assign(delta_pacc=rows.delta_pacc.fillna((rows.pacc - rows.pacc_clean).abs()))


def as_results(cells: pd.DataFrame) -> pd.DataFrame:
    """As tables take them: finished, and of no folder."""
    return cells.assign(state="ok", sources=[()] * len(cells))


def average(cells: pd.DataFrame) -> pd.DataFrame:
    """A row a defence, METRICS as columns: over the seeds, then over data sets and attacks. NaN: it
    lacks one of these that the victim has, which lacks PACC where no row of the target's carries
    the trigger."""
    found = make_cells(as_results(cells), ["dataset", "attack", "defence"], METRICS)
    wide = found.pivot(index=["dataset", "attack"], columns=["metric", "defence"], values="value")
    means = {name: wide[name].dropna(subset="none").mean(skipna=False) for name in METRICS}
    return pd.DataFrame(means)


def compare_machines(here: Kept, there: Kept) -> dict:
    """How far the same cells' numbers are apart, made on two machines: n results, of both `asr` and
    `cacc` the largest distance and whose it is; `plus`: the largest of BeDKD+."""
    keys = [*CELL, "defence"]
    both = here.cells.merge(there.cells, on=keys, suffixes=("", "_there"))
    found: dict = {"n": len(both), "device": here.records.device[0].upper()}
    for metric in ("asr", "cacc"):
        apart = (both[metric] - both[f"{metric}_there"]).abs().groupby(both.defence).max()
        whose = DEFENCE_NAMES.get(apart.idxmax(), apart.idxmax())
        found[metric] = {"largest": apart.max(), "whose": whose, "plus": apart["bedkd_plus"]}
    return found


def measure_left(kept: Kept, study: str, by: str) -> list[dict]:
    """A row for each value of `by`, of a study (empty: the main grid): n cells, and the mean ASR of
    the victim, of BeDKD+ and of the model that never saw poison in those where all are known."""
    rows = kept.records[(kept.records.study == study) & (kept.records.attack != "none")]
    index = [*dict.fromkeys([by, *CELL])]
    wide = rows.pivot_table(index=index, columns="defence", values="asr")
    ours = rows[rows.defence == "bedkd_plus"].set_index(index).asr_never_poisoned
    wide = wide.reindex(columns=["none", "bedkd_plus"]).assign(never=ours).dropna()
    means = wide.groupby(by).mean().assign(n=wide.groupby(by).size())
    return means.reset_index(names="at").to_dict("records")


def show(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:.1f}"
