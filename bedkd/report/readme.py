"""README.md: its sentences are those of `readme.md.j2`, its numbers those of outputs/reference/
(`make report`, which also executes `09_findings` on real text)."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bedkd.core.errors import BedkdError
from bedkd.core.files import write_text
from bedkd.report.claims import RIVALS, SPREAD
from bedkd.report.findings import CELL, CLOSE, count_failures, read_kept
from bedkd.report.layouts import DEFENCE_NAMES, NAMES
from bedkd.report.overview import compare_cells, describe_verdict
from bedkd.report.published import describe_difference
from bedkd.report.reference import MISSING, keep_notebook
from bedkd.report.show import NOTHING
from bedkd.report.table_cells import make_cells
from bedkd.report.tables import describe_source, to_markdown
from bedkd.runs.profiles import PROJECT, load_profile

README, REFERENCE = PROJECT / "README.md", PROJECT / "outputs" / "reference"
FINDINGS = REFERENCE / "notebooks/laptop/09_findings.ipynb"
PROFILES = ("laptop", "quick", "evidence")
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
    def verdict(self) -> str:
        """The report's own sentence, of these cells."""
        return describe_verdict(compare_cells(as_results(self.cells)))

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
    def nearer(self) -> dict[str, list[str]]:
        """Of each data set the rivals with a smaller mean ΔPACC than BeDKD+, `W2SDefense (1.4)`,
        the smallest first, and last BeDKD+'s own; none of a data set where it is the smallest."""
        found = {}
        for dataset, cells in self.cells.groupby("dataset", sort=False):
            means = average(cells).delta_pacc.drop("never_poisoned").dropna().sort_values()
            means = means[: means.index.get_loc("bedkd_plus") + 1]
            texts = [f"{DEFENCE_NAMES[name]} ({show(value)})" for name, value in means.items()]
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
    poison."""
    rows = records[(records.study == "") & ~records.attack.isin(["none", SPREAD])]
    rows = rows[rows.defence.isin(ROWS)].dropna(subset=["asr", "cacc"])
    order = {name: n for n, name in enumerate(load_profile("laptop").grid.dataset)}
    rows = rows.sort_values("dataset", key=lambda names: names.map(order), kind="stable")
    n = rows[rows.defence.isin(COMPARED)].groupby(CELL).defence.nunique()
    rows = rows.merge(n[n == len(COMPARED)].rename("n_compared").reset_index(), on=CELL)
    never = rows[rows.defence == "never_poisoned"].set_index(CELL).pacc.rename("pacc_clean")
    rows = rows.merge(never.reset_index(), on=CELL)
    return rows.assign(delta_pacc=(rows.pacc - rows.pacc_clean).abs())


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


def describe_block(title: str, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of some cells in the main table: Data, Defence, METRICS, Cells; all texts. Without a
    defence of which no mean is known."""
    n = cells.defence.value_counts()
    means = average(cells).dropna(how="all")
    means = means.loc[[name for name in ROWS if name in means.index]]
    means.loc["never_poisoned", "delta_pacc"] = float("nan")  # the yardstick itself
    texts = means.map(show).assign(Cells=n.map(str))
    texts = texts.rename(index=ROWS, columns=NAMES["metric"]).rename_axis("Defence").reset_index()
    return texts.assign(Data=[title] + [""] * (len(texts) - 1))


def describe_main(kept: list[Kept]) -> str:
    """The main table, in Markdown: a block for each data set of real text, one for all that a
    profile has of generated text."""
    blocks = []
    for one in kept:
        if one.profile != "laptop":
            blocks.append(describe_block(f"generated, `{one.profile}`", one.cells))
            continue
        groups = one.cells.groupby("dataset", sort=False)
        blocks += [describe_block(f"`{name}`", cells) for name, cells in groups]
    table = pd.concat(blocks).rename_axis(columns=None)
    return to_markdown(table.set_index(["Data", "Defence"]))


