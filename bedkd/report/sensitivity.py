"""How much each parameter moves ASR, PACC and CACC: the points of a profile's sweeps, their means
over the seeds, and the ranking. It trains nothing."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bedkd.core.files import write_text
from bedkd.report.layouts import DEFENCE_NAMES, head_of
from bedkd.report.loading import Batch, name_cell
from bedkd.report.table_cells import make_cells
from bedkd.report.tables import to_markdown
from bedkd.runs.folders import Run
from bedkd.runs.profiles import Profile
from bedkd.runs.sweeps import GRID, Sweep, read_divergence

MEASURES = {"asr": "ASR", "pacc": "PACC", "cacc": "CACC"}
NUMBERS = [*MEASURES, "asr_never_poisoned", "pacc_never_poisoned"]
PARAMETERS = {
    "gamma": "γ",
    "alpha": "α",
    "lambda": "λ",
    "temperature_dmm": "T of DMM",
    "temperature_akd": "T of AKD",
    "cycles": "AKD cycles",
    "epochs_dmm": "DMM epochs",
}
CELL = ["dataset", "attack"]
STUDY = [*CELL, "defence", "study"]
COLUMNS = [*STUDY, "setting", "seed", "is_own", "state", "sources", *NUMBERS]
SPAN = ["low", "at_low", "high", "at_high", "span", "diverged"]
TITLE = (
    "From the smallest to the largest mean over the seeds, in percentage points; diverged: values "
    "of the parameter at which AKD of BeDKD as printed did, on one seed at least."
)


def load_cell_points(profile: Profile, run: Run, sweeps: Iterable[Sweep]) -> pd.DataFrame:
    """One row for each point of one cell and method: dataset, attack, seed, defence (`bedkd`,
    `bedkd_plus`), study, setting (the value as text; of a grid a pair), is_own (the profile's own),
    state (`ok`, `failed`: AKD diverged, `missing`), sources, and, in percent, NUMBERS."""
    return to_points(list_rows(profile, run, sweeps))


def load_all_points(batch: Batch) -> pd.DataFrame:
    """The same of all cells of a profile, hence over its seeds."""
    profile = batch.profile
    return to_points(
        row
        for run in batch.runs
        for row in list_rows(profile, run, profile.list_sweeps(run, batch.overrides))
    )


def to_points(rows: Iterable[dict]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float))


def list_rows(profile: Profile, run: Run, sweeps: Iterable[Sweep]) -> list[dict]:
    return [
        describe_point(base, point) | {"study": sweep.name, "setting": write_setting(value)}
        for sweep in sweeps
        for base in profile.sweep_runs(run)
        for value, point in sweep.points(base)
    ]


def write_setting(value) -> str | tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else str(value)


def describe_point(base: Run, point: Run) -> dict:
    record = point.record("akd")
    about = name_cell(base) | {"defence": base.config.method, "is_own": point.config == base.config}
    about |= {"state": "ok" if record else "failed" if read_divergence(point) else "missing"}
    about |= {"sources": (f"akd/{point.folder('akd').name}",)}
    return about | {name: (record or {}).get(name) for name in NUMBERS}


def select_studies(points: pd.DataFrame, *, is_grid: bool) -> pd.DataFrame:
    """Those of two parameters at once, or those of one."""
    return points[points.study.map(lambda study: GRID in study) == is_grid]


def summarise(points: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds with 95% t-intervals: STUDY, setting, and the columns of `make_cells`,
    for each of MEASURES. A setting whose seeds are not all there has no value."""
    return make_cells(points, [*STUDY, "setting"], list(MEASURES))


def rank_parameters(points: pd.DataFrame) -> pd.DataFrame:
    """How far each parameter moves each measure: STUDY, metric, low and high (the smallest and the
    largest mean over its values, percent), at_low, at_high (where), span, and diverged (the values
    at which a seed's AKD did); the widest first."""
    rows, cells = [], summarise(select_studies(points, is_grid=False))
    for names, part in cells.groupby([*STUDY, "metric"], sort=False):
        known, diverged = part.dropna(subset="value"), part.setting[part.state == "failed"]
        if known.empty:
            continue
        low, high = (known.loc[find] for find in (known.value.idxmin(), known.value.idxmax()))
        rows.append(
            dict(zip([*STUDY, "metric"], names, strict=True))
            | {"low": low.value, "at_low": low.setting}
            | {"high": high.value, "at_high": high.setting, "span": high.value - low.value}
            | {"diverged": ", ".join(diverged)}
        )
    return pd.DataFrame(rows, columns=[*STUDY, "metric", *SPAN]).sort_values(
        "span", ascending=False, kind="stable", ignore_index=True
    )


def lay_out_ranking(ranking: pd.DataFrame) -> pd.DataFrame:
    """The spans (points of a percentage): a row for each parameter, what moves ASR most first, a
    column for each measure and method; and where BeDKD as printed diverges."""
    rows = ranking.assign(parameter=ranking.study.map(name_parameter))
    rows["column"] = rows.metric.map(MEASURES) + " " + rows.defence.map(DEFENCE_NAMES)
    index = [*CELL, "parameter"]
    wide = rows.pivot(index=index, columns="column", values="span")
    wide = wide[sorted(wide, key=lambda name: list(MEASURES.values()).index(name.split()[0]))]
    by_asr = [name for name in wide if name.startswith(MEASURES["asr"])]
    order = wide.assign(most=wide[by_asr].max(axis=1)).sort_values(
        [*CELL, "most"], ascending=[True, True, False]
    )
    diverged = rows[rows.defence == "bedkd"].drop_duplicates(index).set_index(index).diverged
    return wide.loc[order.index].assign(diverged=diverged)


def describe_ranking(ranking: pd.DataFrame) -> list[str]:
    """A sentence for each measure: what moves it most, by method."""
    said = []
    for metric, name in MEASURES.items() if len(ranking) else ():
        most = ranking[ranking.metric == metric].drop_duplicates("defence")  # the widest is first
        parts = [
            f"{DEFENCE_NAMES[row.defence]}'s with {name_parameter(row.study)}, from {row.low:.1f} "
            f"(at {row.at_low}) to {row.high:.1f} (at {row.at_high})"
            for row in most.itertuples()
        ]
        said.append(f"{name} moves most: {'; '.join(parts)}.")
    return said


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


def name_parameter(study: str) -> str:
    return PARAMETERS.get(study, head_of(study))
