"""How much each parameter moves ASR, PACC and CACC: the points of a profile's sweeps, their means
over the seeds, and the ranking. It trains nothing."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from scipy import stats

from bedkd.core.files import write_text
from bedkd.report.layouts import head_of, name_method
from bedkd.report.loading import name_cell
from bedkd.report.table_cells import make_cells
from bedkd.report.tables import to_markdown
from bedkd.runs.folders import Run
from bedkd.runs.profiles import Profile
from bedkd.runs.sweeps import GRID, Sweep, read_divergence

MEASURES = {"asr": "ASR", "pacc": "PACC", "cacc": "CACC"}
# what a point has, all but the time in percent; `before`: the victim's
NUMBERS = {
    **{"asr_before": "ASR before", "cacc_before": "CACC before"},
    **MEASURES,
    **{"lfr_target": "LFR target", "far_train": "FAR", "frr_train": "FRR"},
    **{"poison_few_purity": "purity", "seconds": "seconds"},
}
NEVER = ("asr_never_poisoned", "pacc_never_poisoned")
CELL = ["dataset", "attack"]
STUDY = [*CELL, "defence", "study"]
COLUMNS = [*STUDY, "setting", "seed", "is_own", "state", "run", "sources", *NUMBERS, *NEVER]
SPAN = ["low", "at_low", "high", "at_high", "span", "is_sure", "diverged"]
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
    `bedkd_plus`), study, setting (the value as text; of a grid a pair), is_own (the profile's own),
    state (`ok`, `failed`: AKD diverged, `missing`), run, sources, NUMBERS and NEVER. `sweeps`:
    these alone, instead of each cell's own."""
    return to_points(
        describe_point(sweep.name, value, point) | {"is_own": point.config == base.config}
        for run in runs
        for sweep in (profile.list_sweeps(run, overrides) if sweeps is None else sweeps)
        for base in profile.sweep_runs(run)
        for value, point in sweep.points(base)
    )


def to_points(rows: Iterable[dict]) -> pd.DataFrame:
    numbers = dict.fromkeys([*NUMBERS, *NEVER], float)
    return pd.DataFrame(list(rows), columns=COLUMNS).astype(numbers)


def describe_point(study: str, value, run: Run) -> dict:
    """A row of `load_points`, but for `is_own`. value: of a grid a pair."""
    victim, record = (run.record(stage) or {} for stage in ("victim", "akd"))
    setting = tuple(map(str, value)) if isinstance(value, tuple) else str(value)
    about = {"defence": run.config.method, "study": study, "setting": setting, "run": run}
    about["state"] = "ok" if record else "failed" if read_divergence(run) else "missing"
    about["sources"] = (f"akd/{run.folder('akd').name}",)
    before = {f"{name}_before": victim.get(name) for name in ("asr", "cacc")}
    found = {name: record[name] for name in (*NUMBERS, *NEVER) if name in record}
    return name_cell(run) | about | before | found


def describe_points(points: pd.DataFrame) -> pd.DataFrame:
    """A table of points: method, value, seed and NUMBERS. Where AKD diverged the victim's are
    alone."""
    about = {
        "method": points.defence.map(name_method),
        "value": points.setting.map(name_setting),
        "seed": points.seed.astype(str),
    }
    numbers = points[list(NUMBERS)].rename(columns=NUMBERS)
    return pd.concat([pd.DataFrame(about), numbers], axis=1).reset_index(drop=True)


def name_setting(setting: str | tuple[str, ...]) -> str:
    return setting if isinstance(setting, str) else " × ".join(setting)


def select_studies(points: pd.DataFrame, *, is_grid: bool) -> pd.DataFrame:
    """Those of two parameters at once, or those of one."""
    return points[points.study.map(lambda study: GRID in study) == is_grid]


def summarise(points: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds with 95% t-intervals: STUDY, setting, and the columns of `make_cells`,
    for each of MEASURES. A setting whose seeds are not all there has no value."""
    return make_cells(points, [*STUDY, "setting"], list(MEASURES))


def rank_parameters(points: pd.DataFrame) -> pd.DataFrame:
    """How far each parameter moves each measure: STUDY, metric, low and high (the smallest and the
    largest mean over its values, percent), at_low, at_high (where), span, is_sure (see
    `is_beyond_chance`), and diverged (the values at which a seed's AKD did); the widest first."""
    rows, points = [], select_studies(points, is_grid=False)
    own = dict(list(points.groupby(STUDY)))
    for names, part in summarise(points).groupby([*STUDY, "metric"], sort=False):
        known, diverged = part.dropna(subset="value"), part.setting[part.state == "failed"]
        if known.empty:
            continue
        low, high = (known.loc[find] for find in (known.value.idxmin(), known.value.idxmax()))
        ends = pd.pivot(own[names[:-1]], index="seed", columns="setting", values=names[-1])
        rows.append(
            dict(zip([*STUDY, "metric"], names, strict=True))
            | {"low": low.value, "at_low": low.setting}
            | {"high": high.value, "at_high": high.setting, "span": high.value - low.value}
            | {"is_sure": is_beyond_chance(ends[high.setting] - ends[low.setting])}
            | {"diverged": ", ".join(diverged)}
        )
    return pd.DataFrame(rows, columns=[*STUDY, "metric", *SPAN]).sort_values(
        "span", ascending=False, kind="stable", ignore_index=True
    )


def is_beyond_chance(differences: pd.Series) -> bool:
    """Whether the 95% t-interval of differences, one a seed, lies above 0. Of one seed it does
    not."""
    n = len(differences)
    return n > 1 and differences.mean() > stats.t.ppf(0.975, n - 1) * differences.sem()


def lay_out_ranking(ranking: pd.DataFrame) -> pd.DataFrame:
    """The spans (points of a percentage): a row for each parameter, what moves ASR most first, a
    column for each measure and method; and where BeDKD as printed diverges."""
    rows = ranking.assign(parameter=ranking.study.map(head_of))
    rows["column"] = rows.metric.map(MEASURES) + " " + rows.defence.map(name_method)
    index = [*CELL, "parameter"]
    wide = rows.pivot(index=index, columns="column", values="span")
    wide = wide[sorted(wide, key=lambda name: list(MEASURES.values()).index(name.split()[0]))]
    asr = rows[rows.metric == "asr"].sort_values(CELL, kind="stable")  # the widest is first
    diverged = rows[rows.defence == "bedkd"].drop_duplicates(index).set_index(index).diverged
    return wide.loc[asr.set_index(index).index.unique()].assign(diverged=diverged)


def save_ranking(points: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """`sensitivity` with .csv (see `rank_parameters`) and .md (the table, see `lay_out_ranking`,
    which is returned), and `sensitivity_means.csv`, what it is made of."""
    ranking = rank_parameters(points)
    write_text(folder / "sensitivity.csv", ranking.round(4).to_csv(index=False))
    means = summarise(points).drop(columns="sources")
    write_text(folder / "sensitivity_means.csv", means.round(4).to_csv(index=False))
    table = lay_out_ranking(ranking)
    shown = table.map(lambda cell: cell if isinstance(cell, str) else f"{cell:.1f}")
    text = f"{TITLE}\n\n{to_markdown(shown.replace('nan', '–'))}\n"
    write_text(folder / "sensitivity.md", text)
    return table
