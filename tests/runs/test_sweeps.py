"""Sweeps: their points, what a profile gives, and that a point trains no more than it must."""

import hashlib
import itertools

import pytest

from bedkd.core.errors import BedkdError, DivergenceError
from bedkd.runs import ensure as ensure_module
from bedkd.runs.plan import plan_cell, plan_jobs
from bedkd.runs.profiles import load_profile, open_run
from bedkd.runs.sweeps import (
    GRID,
    STUDIES,
    SWEEPS,
    is_settled,
    make_points,
    read_divergence,
    read_sweep,
    vary,
)

CELL = ("quick", "toy-offence", "badwords", 1)
PARAMETERS = ("dataset", "attack", "seed", "overrides")
# sweeps that `quick` and `paper` give no values for
OWN_PROFILE = {"gamma", "cycles", "epochs_dmm", "choices"}
BEYOND = {"label_mode", "resistance"}  # nor does `paper`, whose studies these are not
# study: a value, and the first stage that is another one with it
FIRST = {
    "n_clean": (8, "dmm"),
    "victim": ("tiny-roberta", "victim"),
    "n_poison": (3, "mepd"),
    "selection": ("random", "mepd"),
    "alpha": (0.9, "dmm"),
    "temperature_dmm": (9.0, "dmm"),
    "lambda": (0.9, "akd"),
    "temperature_akd": (9.0, "akd"),
    "poison_rate": (0.07, "data"),
    "gamma": (0.07, "mepd"),
    "cycles": (3, "akd"),
    "epochs_dmm": (3, "dmm"),
    "label_mode": ("dirty", "data"),
    "resistance": (2, "victim"),
}
CHAIN = ("data", "victim", "dmm", "mepd", "akd")


def values_of(sweep):
    return [value for value, _ in sweep.settings]


@pytest.mark.parametrize("study", FIRST)
def test_a_point_retrains_what_its_parameter_needs_alone(study):
    run = open_run(*CELL)
    value, first = FIRST[study]
    ((_, point),) = read_sweep(study, [value]).points(run)
    changed = [stage for stage in CHAIN if point.key(stage) != run.key(stage)]
    assert changed == list(CHAIN[CHAIN.index(first) :])


def test_a_point_at_the_profiles_own_value_is_the_cell_itself():
    run = open_run(*CELL)
    own = run.config.flat()
    for study in FIRST:
        ((_, point),) = read_sweep(study, own[SWEEPS[study][0]]).points(run)
        assert point.config == run.config


def test_numbers_of_another_type_are_the_same_value():
    """YAML's `alpha: 1` is alpha = 1.0, not another result."""
    run = open_run(*CELL)
    one, same = (vary(run, {"dmm.alpha": value}) for value in (1, 1.0))
    assert one.config == same.config and one.key("dmm") == same.key("dmm")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("beta", [0.1], "unknown sweep 'beta'; known: n_clean, victim"),
        ("alpha_x_beta", [0.1], "unknown sweep 'alpha_x_beta'"),
        ("alpha", [], "sweep alpha has no values"),
        ("alpha", {"values": [0.1], "attacks": "badwords"}, "unknown key 'attacks'"),
    ],
)
def test_what_is_no_sweep(name, values, said):
    with pytest.raises(BedkdError, match=said):
        read_sweep(name, values)


def test_a_value_out_of_range():
    with pytest.raises(BedkdError, match="dmm.alpha is 1.5; it must be less than or equal to 1"):
        read_sweep("alpha", [1.5]).points(open_run(*CELL))
    with pytest.raises(BedkdError, match="mepd.n_poison is 'many'"):
        read_sweep("n_poison", ["many"]).points(open_run(*CELL))


