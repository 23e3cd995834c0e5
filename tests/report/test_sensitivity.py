"""The ranking of parameters, by hand, and the data that its pictures draw."""

import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from bedkd.report import sensitivity_figures as figures
from bedkd.report.overview import LOOKS
from bedkd.report.sensitivity import (
    COLUMNS,
    NEVER,
    NUMBERS,
    describe_points,
    lay_out_ranking,
    load_points,
    rank_parameters,
    save_ranking,
    summarise,
)
from bedkd.runs.profiles import load_profile
from bedkd.runs.sweeps import divergence_file

matplotlib.use("Agg")
# method, study, setting: ASR on seeds 1 and 3 (None: AKD diverged), and CACC on both
ASR = {
    ("bedkd", "lambda", "0.1"): (10.0, 30.0),  # 20, the profile's own
    ("bedkd", "lambda", "0.9"): (80.0, 84.0),  # 82
    ("bedkd", "n_poison", "4"): (90.0, 100.0),  # 95
    ("bedkd", "n_poison", "16"): (10.0, 30.0),  # the own, again
    ("bedkd", "n_poison", "64"): (5.0, None),
    ("bedkd_plus", "lambda", "0.1"): (6.0, 8.0),  # 7, the own
    ("bedkd_plus", "lambda", "0.9"): (5.0, 5.0),  # 5
    ("bedkd_plus", "n_poison", "4"): (70.0, 80.0),  # 75
    ("bedkd_plus", "n_poison", "16"): (6.0, 8.0),
    ("bedkd_plus", "n_poison", "64"): (7.0, 7.0),
}
OWN = {("lambda", "0.1"), ("n_poison", "16"), ("lambda_x_n_poison", "0.1 × 4")}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def to_points(rows):
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys([*NUMBERS, *NEVER], float))


def make_point(method, study, setting, seed, asr):
    is_done = asr is not None
    numbers = {"asr": asr, "pacc": 100 - asr, "cacc": 90.0 + seed} if is_done else {}
    return {
        **{"dataset": "toy-offence", "attack": "badwords", "defence": method, "study": study},
        **{"setting": setting, "seed": seed, "is_own": (study, setting) in OWN},
        **{"state": "ok" if is_done else "failed", "sources": (f"akd/{seed}",)},
        **numbers,
        "asr_never_poisoned": 8.0 if is_done else None,
    }


@pytest.fixture
def points():
    rows = [
        make_point(*names, seed, asr)
        for names, values in ASR.items()
        for seed, asr in zip((1, 3), values, strict=True)
    ]
    return to_points(rows)


@pytest.fixture
def grid():
    """λ down, n_p across: ASR is 10 λ + n_p; the last has diverged."""
    rows = [
        make_point(
            "bedkd", "lambda_x_n_poison", f"{a} × {b}", 1, None if lost else 10 * float(a) + int(b)
        )
        for a, b, lost in (("0.1", "4", 0), ("0.1", "8", 0), ("0.9", "4", 0), ("0.9", "8", 1))
    ]
    return to_points(rows)


def test_ranking_by_hand(points):
    ranking = rank_parameters(points)
    asr = ranking[ranking.metric == "asr"]
    found = asr[["defence", "study", "low", "at_low", "high", "at_high", "span", "diverged"]]
    assert found.to_numpy().tolist() == [
        ["bedkd", "n_poison", 20.0, "16", 95.0, "4", 75.0, "64"],
        ["bedkd_plus", "n_poison", 7.0, "16", 75.0, "4", 68.0, ""],
        ["bedkd", "lambda", 20.0, "0.1", 82.0, "0.9", 62.0, ""],
        ["bedkd_plus", "lambda", 5.0, "0.9", 7.0, "0.1", 2.0, ""],
    ]
    assert (ranking[ranking.metric == "cacc"].span == 0).all()
    assert ranking.span.is_monotonic_decreasing
    assert asr.is_sure.tolist() == [True, True, False, False]
    alone = rank_parameters(points[points.seed == 1])
    assert not alone.is_sure.any()  # one seed says nothing of chance


def test_a_value_without_all_its_seeds_has_no_mean(points):
    """5% on one seed is no low: the other seed diverged there, or is not finished."""
    is_lost = (points.setting == "4") & (points.seed == 3)
    points.loc[is_lost, ["state", "asr", "pacc", "cacc"]] = ["missing", np.nan, np.nan, np.nan]
    asr = rank_parameters(points).query("metric == 'asr' and study == 'n_poison'")
    assert asr.set_index("defence").span.to_dict() == {"bedkd": 0.0, "bedkd_plus": 0.0}
    assert asr.set_index("defence").diverged.to_dict() == {"bedkd": "64", "bedkd_plus": ""}


def test_intervals_are_t_intervals_over_the_seeds(points):
    cells = summarise(points).query("defence == 'bedkd' and setting == '0.1' and metric == 'asr'")
    assert cells.value.item() == 20
    # 12.706: Student's t for one degree of freedom; 10: the standard error of 10 and 30
    assert cells.half_width.item() == pytest.approx(127.06, abs=0.01)