def compare_machines(here: Kept, there: Kept) -> dict:
    """How far the same cell's numbers are apart, made on two machines: n defences, of both `asr`
    and `cacc` the largest distance and whose it is; `plus`: of BeDKD+."""
    keys = [*CELL, "defence"]
    both = here.cells.merge(there.cells, on=keys, suffixes=("", "_there")).set_index("defence")
    found: dict = {"n": len(both), "device": here.records.device[0].upper()}
    for metric in ("asr", "cacc"):
        apart = (both[metric] - both[f"{metric}_there"]).abs()
        name, whose = apart.idxmax(), DEFENCE_NAMES.get(apart.idxmax(), apart.idxmax())
        found[metric] = {"largest": apart[name], "whose": whose, "plus": apart["bedkd_plus"]}
    return found


def show(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:.1f}"


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


def read_survey() -> dict:
    """Of verdicts.jsonl: how many are right, and what is left of the backdoors that were found.

    `n`: models of generated and of real text; `clean`, and `rates` by the poison rate, the highest
    first: `3 of 4` are right; `toys`, `real`: the means of those purified; `worst`: the one that
    loses most accuracy.
    """
    lines = (REFERENCE / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pd.DataFrame(map(json.loads, lines))
    rows["lost"] = rows.victim_cacc - rows.cacc
    is_poisoned, is_toy = rows.attack != "none", rows.dataset.str.startswith("toy-")
    purified, parts = is_poisoned & rows.is_right, {"toys": is_toy, "real": ~is_toy}
    rates = rows[is_poisoned].groupby("poison_rate").is_right
    names = ["victim_asr", "asr", "asr_never_poisoned", "delta_pacc", "lost"]
    return {
        **{name: rows.loc[purified & part, names].mean().to_dict() for name, part in parts.items()},
        "n": {name: int(part.sum()) for name, part in parts.items()},
        "clean": count(rows[~is_poisoned].is_right),
        "rates": {rate: count(is_right) for rate, is_right in reversed(list(rates))},
        "worst": rows.loc[rows.lost.idxmax()].to_dict(),
        "commits": ", ".join(sorted({commit[:9] for commit in rows.commit})),
    }


def count(is_right: pd.Series) -> str:
    return f"{is_right.sum()} of {len(is_right)}"


def percent(share: float) -> str:
    """`5%` of 0.05."""
    return f"{100 * float(share):g}%"


def render_readme(template: str | None = None) -> str:
    """README.md as the records have it. `template`: another text than `readme.md.j2`."""
    kept, one_cell = {name: find_kept(name) for name in PROFILES}, find_kept("one_cell")
    is_compared = kept["laptop"] and one_cell
    laptop = load_profile("laptop")
    cell = laptop.run("sst2", "badwords", 0)
    look = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    # Markdown, not HTML: nothing here is untrusted
    page = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **look
    )
    page.filters |= {"attack": lambda name: NAMES["attack"].get(name, name)}
    page.filters |= {"one": show, "percent": percent, "signed": "{:+.1f}".format}
    page.globals |= {"measure_left": measure_left, "describe_main": describe_main}
    source = page.from_string(template) if template else page.get_template("readme.md.j2")
    return source.render(
        **kept,
        shown=[one for one in kept.values() if one],
        lost=[name for name, one in kept.items() if not one],
        machines=compare_machines(one_cell, kept["laptop"]) if is_compared else None,
        close=CLOSE,
        spread=SPREAD,
        survey=read_survey(),
        speed=json.loads((REFERENCE / "speed.json").read_text(encoding="utf-8")),
        c=cell.config,
        plus=laptop.plus_run(cell).config,
    )


def keep_findings() -> None:
    """`09_findings` of real text, executed, if such records are kept."""
    import papermill

    if find_kept("laptop"):
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / FINDINGS.name
            source, own = str(PROJECT / "notebooks" / FINDINGS.name), {"profile": "laptop"}
            how = {"kernel_name": "python3", "progress_bar": False}
            papermill.execute_notebook(source, str(output), own, **how)
            keep_notebook(output, FINDINGS)


if __name__ == "__main__":
    write_text(README, render_readme())
    keep_findings()
