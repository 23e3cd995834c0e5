"""Sweeps: their points, what a profile gives, and that a point trains no more than it must."""

import pytest

from bedkd.core.errors import BedkdError
from bedkd.runs.plan import plan_cell
from bedkd.runs.profiles import load_profile, open_run
from bedkd.runs.sweeps import STUDIES, SWEEPS, read_sweep, vary

CELL = ("quick", "toy-offence", "badwords", 1)
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
}
CHAIN = ("data", "victim", "dmm", "mepd", "akd")


@pytest.mark.parametrize("study", SWEEPS)
def test_a_point_retrains_what_its_parameter_needs_alone(study):
    run = open_run(*CELL)
    value, first = FIRST[study]
    ((_, point),) = read_sweep(study, [value]).points(run)
    changed = [stage for stage in CHAIN if point.key(stage) != run.key(stage)]
    assert changed == list(CHAIN[CHAIN.index(first) :])


def test_a_point_at_the_profiles_own_value_is_the_cell_itself():
    run = open_run(*CELL)
    own = run.config.flat()
    for study, keys in SWEEPS.items():
        ((_, point),) = read_sweep(study, own[keys[0]]).points(run)
        assert point.config == run.config


def test_numbers_of_another_type_are_the_same_value():
    """YAML's `alpha: 1` is alpha = 1.0, not another result."""
    run = open_run(*CELL)
    one, same = (vary(run, {"dmm.alpha": value}) for value in (1, 1.0))
    assert one.config == same.config and one.key("dmm") == same.key("dmm")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("gamma", [0.1], "unknown sweep 'gamma'; known: n_clean, victim"),
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
    assert [sweep.values for sweep in profile.list_sweeps(run)] == [(0.5,)]
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


def test_a_sweep_under_some_attacks_alone():
    sweep = read_sweep("alpha", {"values": 0.5, "attack": "badwords"})
    assert sweep.values == (0.5,) and sweep.attacks == ("badwords",)


def test_every_study_of_quick_and_paper_has_its_jobs():
    quick = load_profile("quick")
    run = quick.run("toy-offence", "badwords", 1)
    jobs = plan_cell(quick, run, {})
    (job,) = [job for job in jobs if job.notebook == "07_sensitivity"]
    assert job.parameters["sweep"] == ["n_clean", "victim", "n_poison"]
    assert set(quick.sweeps) == set(SWEEPS)
    assert {"06_ablations", "08_tsne"} <= {job.notebook for job in jobs}
    assert set(load_profile("paper").studies) == set(STUDIES)