def test_a_profile_names_studies_and_gives_their_values(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quick\nstudies: [alpha]\nsweeps: {alpha: [0.5], lambda: [0.1]}\n")
    profile = load_profile(str(path))
    run = profile.run("toy-offence", "addsent", 0)
    assert [values_of(sweep) for sweep in profile.list_sweeps(run)] == [[0.5]]
    chosen = {"studies": ["lambda"]}
    assert [sweep.name for sweep in profile.list_sweeps(run, chosen)] == ["lambda"]
    assert profile.list_sweeps(profile.run("toy-offence", "none", 0)) == []
    assert profile.list_sweeps(profile.run("toy-topics", "addsent", 0)) == []  # not in focus
    with pytest.raises(BedkdError, match="unknown study 'beta'; known: ablations, tsne, n_clean"):
        profile.list_sweeps(run, {"studies": "beta"})


def test_values_that_a_profile_does_not_give(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quick\nsweeps: null\n")
    with pytest.raises(BedkdError, match="profile mine gives no values for sweep 'alpha'"):
        load_profile(str(path)).sweep("alpha")


def test_choices_set_several_parameters_at_once():
    values = {"text": {}, "code": {"dmm.flip": "next", "akd.optimizer": "adam"}}
    run = open_run(*CELL)
    (text, same), (code, point) = read_sweep("choices", {"values": values}).points(run)
    assert (text, code) == ("text", "code") and same == run
    assert (point.config.dmm.flip, point.config.akd.optimizer) == ("next", "adam")
    assert set(FIRST) == set(SWEEPS) - {"choices"}
    with pytest.raises(BedkdError, match="choices takes a name for each choice"):
        read_sweep("choices", ["code"])
    with pytest.raises(BedkdError, match="sweep choices: unknown parameter 'dmm.flop'"):
        read_sweep("choices", {"values": {"code": {"dmm.flop": 1}}}).points(run)


def test_a_sweep_under_some_attacks_alone():
    sweep = read_sweep("alpha", {"values": 0.5, "attack": "badwords"})
    assert values_of(sweep) == [0.5] and sweep.attacks == ("badwords",)


def test_every_study_of_quick_and_paper_has_its_jobs():
    quick = load_profile("quick")
    run = quick.run("toy-offence", "badwords", 1)
    jobs = plan_cell(quick, run, {})
    (job,) = [job for job in jobs if job.notebook == "07_sensitivity"]
    assert job.parameters["sweep"] == ["n_clean", "victim", "n_poison"]
    assert set(quick.sweeps) == set(SWEEPS) - OWN_PROFILE
    assert {"06_ablations", "08_tsne"} <= {job.notebook for job in jobs}
    assert set(load_profile("paper").studies) == set(STUDIES) - OWN_PROFILE - BEYOND


@pytest.mark.parametrize("name", ["quick", "paper", "released_code"])
def test_sweeps_are_of_bedkd_alone_where_a_profile_does_not_say_otherwise(name):
    profile = load_profile(name)
    run = profile.run(profile.grid.dataset[0], "badwords", 1)
    assert profile.sweep_runs(run) == [run]
    assert run.config.method == "bedkd"


def test_quick_plans_what_it_did_before_sweeps_could_be_of_both_methods():
    quick = load_profile("quick")
    jobs = plan_jobs(quick, {})
    assert (len(jobs), sum(len(job.results) for job in jobs)) == (43, 180)
    (job,) = [job for job in jobs if job.notebook == "07_sensitivity"]
    run = quick.run("toy-offence", "badwords", 1)
    points = [
        vary(run, dict.fromkeys(SWEEPS[name], value))
        for name, values in (
            ("n_clean", (80, 160)),
            ("victim", ("tiny-bert", "tiny-roberta")),
            ("n_poison", (4, 16)),
        )
        for value in values
    ]
    assert job.results == tuple((point, stage) for point in points for stage in ("victim", "akd"))
    keys = "".join(point.key(stage) for point, stage in job.results)
    digest = hashlib.sha256(keys.encode()).hexdigest()[:12]
    assert job.name == f"07_sensitivity/sweeps-toy-offence-badwords-s1-{digest}"
    assert job.parameters["sweep"] == ["n_clean", "victim", "n_poison"]
    assert set(job.parameters) == {"profile", *PARAMETERS, "sweep"}


@pytest.fixture
def both(tmp_path):
    """A profile that sweeps BeDKD and BeDKD+."""
    path = tmp_path / "both.yaml"
    path.write_text(
        "extends: quick\nsweep_plus: true\nfew_jobs: false\ndefences: []\n"
        "studies: [gamma, lambda, gamma_x_n_poison, alpha_x_lambda]\n"
        "sweeps: {gamma: [0.05, 0.2], lambda: [0.0, 0.5, 1.0], n_poison: [4, 8], alpha: 0.1}\n"
    )
    return load_profile(str(path))


def methods_of(job):
    found = [run.config.method for run, stage in job.results if stage == "akd"]
    return [(method, len(list(group))) for method, group in itertools.groupby(found)]


def test_a_profile_may_sweep_both_methods(both):
    """But for a parameter that BeDKD+ has a rule for: its γ is `auto`."""
    jobs = plan_cell(both, both.run("toy-offence", "badwords", 1), {})
    found = {job.parameters["sweep"]: methods_of(job) for job in jobs if "sweep" in job.parameters}
    assert found == {
        "gamma": [("bedkd", 2)],
        "lambda": [("bedkd", 3), ("bedkd_plus", 3)],
        "gamma_x_n_poison": [("bedkd", 4)],
        "alpha_x_lambda": [("bedkd", 3), ("bedkd_plus", 3)],
    }


def test_a_grid_has_every_pair_of_both_sweeps_values(both):
    sweep = both.sweep("gamma_x_n_poison")
    assert values_of(sweep) == [(0.05, 4), (0.05, 8), (0.2, 4), (0.2, 8)] and sweep.attacks is None
    points = dict(sweep.points(both.run("toy-offence", "badwords", 1)))
    config = points[0.2, 4].config
    assert (config.mepd.gamma, config.mepd.n_poison) == (0.2, 4)


def test_a_grid_is_of_two_parameters_under_the_attacks_of_both(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: quick\nsweeps:\n"
        "  alpha: {values: 0.5, attack: [badwords, addsent]}\n"
        "  lambda: {values: 0.5, attack: addsent}\n"
    )
    profile = load_profile(str(path))
    assert profile.sweep("alpha_x_lambda").attacks == ("addsent",)
    run = profile.run("toy-offence", "badwords", 1)
    for name in ("alpha_x_alpha", "alpha_x_lambda_x_n_poison", "alpha_x_beta"):
        with pytest.raises(BedkdError, match=f"unknown study '{name}'"):
            profile.list_sweeps(run, {"studies": name})
    with pytest.raises(BedkdError, match="gives no values for sweep 'gamma'"):
        profile.list_sweeps(run, {"studies": "gamma_x_alpha"})


def test_bedkd_plus_may_differ_on_one_data_set(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quick\ndatasets: {toy-offence: {plus: {akd: {cycles: 3}}}}\n")
    profile = load_profile(str(path))
    here, there = (profile.run(name, "badwords", 1) for name in ("toy-offence", "toy-sentiment"))
    assert profile.plus_run(here).config.akd.cycles == 3
    assert profile.plus_run(here, "counter").config.akd.cycles == 3
    assert profile.plus_run(there).config.akd.cycles == 12
    assert here.config.akd.cycles == load_profile("quick").run(*CELL[1:]).config.akd.cycles


def test_a_point_whose_akd_diverges_stops_no_other_and_is_not_tried_again(outputs, monkeypatch):
    run, tried = open_run(*CELL), []

    def make(point, stage):
        tried.append(point.config.mepd.n_poison)
        if point.config.mepd.n_poison == 64:
            raise DivergenceError("AKD diverged in cycle 8")

    monkeypatch.setattr(ensure_module, "ensure", make)
    sweep = read_sweep("n_poison", [64, 4])
    make_points([run], [sweep])
    make_points([run], [sweep])
    assert tried == [64, 4, 4]  # the made-up `ensure` leaves no record of the other
    (_, diverged), (_, other) = sweep.points(run)
    assert read_divergence(diverged) == "AKD diverged in cycle 8" and is_settled(diverged, "akd")
    assert not read_divergence(other) and not is_settled(other, "akd")
    assert not is_settled(diverged, "victim")


def test_sensitivity_tries_five_values_of_each_parameter_of_both_methods_own_among_them():
    profile = load_profile("sensitivity")
    run = profile.run("toy-offence", "badwords", 1)
    sweeps = profile.list_sweeps(run)
    names = {sweep.name for sweep in sweeps if GRID not in sweep.name}
    assert names == set(SWEEPS) - {"victim", "selection", "choices"} - BEYOND
    assert len(sweeps) == len(names) + 1
    for base, sweep in itertools.product(profile.sweep_runs(run), sweeps):
        points = sweep.points(base)
        if sweep.name in names and (sweep.name, base.config.method) != ("gamma", "bedkd_plus"):
            assert len(points) >= 5
            assert [point.config for _, point in points].count(base.config) == 1
    assert len(profile.grid.seed) == 3 and not {0, 2} & set(profile.grid.seed)  # not the tuning's
    grid = [sweep for sweep in sweeps if GRID in sweep.name]
    assert [len(sweep.points(run)) for sweep in grid] == [25]


def test_sensitivity_on_real_data_has_a_real_model_and_no_rate_of_the_toys():
    profile = load_profile("sensitivity")
    (run, *_) = profile.runs({"dataset": "sst2"})
    assert len(profile.list_sweeps(run)) == 11
    laptop = load_profile("laptop")
    other = laptop.run("sst2", "badwords", 1)
    assert run.config.victim == other.config.victim
    for ours, theirs in ((run, other), (profile.plus_run(run), laptop.plus_run(other))):
        for name in ("dmm", "akd"):
            one, two = (getattr(point.config, name) for point in (ours, theirs))
            assert (one.learning_rate, one.batch_size) == (two.learning_rate, two.batch_size)
