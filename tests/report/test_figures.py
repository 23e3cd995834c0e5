"""Figures draw the data they are given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from bedkd.report import figures, loading
from bedkd.report.show import mark_trigger, show_poison

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label(): tuple(map(tuple, line.get_xydata())) for line in ax.get_lines()}


def test_phases():
    history = pd.DataFrame({"epoch": [0, 1, 2], "trust_loss": [np.nan, 3.0, 2.0]})
    ax = figures.plot_phases(history, "loss", phases=("trust", "punish"))
    assert lines(ax) == {"trust": ((1, 3), (2, 2))} and ax.get_ylabel() == "loss"


def test_gamma_and_cycles():
    curve = pd.DataFrame({"gamma": [0.1, 0.2], "far": [40.0, 10.0], "frr": [1.0, 5.0]})
    assert lines(figures.plot_gamma(curve)) == {
        "FAR": ((0.1, 40), (0.2, 10)),
        "FRR": ((0.1, 1), (0.2, 5)),
    }
    history = pd.DataFrame({"epoch": [0, 1, 2], "asr": [100, np.nan, 3], "cacc": [90, np.nan, 89]})
    assert lines(figures.plot_cycles(history))["ASR"] == ((0, 100), (2, 3))


def test_without_an_attack_there_is_no_far_and_no_asr():
    curve = pd.DataFrame({"gamma": [0.1], "far": [None], "frr": [1.0]})
    assert set(lines(figures.plot_gamma(curve))) == {"FRR"}
    history = pd.DataFrame({"epoch": [0, 1], "asr": [None, None], "cacc": [90, 89]})
    assert set(lines(figures.plot_cycles(history))) == {"CACC"}


def test_parting_and_histogram():
    history = pd.DataFrame({"epoch": [0, 1], "mepd_clean": [0, 0.4], "mepd_poisoned": [0, 0.01]})
    drawn = lines(figures.plot_parting(history, gamma=0.1))
    assert drawn["clean"] == ((0, 0), (1, 0.4)) and drawn["poisoned"][1] == (1, 0.01)
    scores = pd.DataFrame({"mepd": [0.01, 0.02, 0.4], "is_poisoned": [True, True, False]})
    ax = figures.plot_scores(scores, threshold=0.1)
    heights = [sum(bar.get_height() for bar in group) for group in ax.containers]
    assert heights == [1, 2] and "γ = 0.1" in lines(ax) and ax.get_xlabel() == "MEPD"
    ax = figures.plot_scores(scores.rename(columns={"mepd": "p"}), threshold=0.05, score="p")
    assert "p = 0.05" in lines(ax) and ax.get_xlabel().startswith("p-value")


@pytest.fixture
def points():
    """Two clean rows and two poisoned ones, one of unknown class, as two models see them."""
    rows = [("clean", 0), ("clean", 1), ("poisoned", 1), ("poisoned", -1)]
    return pd.DataFrame(
        [
            {"x": x, "y": 10 + x, "kind": kind, "label": label, "model": model}
            for model, start in (("before", 0), ("after", 5))
            for x, (kind, label) in enumerate(rows, start)
        ]
    )


def places(ax):
    return {group.get_label(): group.get_offsets().tolist() for group in ax.collections}


def test_tsne(points):
    names = {"label_names": ("neg", "pos"), "target_label": 0}
    ax = figures.plot_tsne(points[points.model == "before"], **names)
    assert places(ax) == {
        "clean, neg (target)": [[0, 10]],
        "clean, pos": [[1, 11]],
        "poisoned, class unknown": [[3, 13]],
        "poisoned, pos": [[2, 12]],
    }
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(places(ax))
    assert not ax.get_xticks().size and not ax.get_yticks().size
    # one class, one colour and one shape, poisoned or not
    colours = {group.get_label(): group.get_facecolor()[0, :3].tolist() for group in ax.collections}
    assert colours["clean, pos"] == colours["poisoned, pos"] != colours["clean, neg (target)"]


def test_names_from_data_are_no_mathematics(points):
    """Neither in the legend nor in a title, where `$…$` that is no TeX would raise when drawn."""
    names = ("a $\\frac$ b", "\u202eback")
    figure = figures.plot_tsne_grid(points.assign(attack="$\\x$"), label_names=names)
    figure.canvas.draw()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["clean, a \\$\\frac\\$ b", "clean, ⟨U+202E⟩back"]
    assert figure.axes[0].get_title() == "\\$\\x\\$, before"


def test_tsne_of_many_classes(points):
    many = pd.concat([points.assign(label=label) for label in range(14)])
    ax = figures.plot_tsne(many, label_names=[f"c{i}" for i in range(14)])
    assert len(places(ax)) == 28 and "clean, c13" in places(ax)


def test_tsne_grid_has_before_above_after(points):
    both = pd.concat([points.assign(attack=a) for a in ("badwords", "none")])
    both = both[(both.attack != "none") | (both.kind == "clean")]
    figure = figures.plot_tsne_grid(both, label_names=("neg", "pos"))
    titles = ["badwords, before", "none, before", "badwords, after", "none, after"]
    assert [ax.get_title() for ax in figure.axes] == titles
    assert places(figure.axes[0])["clean, pos"] == [[1, 11]]
    assert places(figure.axes[3]) == {"clean, neg": [[5, 15]], "clean, pos": [[6, 16]]}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["clean, neg", "clean, pos", "poisoned, class unknown", "poisoned, pos"]
    one = figures.plot_tsne_grid(points.assign(attack="synbkd"), label_names=("neg", "pos"))
    assert [ax.get_title() for ax in one.axes] == ["synbkd, before", "synbkd, after"]


def test_grid_has_a_panel_for_each_cell():
    part = pd.DataFrame({"gamma": [0.1, 0.2], "far": [40.0, 10.0], "frr": [1.0, 5.0]})
    cells = [(d, a) for d in ("a", "b") for a in ("x", "y", "z")]
    rows = pd.concat([part.assign(dataset=d, attack=a) for d, a in cells])
    figure = figures.plot_grid(rows, figures.plot_gamma)
    assert [ax.get_title() for ax in figure.axes] == [f"{d}, {a}" for d, a in cells]


def test_given_axes_are_drawn_on_and_returned():
    ax = plt.subplots()[1]
    curve = pd.DataFrame({"gamma": [0.1], "far": [1.0], "frr": [1.0]})
    assert figures.plot_gamma(curve, ax=ax) is ax


def test_saved_twice_the_same_bytes(tmp_path):
    curve = pd.DataFrame({"gamma": [0.1, 0.2], "far": [40.0, 10.0], "frr": [1.0, 5.0]})
    for name in ("one", "two"):
        figures.save_figure(figures.plot_gamma(curve).figure, tmp_path / name)
    for ending in ("png", "pdf"):
        one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_trigger_is_marked_and_markup_escaped():
    assert mark_trigger("a <b> film", "a cf <b> film mn") == (
        "a <mark>cf</mark> &lt;b&gt; film <mark>mn</mark>"
    )
    rows = pd.DataFrame(
        {"clean_text": ["a film"], "text": ["a cf film"], "clean_label": [-1], "label": [1]}
    )
    shown = show_poison(rows, ("neg", "pos")).to_html()
    assert "<mark>cf</mark>" in shown and "unknown" in shown and "pos" in shown


def test_cycles_by_a_parameter_say_which_line_is_which():
    cycles = {"epoch": [0, 5] * 2, "n_poison": [4, 4, 16, 16]}
    history = pd.DataFrame(cycles | {"asr": [100, 50, 100, 0], "cacc": [90, 80, 90, 85]})
    ax = figures.plot_cycles_by(history, by="n_poison")
    legend = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    lines = dict(zip(names, legend.get_lines(), strict=True))
    assert list(lines) == ["n_p = 4", "n_p = 16", "CACC", "ASR"]
    drawn = {
        (line.get_linestyle(), *line.get_ydata()) for line in ax.lines if len(line.get_ydata())
    }
    assert drawn == {("-", 90, 80), ("--", 100, 50), ("-", 90, 85), ("--", 100, 0)}
    assert lines["CACC"].get_linestyle() == "-" and lines["ASR"].get_linestyle() == "--"
    both = pd.concat([history.assign(seed=1), history[history.n_poison == 4].assign(seed=3)])
    legend = figures.plot_cycles_by(both, by="n_poison").get_legend()
    assert legend.get_texts()[1].get_text() == "n_p = 16 (1 of 2 seeds)"


def test_curve_of_each_learning_rate():
    rates = ["1e-05", "1e-05", "3e-05", "3e-05"]
    curve = pd.DataFrame({"learning rate": rates, "epoch": [0, 1, 0, 1], "asr": None})
    curve["cacc"] = [90.0, 80, 90, 70]
    ax = figures.plot_cycles_by(curve, by="learning rate", unit="epoch")
    assert lines(ax)["learning rate = 3e-05"] == ((0, 90), (1, 70)) and len(lines(ax)["ASR"]) == 0
    assert ax.get_xlabel() == "epoch"


def test_a_run_with_fewer_cycles_stays_as_it_ended(monkeypatch):
    """A mean over seeds is over all of them at every cycle; of other cells nothing is known."""
    rows = {
        "short": pd.DataFrame({"epoch": [0, 2], "asr": [90.0, 20.0]}),
        "long": pd.DataFrame({"epoch": [0, 2, 4], "asr": [90.0, 40.0, 10.0]}),
        "other": pd.DataFrame({"epoch": [0, 9], "asr": [90.0, 1.0]}),
    }
    rows = {
        name: table.assign(dataset="d", attack="b" if name == "other" else "a", seed=name)
        for name, table in rows.items()
    }
    monkeypatch.setattr(loading, "is_left", lambda *_: True)
    monkeypatch.setattr(loading, "read_cycles", rows.get)
    found = loading.load_cycles(list(rows))
    ends = found[found.seed == "short"]
    assert ends.epoch.tolist() == [0, 2, 4] and ends.asr.tolist() == [90.0, 20.0, 20.0]
    assert found[found.seed == "long"].asr.tolist() == [90.0, 40.0, 10.0]
    assert found[found.seed == "other"].epoch.tolist() == [0, 9]


@pytest.mark.filterwarnings("error")
def test_cycles_without_an_attack_are_an_empty_picture_and_no_warning():
    history = pd.DataFrame({"epoch": [0, 1], "asr": [None, None], "pacc": [None, None]})
    assert not lines(figures.plot_forgetting(history))