def test_the_table_and_what_is_said_of_it(points, tmp_path):
    table = save_ranking(points, tmp_path)
    assert list(table.index.get_level_values("parameter")) == ["n_p", "λ"]
    assert list(table.columns) == [
        *("ASR BeDKD", "ASR BeDKD+", "PACC BeDKD", "PACC BeDKD+", "CACC BeDKD", "CACC BeDKD+"),
        "diverged",
    ]
    row = ("toy-offence", "badwords", "n_p")
    assert (table.loc[row, "ASR BeDKD"], table.loc[row, "diverged"]) == (75, "64")
    assert len(pd.read_csv(tmp_path / "sensitivity.csv")) == 12
    means = pd.read_csv(tmp_path / "sensitivity_means.csv")
    assert len(means) == 30 and means.value.isna().sum() == 3  # the diverged one's
    text = (tmp_path / "sensitivity.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if "n_p" in line]
    assert line.replace(" ", "").split("|")[3:6] == ["n_p", "75.0", "68.0"]


def test_a_parameter_with_one_value_moves_nothing_that_could_be_said(points):
    alone = points[(points.study != "lambda") | points.is_own | (points.setting == "0.1")]
    assert alone[alone.study == "lambda"].setting.nunique() == 1
    assert set(rank_parameters(alone).study) == {"n_poison"}
    (curves,) = {len(figure.axes) for figure in figures.draw_curves(alone).values()}
    assert curves == 1


def test_a_method_with_one_value_of_a_parameter_is_not_ranked_by_it(points):
    is_alone = (points.study == "lambda") & (points.defence == "bedkd_plus") & ~points.is_own
    ranking = rank_parameters(points[~is_alone])
    assert set(ranking[ranking.study == "lambda"].defence) == {"bedkd"}
    assert set(ranking[ranking.study == "n_poison"].defence) == {"bedkd", "bedkd_plus"}


def test_a_tornado_of_what_moves_nothing_is_a_point_wide(points):
    still = rank_parameters(points).assign(low=0.0, high=0.0, span=0.0)
    low, high = figures.plot_tornado(still[still.metric == "asr"]).get_xlim()
    assert (low, high) == pytest.approx((-0.5, 0.5))


def test_nothing_is_finished(points, tmp_path):
    lost = points.assign(state="missing", asr=np.nan, pacc=np.nan, cacc=np.nan)
    for none in (lost, points[:0]):
        assert rank_parameters(none).empty and lay_out_ranking(rank_parameters(none)).empty
        assert figures.draw_tornados(none) == figures.draw_curves(none) == {}
        assert figures.draw_heats(none) == {} and save_ranking(none, tmp_path).empty


def test_tornado_draws_the_spans_longest_on_top(points):
    ranking = rank_parameters(points)
    ax = figures.plot_tornado(ranking[ranking.metric == "asr"], own={"bedkd": 20.0})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["n_p", "λ"]
    bars = {
        group.get_label(): [(bar.get_x(), bar.get_width()) for bar in group]
        for group in ax.containers
    }
    # seed by seed n_p moves BeDKD's by 80 and 70, an interval of 75 ± 64; λ by 70 and 54, 62 ± 102
    assert bars == {
        **{"BeDKD": [(20, 75)], "BeDKD, may be chance": [(20, 62)]},
        **{"BeDKD+": [(7, 68)], "BeDKD+, may be chance": [(5, 2)]},
    }
    low, high = ax.get_ylim()
    assert low > high  # the first row on top
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [20]
    texts = {text.get_text().strip() for text in ax.texts}
    assert {"16", "4  ✗ 64", "0.1", "0.9"} <= texts
    colours = {group.get_label(): group[0].get_facecolor() for group in ax.containers}
    assert colours["BeDKD"] == matplotlib.colors.to_rgba(LOOKS["bedkd"]["color"])


def test_tornado_has_a_panel_for_each_measure(points):
    (figure,) = figures.draw_tornados(points).values()
    assert [ax.get_title() for ax in figure.axes] == ["ASR (%)", "PACC (%)", "CACC (%)"]
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    kinds = ("", ", may be chance", ", own values")
    assert legend == {name + kind for name in ("BeDKD", "BeDKD+") for kind in kinds}
    own = sorted(line.get_xdata()[0] for line in figure.axes[0].get_lines())
    assert own == [7, 20]


def drawn_lines(ax):
    return {bars.get_label(): bars for bars in ax.containers}


def test_curve_draws_means_intervals_seeds_and_what_diverged(points):
    ax = figures.plot_curve(points[points.study == "n_poison"], metric="asr")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["4", "16", "64"]
    line, _, (bars,) = drawn_lines(ax)["BeDKD"]
    assert line.get_ydata()[:2].tolist() == [95, 20] and np.isnan(line.get_ydata()[2])
    low, high = bars.get_segments()[1][:, 1]
    assert (high - low) / 2 == pytest.approx(127.06, abs=0.01)
    dots = next(drawn for drawn in ax.collections if isinstance(drawn, PathCollection))
    heights = np.ma.filled(dots.get_offsets()[:, 1], np.nan)
    assert sorted(heights[~np.isnan(heights)]) == [5, 10, 30, 90, 100]
    others = {str(line.get_label()): line for line in ax.get_lines()}
    assert others["BeDKD diverged"].get_xdata().round().tolist() == [2]
    assert "BeDKD+ diverged" not in others
    assert others["Never poisoned"].get_ydata()[0] == 8
    loose = [line for line in ax.get_lines() if line.get_linestyle() == "None"]
    own = [line for line in loose if line.get_marker() in ("^", "s")]  # not the intervals' ends
    assert [list(line.get_ydata()) for line in own] == [[20], [7]]


def test_curves_are_one_figure_a_measure_and_one_panel_a_parameter(points, grid):
    drawn = figures.draw_curves(pd.concat([points, grid]))
    cell = "toy-offence-badwords"
    assert list(drawn) == [f"curves-{name}-{cell}" for name in ("asr", "pacc", "cacc")]
    for figure in drawn.values():
        assert [ax.get_title() for ax in figure.axes] == ["λ", "n_p"]
    low, high = drawn[f"curves-cacc-{cell}"].axes[0].get_ylim()
    assert (low, high) == (88, 96)  # 91 and 93, with a margin of 3


def test_heat_map_draws_the_grid(grid):
    ax = figures.plot_heat(grid, metric="asr")
    drawn = ax.collections[0].get_array()
    assert np.ma.filled(drawn.astype(float), np.nan).reshape(2, 2).tolist()[0] == [5, 9]
    assert np.ma.getmaskarray(drawn).reshape(2, 2).tolist() == [[False, False], [False, True]]
    assert [text.get_text() for text in ax.texts] == ["5", "9", "13", "✗"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("λ", "n_p")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0.1", "0.9"]
    (frame,) = ax.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0, 0), 1, 1)
    (figure,) = figures.draw_heats(grid).values()
    assert [ax.get_title() for ax in figure.axes] == [
        "ASR (%), BeDKD",
        "PACC (%), BeDKD",
        "CACC (%), BeDKD",
    ]


