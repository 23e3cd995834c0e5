"""Profiles: YAML with a grid, shared parameters, and what differs for one data set."""

from dataclasses import replace

import pytest

from bedkd.core.config import RunConfig
from bedkd.core.errors import BedkdError
from bedkd.runs.nested import flatten, merge, nest, parse_setting
from bedkd.runs.plan import plan_cell, plan_jobs
from bedkd.runs.profiles import PLUS, PROJECT, load_profile, open_run, outputs_folder
from bedkd.runs.stages import ABLATIONS, NEWER, RIVALS

NOT_PROFILES = {"paper_tables"}  # the published numbers
PROFILES = sorted({p.stem for p in (PROJECT / "params").glob("*.yaml")} - NOT_PROFILES)
MINIMAL = "grid: {dataset: toy-sentiment, attack: badwords, seed: 0}\n"


@pytest.fixture
def write(tmp_path, outputs):
    """Write a profile and load it."""

    def write(text: str, name: str = "mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return load_profile(str(path))

    return write


def refuse(call, *args) -> str:
    with pytest.raises(BedkdError) as caught:
        call(*args)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_of_the_project_builds_all_its_cells(name, outputs):
    profile = load_profile(name)
    runs = profile.runs()
    n_cells = len(profile.grid.attack) * sum(
        len(profile.list_seeds(dataset, {})) for dataset in profile.grid.dataset
    )
    assert len(runs) == len({run.config for run in runs}) == n_cells
    assert profile.about and profile.name == name
    assert all(run.root == outputs for run in runs)
    others = [load_profile(other).grid.dataset for other in ("quick", "laptop", "paper")]
    assert set(profile.datasets) <= set(profile.grid.dataset).union(*others)


def test_quick_laptop_paper_and_released_code_are_there():
    assert {"quick", "laptop", "paper", "released_code"} <= set(PROFILES)


def test_quick_needs_no_download(outputs):
    for run in load_profile("quick").runs():
        assert run.config.victim.model == "tiny-bert"
        assert run.config.data.name.startswith("toy-")
        assert run.config.attack.paraphrases is None


def test_paper_profile_is_the_defaults_on_bert(outputs):
    """What the paper states is written in two places, which must agree."""
    for run in load_profile("paper").runs():
        flat = run.config.flat()
        assert flat["victim.model"] == "bert-base-uncased"
        expected = RunConfig().flat()
        differing = {name for name in flat if flat[name] != expected[name]}
        free = {"data.name", "attack.name", "attack.fallback", "victim.model", "seed"}
        free |= {"akd.evaluate_every", "teacher.proxy", "teacher.n_proxy"}
        if flat["data.name"] == "agnews":  # TextGuard's authors have other values for it
            free |= {"textguard.batch_size", "textguard.min_count"}
        assert differing <= free


def test_released_code_differs_from_the_paper_as_listed(outputs):
    """The released code's choices (commit 1a2e998), one by one, and nothing else."""
    paper, released = load_profile("paper"), load_profile("released_code")
    assert released.grid.dataset == paper.grid.dataset
    assert released.grid.attack == paper.grid.attack
    for dataset in paper.grid.dataset:
        for attack in paper.grid.attack:
            ours = paper.run(dataset, attack, 0).config.flat()
            theirs = released.run(dataset, attack, 0).config.flat()
            assert {n: (ours[n], theirs[n]) for n in ours if ours[n] != theirs[n]} == {
                "victim.max_length": (128, 512),
                "dmm.n_clean_per_class": (320, 80),
                "dmm.flip": ("random", "next"),
                "dmm.optimizer": ("adamw", "adam"),
                "dmm.soft_loss": ("cross_entropy", "kl"),
                "dmm.is_padding_in_mse": (False, True),
                "dmm.is_reshuffled": (True, False),
                "mepd.selection": ("file_order", "teacher_agreement"),
                "mepd.max_candidates": (None, 128),
                "mepd.n_poison": (32, 33),
                "akd.is_clean_shared": (True, False),
                "akd.optimizer": ("adamw", "adam"),
                "akd.soft_loss": ("cross_entropy", "kl"),
                "akd.is_padding_in_mse": (False, True),
                "akd.is_reshuffled": (True, False),
            }
    assert released.grid.seed == [42]


def test_unknown_profile_is_named_with_the_known_ones():
    message = refuse(load_profile, "papr")
    assert "'papr'" in message and all(name in message for name in PROFILES)
    assert "paper_tables" not in message  # a file of numbers beside the profiles
    assert "nowhere.yaml" in refuse(load_profile, "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: [unclosed", "no valid YAML"),
        ("- a\n- b\n", "key: value"),
        ("just words", "key: value"),
        (MINIMAL + "gird: 1\n", "'gird'"),
        ("grid: {dataset: toy-sentiment, attack: badwords, seeds: 0}", "'grid.seeds'"),
        ("grid: {dataset: toy-sentiment, attack: badwords}", "seed is empty"),
        ("grid: {dataset: [], attack: badwords, seed: 0}", "dataset is empty"),
        ("about: nothing more", "dataset is empty"),
        ("", "dataset is empty"),
        ("grid:\n", "dataset is empty"),
        ("grid: 3\n", "grid"),
        (MINIMAL + "config: 3\n", "config"),
        (MINIMAL + "datasets: [sst2]\n", "datasets"),
        (MINIMAL + "extends: nowhere\n", "'nowhere'"),
    ],
)
def test_bad_profile_is_refused(write, text, said):
    assert said in refuse(lambda: write(text).runs())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config: {dmm: {alfa: 1}}", "'dmm.alfa'"),
        ("config: {seeed: 1}", "'seeed'"),
        ("config: {dmm: 3}", "dmm"),
        ("config: {dmm: {alpha: 2}}", "alpha is 2"),
        ("datasets: {toy-sentiment: {akd: {alpha: 1}}}", "'akd.alpha'"),
    ],
)
def test_bad_parameter_is_refused_when_a_cell_is_built(write, text, said):
    assert said in refuse(write(MINIMAL + text).runs)


