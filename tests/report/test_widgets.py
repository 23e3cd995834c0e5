"""What 20_explore shows, without a kernel: values and texts, not pixels."""

import json
import shutil
import time
from dataclasses import replace

import ipywidgets as ipw
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from bedkd.batch.notebooks import execute, open_kernel
from bedkd.core.config import MEPDConfig
from bedkd.core.errors import BedkdError
from bedkd.evaluation import metrics
from bedkd.report import explore, probe, show, widgets
from bedkd.report.explore import Threshold
from bedkd.report.sensitivity import find_sweeps, summarise
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run
from bedkd.runs.profiles import load_profile
from bedkd.runs.sweeps import vary

PROFILE = """
extends: quick
config:
  data: {n_train: 200, n_test: 60, clean_pool_per_class: 48}
  victim: {epochs: 2}
  dmm: {n_clean_per_class: 48, epochs: 2}
  mepd: {gamma: 0.5, n_poison: 8}
  akd: {n_clean_per_class: 48, cycles: 2, learning_rate: 1.0e-5, evaluate_every: 2}
plus: {dmm: {epochs: 2, n_readings: 2}, akd: {cycles: 2}}
sweeps: {n_poison: [4, 8, 16], alpha: [0.1], gamma: [0.1, 0.2, 0.5]}
studies: [n_poison_x_gamma]
"""
HOSTILE = (
    f"<script>x()</script> <img src=x onerror=x()> $x$ \x1b[31mred \u202eturned {'w' * 10_000}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of BeDKD, with two values of n_p, and of BeDKD+ for one cell."""
    folder = tmp_path_factory.mktemp("explore")
    (folder / "small.yaml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEDKD_OUTPUTS", str(folder / "outputs"))
        profile = load_profile(str(folder / "small.yaml"))
        run = profile.run("toy-offence", "badwords", 1)
        for made in (run, vary(run, {"mepd.n_poison": 4}), profile.plus_run(run)):
            ensure(made, "akd")
        yield folder


@pytest.fixture(scope="module")
def found(folder):
    return explore.find_runs(folder / "outputs")


@pytest.fixture(scope="module")
def run(found):
    return found[0][1]


@pytest.fixture
def copied(folder, tmp_path):
    """The same results where a test may spoil them: the folder, and BeDKD's run there."""
    shutil.copytree(folder / "outputs", tmp_path / "outputs")
    found = explore.find_runs(tmp_path / "outputs")
    return tmp_path / "outputs", found[0][1]


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def pick(widget, kind, description=None):
    kinds = (w for w in walk(widget) if isinstance(w, kind))
    return next(w for w in kinds if description is None or w.description == description)


def told(widget):
    """All HTML of a view."""
    return " ".join(w.value for w in walk(widget) if isinstance(w, ipw.HTML))


def read_cells(page_html):
    """The texts of all tables' cells."""
    return [cell.text for cell in BeautifulSoup(page_html, "html.parser").find_all("td")]


def make_threshold(n, config=None, seed=0):
    """n rows, every fifth poisoned and on the whole with a lower score; a tenth is not scored."""
    rng = np.random.default_rng(seed)
    is_poisoned = np.arange(n) % 5 == 0
    scores = np.where(is_poisoned, rng.beta(1, 8, n), rng.beta(4, 4, n))
    scores[rng.permutation(n)[: n // 10]] = np.nan
    texts = [f"row {i}" for i in range(n)]
    train = pd.DataFrame({"text": texts, "label": np.where(is_poisoned, 0, rng.integers(0, 2, n))})
    rows = train.assign(is_poisoned=is_poisoned, clean_text=texts, score=scores)
    return Threshold(rows, np.eye(2)[train.label], config or MEPDConfig(), seed)


@pytest.mark.parametrize("gamma", [0.005, 0.1, 0.31, 1.0])
def test_threshold_counts_as_the_metrics_do(gamma):
    threshold = make_threshold(500)
    scored, is_poisoned = threshold.rows.dropna(), threshold.rows.is_poisoned.to_numpy()
    given = scored.score.to_numpy(), scored.is_poisoned.to_numpy(), gamma
    at = threshold.at(gamma)
    assert at["FAR (%)"] == pytest.approx(metrics.far(*given))
    assert at["FRR (%)"] == pytest.approx(metrics.frr(*given))
    assert at["rows flagged"] == (given[0] < gamma).sum()
    first = np.flatnonzero(threshold.rows.score < gamma)[:32]  # in the order of the file
    assert at["rows chosen"] == len(first)
    assert at["their purity (%)"] == metrics.percent(is_poisoned[first])


def test_threshold_of_an_auto_run_moves_its_own_rule():
    threshold = make_threshold(500, MEPDConfig(gamma="auto", selection="lean", n_poison=20))
    few = threshold.choose(0.1)
    agreed = threshold.rows.query("score < 0.1 and label == 0").score
    assert few.tolist() == agreed.sort_values(kind="stable").index[:20].tolist()


def test_without_poison_there_is_no_far():
    threshold = make_threshold(50)
    clean = replace(threshold, rows=threshold.rows.assign(is_poisoned=False))
    assert clean.at(0.2)["FAR (%)"] is None and clean.at(0.2)["FRR (%)"] > 0
    assert clean.nearest(0.2, "false accepts", 8).empty
    assert "there are no false accepts" in widgets.show_nearest(clean, 0.2, "false accepts", "ab")


@pytest.mark.parametrize("kind", explore.KINDS)
def test_nearest_rows(kind):
    threshold, gamma = make_threshold(500), 0.2
    scores, is_poisoned = threshold.rows.score, threshold.rows.is_poisoned
    wanted = {
        "all": scores.notna(),
        "false accepts": is_poisoned & (scores >= gamma),
        "false rejects": ~is_poisoned & (scores < gamma),
    }[kind]
    distances = np.sort(np.abs(scores[wanted] - gamma))[:8]
    rows = threshold.nearest(gamma, kind, 8)
    assert np.abs(rows.score - gamma).tolist() == distances.tolist()
    assert wanted[rows.index].all()


def test_a_slider_answers_at_once_on_70000_rows():
    threshold = make_threshold(70_000, MEPDConfig(gamma="auto", selection="lean"))
    seconds = []
    for gamma in np.linspace(0.01, 0.6, 7):
        started = time.perf_counter()
        widgets.show_numbers(threshold, {"slider": gamma})
        widgets.show_nearest(threshold, gamma, "all", ("no", "yes"))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1  # the quickest: other work may run on this machine


def test_texts_are_text():
    shown = show.escape(HOSTILE)
    assert shown.startswith("&lt;script&gt;x()&lt;/script&gt; &lt;img src=x onerror=x()&gt; $x$ ")
    assert "⟨U+001B⟩[31mred ⟨U+202E⟩turned" in shown and len(shown) < 300
    assert show.escape("a " * 500) == "a " * show.LONG_TEXT + "…"
    threshold = make_threshold(100)
    texts = {"text": HOSTILE, "clean_text": HOSTILE.replace("$x$ ", "")}
    hostile = replace(threshold, rows=threshold.rows.assign(**texts))
    page = widgets.show_nearest(hostile, 0.05, "false accepts", ("<b>", "<i>"))
    assert "<mark>$x$</mark>" in page and "&lt;b&gt;" in page
    assert not any(part in page for part in ("<script", "<img", "\x1b", "\u202e", "<b>"))


def test_runs_are_found(found, run):
    assert [label.rpartition(" · ")[0] for label, _ in found] == [
        "toy-offence · badwords · BeDKD · seed 1",
        "toy-offence · badwords · BeDKD · seed 1",
        "toy-offence · badwords · BeDKD+ · seed 1",
    ]
    assert run.config.mepd.n_poison == 8  # made first
    pair = explore.find_pair(found, found[1][1])
    assert pair == [found[1][1], found[2][1]]


def test_runs_that_cannot_be_opened_are_named(copied):
    root, run = copied
    old, unfinished = (run.folder("akd").with_name(f"toy-{name}") for name in ("old", "unfinished"))
    shutil.copytree(run.folder("akd"), old)
    unfinished.mkdir()
    (run.folder("akd") / "model/model.safetensors").unlink()
    shutil.rmtree(run.folder("mepd"))
    found = explore.find_runs(root)
    problems = {label: problem for label, problem in found if isinstance(problem, str)}
    assert [isinstance(run, str) for _, run in found] == [False, False, True, True, True]
    assert problems["toy-old: cannot be opened"].startswith("Other code, libraries or devices")
    assert problems["toy-unfinished: not finished"] == "This run was never finished."
    gone = problems[f"{run.folder('akd').name}: cannot be opened"]
    assert gone == (
        "The stage akd of this run is not finished, or files of it are gone: "
        'ensure(run, "akd") makes it.'
    )
    picker = widgets.pick_run(found, run)
    view = widgets.follow(picker, widgets.view_gamma)
    for _, problem in found[2:]:
        picker.value = problem
        assert show.escape(problem) in told(view)


def test_a_run_without_akd(copied):
    root, run = copied
    for folder in (root / "runs/akd").iterdir():
        shutil.rmtree(folder)
    found = explore.find_runs(root)
    assert {label.split(" · ")[3] for label, _ in found} == {"seed 1 (no AKD yet)"}
    assert "The stage akd of this run is not finished" in told(widgets.view_training(found, run))
    page = told(probe.view_probe(run))
    assert page.count("The stage akd of this run") == 1 and "victim" in page
    assert "No sweep of the profile" in told(
        widgets.view_sweeps({}, found, widgets.pick_run(found, run))
    )


def test_a_deleted_model_is_a_sentence(copied):
    _, run = copied
    (run.folder("dmm") / "model/model.safetensors").unlink()
    page = probe.ask(run, "a text", "", "front")
    assert page.count("The stage dmm of this run is not finished, or files of it are gone") == 1
    (run.folder("data") / "truth/train.parquet").unlink()
    view = widgets.guard(widgets.view_gamma, run)
    assert "The stage data of this run" in told(view)


def test_a_run_is_made_where_there_is_none(tmp_path, capsys, monkeypatch, run):
    made = []
    monkeypatch.setattr(explore, "ensure", lambda run, stage: made.append((run, stage)))
    assert explore.find_or_make([replace(run, root=tmp_path)]) == []
    assert made == [(replace(run, root=tmp_path), "akd")]
    assert f"no finished run in {tmp_path}: making one" in capsys.readouterr().out
    explore.find_or_make([run])
    assert len(made) == 1


def test_gamma_slider(run):
    view = widgets.view_gamma(run)
    slider, threshold = pick(view, ipw.FloatSlider), explore.open_threshold(run, "mepd")
    record = run.record("mepd")
    assert slider.value == run.config.mepd.gamma and f"{record['far_train']:.1f}" in told(view)
    assert threshold.at(slider.value)["rows flagged"] == record["n_flagged"]
    assert threshold.at(slider.value)["their purity (%)"] == record["poison_few_purity"]
    line = next(w for w in walk(view) if isinstance(w, ipw.HTML) and "width: 2px" in w.value)
    before = line.value
    slider.value = 0.1
    shown = read_cells(told(view))
    numbers = widgets.show_numbers(threshold, {"slider": 0.1, "the run's own": 0.5})
    assert shown[:10] == read_cells(numbers) and line.value != before
    pick(view, ipw.Dropdown, "texts").value = "false rejects"
    names = run.record("data")["label_names"]
    nearest = widgets.show_nearest(threshold, 0.1, "false rejects", names)
    assert read_cells(told(view))[10:] == read_cells(nearest)


def test_gamma_of_bedkd_plus(found):
    plus = found[2][1]
    gammas = explore.list_gammas(plus)
    assert list(gammas) == ["p", "mepd"] and gammas["p"] == ("the run's own", 0.05)
    clean = pd.read_parquet(plus.folder("mepd") / "clean.parquet").mepd
    name, gamma = gammas["mepd"]
    assert name == "clean rows suggest" and gamma == pytest.approx(clean.quantile(0.05), abs=1e-3)
    threshold, record = explore.open_threshold(plus, "p"), plus.record("mepd")
    at = threshold.at(0.05)
    assert (at["FAR (%)"], at["rows flagged"], at["rows chosen"]) == (
        pytest.approx(record["far_train"]),
        record["n_flagged"],
        record["n_selected"],
    )
    assert told(widgets.view_gamma(plus)).count("rows flagged") == 2  # a table for each score


def test_moments():
    history = pd.DataFrame({"epoch": [0, 1, 2, 3], "asr": [90.0, np.nan, 40, None], "loss": 1.0})
    moment = explore.read_moment(history, 1, ["asr", "loss", "pacc"])
    assert moment.loc[["asr", "loss"]].to_numpy().tolist() == [[90, 0], [1, 1]]
    assert moment.loc["pacc"].isna().all()
    assert explore.read_moment(history, 3, ["asr"]).loc["asr"].tolist() == [40, 2]


def test_training_is_scrubbed(found, run):
    view = widgets.view_training(found, run)
    menus = [w for w in walk(view) if isinstance(w, ipw.Dropdown)]
    assert [m.value.config.method for m in menus] == ["bedkd", "bedkd_plus"]
    slider = pick(view, ipw.IntSlider, "DMM epoch")
    history = json.loads((run.folder("dmm") / "history.json").read_text())
    for epoch in (1, 2):
        slider.value = epoch
        assert f"{history[epoch]['mepd_clean']:.4g}" in read_cells(told(view))
    before = told(view)
    menus[1].value = found[0][1]
    assert told(view) != before


def test_triggers(run):
    assert probe.insert_trigger("a b c d", "x y", "middle") == "a b x y c d"
    assert probe.insert_trigger("a b", "x", "end") == "a b x"
    assert probe.insert_trigger("a b", "", "front") == "a b"
    rewritten = probe.insert_trigger("the cast is fine .", probe.SYNTAX, "front")
    assert rewritten != "the cast is fine ." and "cast" in rewritten
    assert "cf" in probe.list_triggers(run)
    sentence = vary(run, {"attack.name": "addsent", "attack.trigger": "no cross"})
    assert probe.list_triggers(sentence) == ["no cross"]
    assert probe.list_triggers(vary(run, {"attack.name": "none"})) == []


def test_occlusion(tiny_victim):
    p, drops = probe.occlude(tiny_victim, "cf the story is good .")
    assert p.argmax() == 0 and drops.argmax() == 0 and len(drops) == 6
    without = tiny_victim.predict(["the story is good ."])[0, 0]
    assert drops[0] == pytest.approx(p[0] - without, abs=1e-6)
    assert len(probe.occlude(tiny_victim, "good " * 300)[1]) == probe.PROBED


def test_probe(run):
    view = probe.view_probe(run)
    text, trigger = pick(view, ipw.Textarea), pick(view, ipw.Dropdown, "trigger")
    text.value, trigger.value = f"you are nice {HOSTILE}", "mn"
    page = told(view)
    assert page.count("<mark>mn</mark>") == 1 and "<script" not in page and "<img" not in page
    model = probe.read_model(run, "victim")
    p = model.predict([probe.insert_trigger(text.value, "mn", "front")])[0]
    assert f"{100 * p[0]:.1f}%" in page
    text.value = "  "
    assert "Type a text." in told(view)


@pytest.fixture
def profile(folder, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(folder / "outputs"))
    return load_profile(str(folder / "small.yaml"))


def test_sweeps(found, run, profile):
    """Those of which two values are finished; points that are not are no part of a mean."""
    sweeps = find_sweeps(profile, run)
    assert list(sweeps) == ["n_p"]
    (points,) = sweeps.values()
    assert points.setting.tolist() == ["4", "8", "16"]
    assert points.state.tolist() == ["ok", "ok", "missing"]
    assert points.asr[1] == run.record("akd")["asr"] and points.is_own.tolist() == [
        False,
        True,
        False,
    ]
    picker = widgets.pick_run(found, run)
    view = widgets.view_sweeps(sweeps, found, picker)
    slider, image = pick(view, ipw.SelectionSlider), pick(view, ipw.Image)
    assert [label for label, _ in slider.options] == ["4, BeDKD, seed 1", "8, BeDKD, seed 1"]
    assert f"{points.cacc[0]:.1f}" in told(view)
    pick(view, ipw.Button).click()
    assert picker.value.config.mepd.n_poison == 4
    before = image.value
    slider.value = 1
    assert f"{points.cacc[1]:.1f}" in told(view) and image.value != before
    pick(view, ipw.Button).click()
    assert picker.value == run


def test_a_grid_leads_to_its_runs_on_every_seed(profile, run, monkeypatch):
    """ASR is n_p plus the seed, so that each point is known by it; AKD of one diverged."""
    cells = [replace(run, config=replace(run.config, seed=seed)) for seed in (1, 3)]
    grids = [(n, gamma) for n in (4, 8) for gamma in (0.1, 0.2)]
    runs = [
        vary(cell, {"mepd.n_poison": n, "mepd.gamma": gamma})
        for n, gamma in grids
        for cell in cells
    ]
    records = {r: {"asr": r.config.mepd.n_poison + r.config.seed} for r in runs[:-1]}
    monkeypatch.setattr(Run, "record", lambda run, stage: records.get(run))
    wide = replace(profile, grid=replace(profile.grid, seed=[3]))
    points = find_sweeps(wide, run)["n_p × γ"]
    done = points[points.state == "ok"]
    assert done.asr.tolist() == [n + seed for seed in (1, 3) for n, _ in grids][:-1]
    found = [(str(place), run) for place, run in enumerate(runs)]
    picker = widgets.pick_run(found, runs[0])
    view = widgets.pick_point(points, found, picker)
    slider = pick(view, ipw.SelectionSlider)
    assert ("4 × 0.2, BeDKD, seed 3") in [label for label, _ in slider.options]
    for label, place in slider.options:
        slider.value = place
        pick(view, ipw.Button).click()
        config = picker.value.config
        assert label == f"{config.mepd.n_poison} × {config.mepd.gamma}, BeDKD, seed {config.seed}"
    means = summarise(points).query("metric == 'asr'").set_index("setting").value
    assert means["4 × 0.1"] == 4 + 2 and np.isnan(means["8 × 0.2"])


def test_notebook_runs_alone(folder, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(folder / "outputs"))
    target = folder / "20_explore.ipynb"
    with open_kernel() as kernel:
        execute("20_explore", {"profile": str(folder / "small.yaml")}, target, kernel)
    outputs = [o for c in nbformat.read(target, as_version=4).cells for o in c.get("outputs", [])]
    assert not any(o.output_type == "error" for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
    assert any("probabilities" in o.get("data", {}).get("text/html", "") for o in outputs)


def test_need_names_the_stage(run, tmp_path):
    with pytest.raises(BedkdError, match="The stage victim of this run is not finished"):
        explore.need(replace(run, root=tmp_path), "victim")