def test_a_study_is_drawn_by_its_kind(points, grid):
    """A parameter as curves of both methods, a grid as heat maps, a row for each method."""
    curves = figures.draw_study(points[points.study == "lambda"])
    assert [ax.get_title() for ax in curves.axes] == ["ASR (%)", "PACC (%)", "CACC (%)"]
    assert curves.get_supxlabel() == "λ"
    assert list(drawn_lines(curves.axes[0])) == ["BeDKD", "BeDKD+"]
    maps = figures.draw_study(pd.concat([grid, grid.assign(defence="bedkd_plus")]))
    assert [ax.get_title() for ax in maps.axes][2:4] == ["CACC (%), BeDKD", "ASR (%), BeDKD+"]


def test_points_of_a_profile_are_read_from_its_records(tmp_path, outputs):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: quick\ngrid: {dataset: toy-offence, attack: badwords, seed: [1, 3]}\n"
        "sweep_plus: true\nstudies: [gamma, lambda]\n"
        "sweeps: {gamma: [0.1, 0.2], lambda: [0.3, 0.9]}\n"
    )
    profile = load_profile(str(path))
    first, second = profile.runs()
    for stage, record in (
        ("victim", {"asr": 95.0, "cacc": 92.0}),
        ("akd", {"asr": 5.0, "pacc": 90.0, "cacc": 91.0}),
    ):
        first.folder(stage).mkdir(parents=True)
        (first.folder(stage) / "record.json").write_text(json.dumps(record))
    ((_, point),) = [p for p in profile.sweep("lambda").points(second) if p[0] == 0.9]
    divergence_file(point).write_text("AKD diverged in cycle 8\n")
    points = load_points(profile, profile.runs())
    assert len(points) == 2 * (2 + 2 + 2)  # γ of BeDKD alone, λ of both
    assert list(points.columns) == COLUMNS
    done = points[points.state == "ok"]
    assert done[["study", "setting", "asr"]].to_numpy().tolist() == [
        ["gamma", "0.1", 5.0],
        ["lambda", "0.3", 5.0],
    ]
    assert done.is_own.all()
    failed = points[points.state == "failed"]
    assert failed[["seed", "defence", "setting"]].to_numpy().tolist() == [[3, "bedkd", "0.9"]]
    assert len(load_points(profile, [first], sweeps=[profile.sweep("gamma")])) == 2
    assert len(load_points(profile, [first], {"studies": ["gamma"]})) == 2
    is_shown = (points.study == "lambda") & (points.defence == "bedkd")
    table = describe_points(points[is_shown])
    first = table[["method", "value", "seed", "ASR before", "ASR", "CACC"]].iloc[0].tolist()
    assert first == ["BeDKD", "0.3", "1", 95.0, 5.0, 91.0]
    assert table.ASR.isna().tolist() == [False, True, True, True]  # no clean model, or none yet