def test_unknown_dataset_or_attack_is_refused(write):
    profile = write(MINIMAL)
    assert "'toy-nothing'" in refuse(profile.run, "toy-nothing", "badwords", 0)
    assert "'badword'" in refuse(profile.run, "toy-sentiment", "badword", 0)


def test_grid_takes_lists_and_single_values(write):
    profile = write("grid: {dataset: [toy-sentiment, toy-topics], attack: none, seed: [1, 2, 3]}")
    cells = [(c.data.name, c.attack.name, c.seed) for c in (run.config for run in profile.runs())]
    assert cells == [
        (dataset, "none", seed) for dataset in ("toy-sentiment", "toy-topics") for seed in (1, 2, 3)
    ]


def test_extends_keeps_what_is_not_changed(write, tmp_path):
    write(MINIMAL + "about: base\nconfig: {dmm: {alpha: 0.5, epochs: 7}, mepd: {gamma: 0.2}}\n")
    child = write(
        f"extends: {tmp_path / 'mine.yaml'}\ngrid: {{seed: [4, 5]}}\n"
        "config: {dmm: {alpha: 0.6}}\n",
        "child",
    )
    assert child.name == "child" and child.about == "base"
    assert (child.grid.dataset, child.grid.attack) == (["toy-sentiment"], ["badwords"])
    assert child.grid.seed == [4, 5]
    config = child.runs()[0].config
    assert (config.dmm.alpha, config.dmm.epochs, config.mepd.gamma) == (0.6, 7, 0.2)
    assert config.dmm.temperature == 1.5  # and the defaults below both


