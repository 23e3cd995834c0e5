"""How much each parameter moves ASR, PACC and CACC: the points of a profile's sweeps, their means
over the seeds, and the ranking. It trains nothing."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from scipy import stats

from bedkd.core.errors import BedkdError
from bedkd.core.files import write_text
from bedkd.report.layouts import head_of, name_method
from bedkd.report.loading import name_cell, read_result
from bedkd.report.table_cells import CELL, make_cells
from bedkd.report.tables import to_markdown
from bedkd.runs.folders import Run
from bedkd.runs.profiles import Profile
from bedkd.runs.sweeps import GRID, Sweep, is_sweep

MEASURES = {"asr": "ASR", "pacc": "PACC", "cacc": "CACC"}
# what a point has, all but the time in percent; `before`: the victim's
NUMBERS = {
    **{"asr_before": "ASR before", "cacc_before": "CACC before"},
    **MEASURES,
    **{"lfr_target": "LFR target", "far_train": "FAR", "frr_train": "FRR"},
    **{"poison_few_purity": "purity", "seconds": "seconds"},
}
NEVER = ("asr_never_poisoned", "pacc_never_poisoned")
STUDY = [*CELL, "defence", "study"]
COLUMNS = [*STUDY, "setting", "seed", "is_own", "state", "run", "sources", *NUMBERS, *NEVER]
PAIR = " × "  # between the two values of a grid's setting
TITLE = (
    "From the smallest to the largest mean over the seeds, in percentage points; diverged: values "
    "of the parameter at which AKD of BeDKD as printed did, on one seed at least."
)


def load_points(
    profile: Profile,
    runs: Iterable[Run],
    overrides: dict | None = None,
    *,
    sweeps: list[Sweep] | None = None,
) -> pd.DataFrame:
    """One row for each point and method of cells: dataset, attack, seed, defence (`bedkd`,
    `bedkd_plus`), study, setting (the value as text; of a grid both), is_own (the profile's own),
    state (`ok`, `failed`: AKD diverged, `missing`), run, sources, NUMBERS and NEVER. `sweeps`:
    these alone, instead of each cell's own."""
    rows = [
        describe_point(point)
        | {"study": sweep.name, "is_own": point.config == base.config}
        | {"setting": PAIR.join(map(str, value if isinstance(value, tuple) else [value]))}
        for run in runs
        for sweep in (profile.list_sweeps(run, overrides) if sweeps is None else sweeps)
        for base in profile.sweep_runs(run)
        for value, point in sweep.points(base)
    ]
    numbers = dict.fromkeys([*NUMBERS, *NEVER], float)
    return pd.DataFrame(rows, columns=COLUMNS).astype(numbers)


def describe_point(run: Run) -> dict:
    victim = run.record("victim") or {}
    before = {f"{name}_before": victim.get(name) for name in ("asr", "cacc")}
    return read_result(run, "akd") | before | {"run": run}


def find_sweeps(
    profile: Profile, cell: Run, overrides: dict | None = None
) -> dict[str, pd.DataFrame]:
    """`load_points` of the cell, by name, of each sweep or grid that the profile gives values for
    and of which two (of each side) are finished; without seeds and methods of which none is."""
    names = dict.fromkeys([*profile.sweeps, *filter(is_sweep, profile.studies)])
    seeds = dict.fromkeys([cell.config.seed, *profile.grid.seed])
    runs = profile.runs((overrides or {}) | name_cell(cell) | {"seed": list(seeds)})
    sweeps = {}
    for study in names:
        with contextlib.suppress(BedkdError):  # values that this cell cannot take
            points = load_points(profile, runs, sweeps=[profile.sweep(study)])
            done = points[points.state == "ok"]
            is_begun = points.seed.isin(done.seed) & points.defence.isin(done.defence)
            values = done.setting.str.split(PAIR, expand=True)
            if len(done) and (values.nunique() > 1).all():
                sweeps[PAIR.join(map(head_of, study.split(GRID)))] = points[is_begun]
    return sweeps


def describe_points(points: pd.DataFrame) -> pd.DataFrame:
    """A table of points: method, value, seed and NUMBERS. Where AKD diverged the victim's are
    alone."""
    about = points.assign(method=points.defence.map(name_method), seed=points.seed.astype(str))
    columns = {"method": "method", "setting": "value", "seed": "seed"} | NUMBERS
    return about[list(columns)].rename(columns=columns).reset_index(drop=True)


def select_studies(points: pd.DataFrame, *, is_grid: bool) -> pd.DataFrame:
    """Those of two parameters at once, or those of one; of a method's study that has one setting
    alone, the profile's own most often, none: that it moves nothing would be no finding."""
    chosen = points[points.study.str.contains(GRID) == is_grid]
    done = chosen[chosen.state != "missing"].groupby(STUDY).setting.nunique()
    n_done = chosen.set_index(STUDY).index.map(done)
    return chosen[n_done > 1]


def summarise(points: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds with 95% t-intervals: STUDY, setting, and the columns of `make_cells`,
    for each of MEASURES. A setting whose seeds are not all there has no value."""
    return make_cells(points, [*STUDY, "setting"], list(MEASURES))


def rank_parameters(points: pd.DataFrame) -> pd.DataFrame:
    """How far each parameter moves each measure: STUDY, metric, low and high (the smallest and the
    largest mean over its values, percent), at_low, at_high (where), span, is_sure (see
    `is_beyond_chance`), and diverged (the values at which a seed's AKD did); the widest first."""
    points, keys = select_studies(points, is_grid=False), [*STUDY, "metric"]
    cells = summarise(points)
    known = cells.dropna(subset="value")
    values = known.groupby(keys, sort=False).value
    low, high = (known.loc[at].set_index(keys) for at in (values.idxmin(), values.idxmax()))
    lost = cells[cells.state == "failed"].groupby(keys).setting.agg(", ".join)
    ranking = pd.DataFrame({"low": low.value, "at_low": low.setting, "high": high.value})
    ranking = ranking.assign(at_high=high.setting, span=high.value - low.value)
    seeds = points.melt([*STUDY, "setting", "seed"], list(MEASURES), "metric")
    seeds = seeds.set_index([*keys, "setting", "seed"]).value.sort_index()
    ends = zip(ranking.index, ranking.at_low, ranking.at_high, strict=True)
    ranking["is_sure"] = [
        is_beyond_chance(seeds[(*names, high)] - seeds[(*names, low)]) for names, low, high in ends
    ]
    ranking["diverged"] = lost.reindex(ranking.index).fillna("")
    ranking = ranking.sort_values("span", ascending=False, kind="stable")
    return ranking.reset_index()


def is_beyond_chance(differences: pd.Series) -> bool:
    """Whether the 95% t-interval of differences, one a seed, lies above 0. Of one seed it does
    not."""
    n = len(differences)
    return n > 1 and differences.mean() > stats.t.ppf(0.975, n - 1) * differences.sem()


def lay_out_ranking(ranking: pd.DataFrame) -> pd.DataFrame:
    """The spans (points of a percentage): a row for each parameter, what moves ASR most first, a
    column for each measure and method; and where BeDKD as printed diverges."""
    rows = ranking.assign(
        parameter=ranking.study.map(head_of), defence=ranking.defence.map(name_method)
    )
    index, asr = [*CELL, "parameter"], rows[rows.metric == "asr"]
    wide = rows.pivot(index=index, columns=["metric", "defence"], values="span")
    wide = wide[[name for name in MEASURES if name in wide]].rename(columns=MEASURES)
    wide.columns = wide.columns.map(" ".join)
    diverged = asr[asr.defence == "BeDKD"].set_index(index).diverged
    order = asr.sort_values(CELL, kind="stable").set_index(index).index.unique()
    return wide.assign(diverged=diverged).loc[order]


def save_ranking(points: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """`sensitivity` with .csv (see `rank_parameters`) and .md (the table, see `lay_out_ranking`,
    which is returned), and `sensitivity_means.csv`, what it is made of."""
    ranking, means = rank_parameters(points), summarise(points).drop(columns="sources")
    for name, rows in (("sensitivity", ranking), ("sensitivity_means", means)):
        write_text(folder / f"{name}.csv", rows.round(4).to_csv(index=False))
    table = lay_out_ranking(ranking)
    shown = table.fillna("–").map(lambda cell: f"{cell:.1f}" if isinstance(cell, float) else cell)
    write_text(folder / "sensitivity.md", f"{TITLE}\n\n{to_markdown(shown)}\n")
    return table