def test_settings_of_one_dataset_are_its_own(write):
    profile = write(
        "grid: {dataset: [toy-sentiment, toy-topics], attack: badwords, seed: 0}\n"
        "config: {dmm: {alpha: 0.4}, mepd: {gamma: 0.2}}\n"
        "datasets: {toy-topics: {dmm: {alpha: 0.7}}}\n"
    )
    one, other = (run.config for run in profile.runs())
    assert (one.dmm.alpha, one.mepd.gamma) == (0.4, 0.2)
    assert (other.dmm.alpha, other.mepd.gamma) == (0.7, 0.2)


def test_overrides_win_over_the_file_and_its_datasets(write):
    profile = write(
        MINIMAL
        + "config: {dmm: {alpha: 0.4, epochs: 9}}\ndatasets: {toy-sentiment: {dmm: {alpha: 0.5}}}\n"
    )
    config = profile.run("toy-sentiment", "badwords", 0, {"dmm.alpha": 0.6}).config
    assert (config.dmm.alpha, config.dmm.epochs) == (0.6, 9)
    assert "'dmm.alfa'" in refuse(profile.runs, {"dmm.alfa": 1})
    assert profile.run("toy-sentiment", "badwords", 0).config.dmm.alpha == 0.5


def test_overrides_replace_a_grids_list(write):
    profile = write("grid: {dataset: [toy-sentiment, toy-topics], attack: badwords, seed: [0, 1]}")
    runs = profile.runs({"dataset": "toy-offence", "seed": [7, 8], "mepd.gamma": 0.3})
    cells = [(r.config.data.name, r.config.attack.name, r.config.seed) for r in runs]
    assert cells == [("toy-offence", "badwords", 7), ("toy-offence", "badwords", 8)]
    assert all(run.config.mepd.gamma == 0.3 for run in runs)
    assert len(profile.runs()) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("data.name", "toy-topics"), ("attack.name", "none"), ("seed.x", 3)],
)
def test_override_that_the_grid_would_undo_is_refused_or_obeyed(write, name, value):
    """A setting is never dropped without a word."""
    try:
        runs = write(MINIMAL).runs({name: value})
    except BedkdError:
        return
    assert [run.config.flat().get(name) for run in runs] == [value]


@pytest.mark.parametrize("overrides", [{"dmm": 3}, {"dmm.alpha.x": 1}, {"dmm": 3, "dmm.alpha": 1}])
def test_override_of_the_wrong_shape_is_refused(write, overrides):
    assert "dmm" in refuse(write(MINIMAL).runs, overrides)


def test_merge_goes_section_by_section_and_changes_no_argument():
    base = {"a": {"x": 1, "y": 2}, "b": [1], "c": 3}
    changes = {"a": {"y": 5}, "b": [2], "d": {"z": 0}}
    merged = merge(base, changes)
    assert merged == {"a": {"x": 1, "y": 5}, "b": [2], "c": 3, "d": {"z": 0}}
    assert base == {"a": {"x": 1, "y": 2}, "b": [1], "c": 3}
    assert changes == {"a": {"y": 5}, "b": [2], "d": {"z": 0}}


def test_nest_by_hand():
    flat = {"dmm.alpha": 0.5, "dmm.epochs": 3, "device": "cpu"}
    assert nest(flat) == {"dmm": {"alpha": 0.5, "epochs": 3}, "device": "cpu"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dmm.alpha=0.5", ("dmm.alpha", 0.5)),
        ("seed=[0, 1]", ("seed", [0, 1])),
        ("attack=addsent", ("attack", "addsent")),
        ("attack.trigger=a = b", ("attack.trigger", "a = b")),
        ("dmm.learning_rate=3e-5", ("dmm.learning_rate", "3e-5")),
        ("data.n_train=null", ("data.n_train", None)),
        ("akd.is_clean_shared=false", ("akd.is_clean_shared", False)),
    ],
)
def test_settings_are_read_as_yaml(text, expected):
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["dmm.alpha", "=3", "", "seed=[0"])
def test_bad_setting_is_refused(text):
    assert "--set" in refuse(parse_setting, text)


def test_setting_without_an_exponent_point_is_a_number(write):
    overrides = dict([parse_setting("dmm.learning_rate=3e-4")])
    assert write(MINIMAL).runs(overrides)[0].config.dmm.learning_rate == 3e-4


def test_outputs_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path / "scratch"))
    assert outputs_folder() == tmp_path / "scratch"
    monkeypatch.delenv("BEDKD_OUTPUTS")
    assert outputs_folder() == PROJECT / "outputs"
    monkeypatch.setenv("BEDKD_OUTPUTS", "")
    assert outputs_folder() == PROJECT / "outputs"


def test_open_run_is_what_a_notebook_calls(outputs):
    run = open_run("quick", "toy-topics", "addsent", 3, {"mepd.gamma": 0.2})
    c = run.config
    assert (c.data.name, c.attack.name, c.seed, c.mepd.gamma) == ("toy-topics", "addsent", 3, 0.2)
    assert run.root == outputs
    assert "seed is 'x'" in refuse(open_run, "quick", "toy-topics", "addsent", "x")


def test_rivals_and_ablations_of_a_profile(outputs):
    paper, quick = load_profile("paper"), load_profile("quick")
    assert paper.list_defences() == [*RIVALS, *NEWER]
    assert quick.list_defences({"defences": "onion"}) == ["onion"]
    run, clean = (quick.run("toy-topics", attack, 0) for attack in ("badwords", "none"))
    chosen = {"defences": ["finetune"], "studies": ["ablations"], "focus": ["toy-topics"]}

    def results(run, chosen):
        """Stages of the cell itself, and methods of its variations."""
        found = quick.results(run, chosen)
        own = [stage for source, stage in found if source == run]
        assert all(stage == "akd" for source, stage in found if source != run)
        return own, [source.config.method for source, _ in found if source != run]

    parts = ["bedkd_scores", "bedkd_margin", "bedkd_counter"]
    first, yardstick = ["victim", "akd"], ["never_poisoned"]
    everything = [*first, *yardstick, "finetune", *ABLATIONS], ["bedkd_plus", *parts]
    assert results(run, chosen) == everything
    assert results(clean, chosen) == ([*first, "finetune"], ["bedkd_plus"])
    # fine-tuning is a row of Table 2 too
    assert results(run, chosen | {"defences": []}) == everything
    other = quick.run("toy-offence", "badwords", 0)  # not in focus
    assert results(other, chosen) == ([*first, *yardstick, "finetune"], ["bedkd_plus"])
    with pytest.raises(BedkdError, match="unknown defence 'onions'; known: finetune, onion"):
        quick.runs({"defences": ["onions"]})
    (same,) = quick.runs({"dataset": "toy-topics", "attack": "badwords", "seed": 0} | chosen)
    assert same.config == run.config


def test_bedkd_plus_is_what_it_sets_over_the_cell(write):
    text = MINIMAL + "config: {dmm: {epochs: 5, alpha: 0.4}}\n"
    profile = write(text + "plus: {dmm: {epochs: 7}, akd: {temperature: 2.0}}\n")
    (run,) = profile.runs()
    found, own = profile.plus_run(run).config.flat(), run.config.flat()
    expected = flatten(PLUS) | {"dmm.epochs": 7, "akd.temperature": 2.0}
    assert found == own | expected and found["dmm.alpha"] == 0.4
    assert profile.plus_run(run).config.method == "bedkd_plus" and profile.plus_run(run) != run
    bare = write(MINIMAL, "bare")
    assert bare.plus_run(bare.runs()[0]).config.flat() == RunConfig().flat() | flatten(PLUS)


def test_the_parts_of_bedkd_plus_change_what_is_theirs_alone(outputs):
    quick = load_profile("quick")
    run, plus = quick.run("toy-topics", "badwords", 0), flatten(quick.plus)
    changed = {}
    for part in quick.plus_parts(run):
        own = run.config.flat()
        changed[part.config.method] = {k for k, v in part.config.flat().items() if v != own[k]}
        assert all(part.config.flat()[k] == plus[k] for k in changed[part.config.method])
    scores = {name for name in plus if name.startswith("dmm.")} | {"mepd.gamma", "mepd.selection"}
    assert changed["bedkd_scores"] <= scores and "mepd.gamma" in changed["bedkd_scores"]
    assert changed["bedkd_margin"] == {"akd.penalty"}
    assert changed["bedkd_counter"] <= {name for name in plus if name.startswith("akd.")}
    assert {"akd.n_counter", "akd.cycles"} <= changed["bedkd_counter"]
    assert "akd.penalty" not in changed["bedkd_counter"]


def test_flatten_by_hand_and_back():
    nested = {"dmm": {"alpha": 0.5, "epochs": 3}, "akd": {"cycles": 2}}
    assert flatten(nested) == {"dmm.alpha": 0.5, "dmm.epochs": 3, "akd.cycles": 2}
    assert nest(flatten(nested)) == nested


def test_the_victim_without_an_attack_is_one_job_for_all_that_need_it(write):
    """Its own cell's, where the grid has that."""
    text = "extends: quick\nfew_jobs: false\nstudies: []\ndefences: [onion]\n"
    profile = write(text + "grid: {dataset: toy-topics, attack: [badwords, addsent], seed: 3}\n")
    jobs = {job.name: job for job in plan_jobs(profile, {})}
    (clean,) = (job for job in jobs.values() if job.parameters["attack"] == "none")
    assert clean.notebook == "01_poisoning" and clean.needs == ()
    waiting = sorted(job.notebook for job in jobs.values() if clean.name in job.needs)
    assert waiting == ["04_akd"] * 2 + ["05_defences"] * 2
    assert len(plan_jobs(profile, {})) == len(jobs) == 2 * 5 + 1
    assert plan_cell(profile, profile.run("toy-topics", "none", 3), {})[0] == clean
    names = [job.name for job in plan_jobs(profile, {"attack": ["badwords", "none"]})]
    assert names.count(clean.name) == 1 and len(names) == len(set(names)) == 2 * 5


@pytest.mark.parametrize("attack", ["badwords", "none"])
def test_jobs_of_a_cell_make_bedkd_plus_and_its_yardstick(attack, outputs):
    quick = load_profile("quick")
    run = quick.run("toy-topics", attack, 0)
    for few_jobs in (True, False):
        profile = replace(quick, few_jobs=few_jobs)
        made = [result for job in plan_cell(profile, run, {}) for result in job.results]
        plus = profile.plus_run(run)
        assert {(plus, "dmm"), (plus, "mepd"), (plus, "akd"), (run, "akd")} <= set(made)
        assert ((run, "never_poisoned") in made) == (attack != "none")
        assert len(made) == len(set(made))


def test_a_data_set_may_have_its_own_seeds_and_studies_those_of_some(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: quick\n"
        "grid: {dataset: [toy-offence, toy-topics], attack: [badwords], seed: [4]}\n"
        "studies: [alpha]\nfocus_seeds: [2]\n"
        "datasets: {toy-offence: {seed: [1, 2]}}\n"
    )
    profile = load_profile(str(path))
    cells = [(run.config.data.name, run.config.seed) for run in profile.runs()]
    assert cells == [("toy-offence", 1), ("toy-offence", 2), ("toy-topics", 4)]
    assert {run.config.seed for run in profile.runs({"seed": [7, 8]})} == {7, 8}
    studied = [run.config.seed for run in profile.runs() if profile.list_studies(run)]
    assert studied == [2]
    every = {"focus_seeds": []}
    assert [r.config.seed for r in profile.runs(every) if profile.list_studies(r, every)] == [1, 2]
    own = {"attack": ["badwords", "addsent"], "focus_attacks": "addsent"}
    studied = [r.config.attack.name for r in profile.runs(own) if profile.list_studies(r, own)]
    assert studied == ["addsent"]
