"""What a configuration accepts, and the sentence that refuses the rest."""

import dataclasses

import pytest
from pydantic import ValidationError

from bedkd.core.config import AKDConfig, DMMConfig, MEPDConfig, RunConfig, VictimConfig, build
from bedkd.core.errors import BedkdError


def refuse(values: dict) -> str:
    """The one-line message with which `values` are refused."""
    with pytest.raises(BedkdError) as caught:
        build(values)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_defaults_are_section_4_1():
    config = RunConfig()
    assert (config.victim.learning_rate, config.victim.epochs) == (3e-5, 10)
    assert (config.dmm.temperature, config.akd.temperature) == (1.5, 2.5)
    assert (config.dmm.alpha, config.akd.lambda_) == (0.3, 0.3)
    assert (config.dmm.epochs, config.akd.cycles) == (20, 50)
    assert (config.mepd.gamma, config.mepd.n_poison) == (0.1, 32)
    assert (config.dmm.n_clean_per_class, config.akd.n_clean_per_class) == (320, 320)
    assert (config.dmm.optimizer, config.attack.poison_rate) == ("adamw", 0.2)
    assert config.mepd.selection == "file_order"
    # nothing of what is not in the paper
    assert (config.dmm.n_folds, config.dmm.n_readings, config.dmm.n_scored) == (1, 1, None)
    assert (config.akd.penalty, config.akd.n_counter, config.method) == ("unbounded", 0, "bedkd")


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_trigger_has_words(text):
    message = refuse({"attack": {"trigger": text}})
    assert f"attack.trigger is {text!r}; it must be words, or left out" in message


def test_defaults_build_from_nothing_and_from_themselves():
    assert build({}) == RunConfig()
    assert build({"akd": {}}) == RunConfig()
    assert build(dataclasses.asdict(RunConfig())) == RunConfig()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"dmmm": {}}, "'dmmm'"),
        ({"dmm": {"alfa": 0.3}}, "'dmm.alfa'"),
        ({"akd": {"alpha": 0.3}}, "'akd.alpha'"),
        ({"mepd": {"learning_rate": 1}}, "'mepd.learning_rate'"),
        ({"gamma": 0.1}, "'gamma'"),
    ],
)
def test_unknown_key_is_named_with_what_is_known(values, name):
    message = refuse(values)
    assert name in message and "known here" in message
    section = next(iter(values))
    known = {"dmm": "dmm.alpha", "akd": "akd.lambda_", "mepd": "mepd.gamma"}.get(section, "seed")
    assert known in message


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("dmm", "epochs", 1.5),
        ("dmm", "epochs", "many"),
        ("dmm", "epochs", None),
        ("dmm", "epochs", True),
        ("dmm", "epochs", [3]),
        ("dmm", "epochs", {"a": 1}),
        ("dmm", "epochs", float("inf")),
        ("dmm", "alpha", "a third"),
        ("dmm", "alpha", float("nan")),
        ("dmm", "alpha", False),
        ("dmm", "is_reshuffled", 1),
        ("dmm", "is_reshuffled", "true"),
        ("dmm", "flip", 3),
        ("dmm", "optimizer", None),
        ("data", "n_train", "all"),
        ("data", "text_column", 7),
        ("attack", "trigger", True),
    ],
)
def test_wrong_type_is_named_with_the_value(section, name, value):
    message = refuse({section: {name: value}})
    assert f"{section}.{name} is {value!r}" in message and "must be" in message


@pytest.mark.parametrize("value", [3, True, "x", [1]])
def test_section_that_is_no_section_is_refused(value):
    assert "dmm" in refuse({"dmm": value})


@pytest.mark.parametrize("value", [0, False, "", [], None])
def test_section_that_is_empty_or_false_is_refused_as_well(value):
    assert "dmm" in refuse({"dmm": value})


@pytest.mark.parametrize(
    ("value", "expected"), [("3e-5", 3e-5), ("3.0e-5", 3e-5), (1, 1.0), ("0.25", 0.25)]
)
def test_numbers_may_come_as_text(value, expected):
    """YAML reads 3e-5 as a string."""
    rate = build({"dmm": {"learning_rate": value}}).dmm.learning_rate
    assert rate == expected and type(rate) is float


def test_whole_floats_are_integers():
    config = build({"dmm": {"epochs": 7.0}, "seed": "3", "data": {"n_train": 1e3}})
    assert (config.dmm.epochs, config.seed, config.data.n_train) == (7, 3, 1000)
    assert all(type(v) is int for v in (config.dmm.epochs, config.seed, config.data.n_train))


def test_what_may_be_none_takes_none():
    config = build({"data": {"n_train": None}, "mepd": {"max_candidates": None}})
    assert config.data.n_train is None and config.mepd.max_candidates is None


@pytest.mark.parametrize(
    ("section", "name", "others"),
    [
        ("dmm", "flip", ("random", "next")),
        ("dmm", "optimizer", ("adamw", "adam")),
        ("akd", "soft_loss", ("cross_entropy", "kl")),
        ("mepd", "selection", ("file_order", "random", "lowest_mepd", "teacher_agreement")),
        ("attack", "label_mode", ("mixed", "dirty", "clean")),
        ("attack", "fallback", ("none", "rules")),
    ],
)
def test_choices(section, name, others):
    for choice in others:
        built = build({section: {name: choice}})
        assert getattr(getattr(built, section), name) == choice
    message = refuse({section: {name: "sideways"}})
    assert f"{name} is 'sideways'" in message and all(other in message for other in others)


def test_precision_is_a_choice():
    assert build({"precision": "bf16"}).precision == "bf16"
    assert "precision is 'fp64'" in refuse({"precision": "fp64"})


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_poison_rate_lies_strictly_between_0_and_1(rate):
    message = refuse({"attack": {"poison_rate": rate}})
    assert f"attack.poison_rate is {rate}" in message


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("dmm", "alpha", 1.01),
        ("dmm", "alpha", -0.01),
        ("akd", "lambda_", 2.0),
        ("mepd", "gamma", -0.1),
        ("mepd", "gamma", 1.1),
        ("mepd", "n_poison", -1),
        ("mepd", "max_candidates", 0),
        ("dmm", "epochs", 0),
        ("dmm", "temperature", 0.0),
        ("dmm", "learning_rate", -1e-3),
        ("dmm", "batch_size", 0),
        ("dmm", "n_clean_per_class", 0),
        ("akd", "cycles", 0),
        ("akd", "temperature", -2.5),
        ("akd", "n_clean_per_class", -3),
        ("akd", "evaluate_every", 0),
        ("victim", "epochs", 0),
        ("victim", "learning_rate", 0.0),
        ("victim", "max_length", -1),
        ("data", "n_train", 0),
        ("data", "n_test", -5),
        ("data", "clean_pool_per_class", 0),
        ("tsne", "n_per_kind", 0),
        ("tsne", "perplexity", 0),
    ],
)
def test_values_out_of_range_are_named(section, name, value):
    assert f"{name} is {value}" in refuse({section: {name: value}})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("dmm", "alpha", 0),
        ("dmm", "alpha", 1),
        ("akd", "lambda_", 1),
        ("mepd", "gamma", 0),
        ("mepd", "gamma", 1),
        ("mepd", "n_poison", 0),
        ("mepd", "max_candidates", 1),
    ],
)
def test_ends_of_a_range_are_in_it(section, name, value):
    built = build({section: {name: value}})
    assert getattr(getattr(built, section), name) == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", {"seed": -1}),
        ("weight_decay", {"dmm": {"weight_decay": -0.1}}),
        ("weight_decay", {"victim": {"weight_decay": -0.1}}),
        ("learning_rate", {"dmm": {"learning_rate": "inf"}}),
    ],
)
def test_what_numpy_or_torch_would_refuse_is_refused_here(name, values):
    assert f"{name} is " in refuse(values)


@pytest.mark.parametrize("is_shared", [True, False])
def test_clean_pool_must_hold_what_dmm_and_akd_take(is_shared):
    """80 and 100 a class: 100 where AKD's rows may be the DMM's, 180 where they may not."""
    needed = 100 if is_shared else 180

    def values(pool):
        return {
            "data": {"clean_pool_per_class": pool},
            "dmm": {"n_clean_per_class": 80},
            "akd": {"n_clean_per_class": 100, "is_clean_shared": is_shared},
        }

    assert build(values(needed)).data.clean_pool_per_class == needed
    message = refuse(values(needed - 1))
    assert f"need {needed} clean rows" in message and f"is {needed - 1}" in message


def test_clean_pool_must_hold_the_dmms_rows_too():
    values = {"data": {"clean_pool_per_class": 100}, "akd": {"n_clean_per_class": 10}}
    assert "need 320" in refuse(values)


FOLDS, AUTO = {"n_folds": 2}, {"gamma": "auto"}
COUNTER, MARGIN = {"n_counter": 2}, {"penalty": "margin"}


@pytest.mark.parametrize(
    ("dmm", "mepd", "akd", "method"),
    [
        (FOLDS, AUTO, COUNTER | MARGIN, "bedkd_plus"),
        (FOLDS, AUTO, {}, "bedkd_scores"),
        ({}, {}, MARGIN, "bedkd_margin"),
        ({}, {}, COUNTER, "bedkd_counter"),
        ({}, {}, COUNTER | MARGIN, "bedkd_margin_counter"),
        (FOLDS, AUTO, MARGIN, "bedkd_scores_margin"),
        (FOLDS, {"gamma": 0.2}, {"cycles": 3, "schedule": "linear"}, "bedkd"),
    ],
)
def test_method_is_named_by_the_parts_of_bedkd_plus(dmm, mepd, akd, method):
    assert build({"dmm": dmm, "mepd": mepd, "akd": akd}).method == method


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mepd": AUTO}, "set dmm.n_folds to 2 or more"),
        ({"mepd": {"selection": "lean"}}, "mepd.selection: lean needs mepd.gamma: auto"),
        ({"dmm": FOLDS, "mepd": {"selection": "lean", "gamma": 0.05}}, "needs mepd.gamma: auto"),
        ({"dmm": {"n_folds": 9, "n_clean_per_class": 8}}, "dmm.n_folds is 9, but"),
        ({"mepd": {"gamma": "automatic"}}, "mepd.gamma is 'automatic'"),
        ({"akd": {"penalty": "bounded"}}, "akd.penalty is 'bounded'"),
        ({"akd": {"n_counter": -1}}, "akd.n_counter is -1"),
        ({"dmm": {"n_readings": 0}}, "dmm.n_readings is 0"),
    ],
)
def test_what_bedkd_plus_cannot_do_is_refused(values, said):
    assert said in refuse(values)


def test_without_attack_keeps_all_else():
    attack = {"name": "addsent", "target_label": 1, "poison_rate": 0.1, "trigger": "a b"}
    config = build({"attack": attack, "seed": 5, "victim": {"epochs": 3}})
    clean = config.without_attack()
    assert clean == build(
        {"attack": {"name": "none", "target_label": 1}} | {"seed": 5, "victim": {"epochs": 3}}
    )
    assert clean.without_attack() == clean and config.attack.name == "addsent"


def test_direct_construction_is_checked_as_well():
    for make in (
        lambda: DMMConfig(alpha=2.0),
        lambda: DMMConfig(temperature=0.0),
        lambda: AKDConfig(cycles=0),
        lambda: AKDConfig(optimizer="sgd"),
        lambda: MEPDConfig(n_poison=-1),
        lambda: VictimConfig(batch_size=0),
    ):
        with pytest.raises(ValidationError):
            make()


def test_configurations_are_frozen_and_hashable():
    config = RunConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dmm.alpha = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert hash(config) == hash(RunConfig())


def test_flat_names_every_parameter():
    flat = RunConfig().flat()
    assert flat["dmm.alpha"] == 0.3 and flat["seed"] == 0 and flat["data.n_train"] is None
    nested = dataclasses.asdict(RunConfig())
    n_values = sum(len(value) if isinstance(value, dict) else 1 for value in nested.values())
    assert len(flat) == n_values
    assert not any(isinstance(value, dict) for value in flat.values())


def test_every_parameter_with_a_unit_of_its_own_is_checked():
    """No number may be NaN, no count a fraction, and a flag is true or false."""
    for name, value in RunConfig().flat().items():
        section, _, parameter = name.rpartition(".")
        wrong = {bool: 1, int: 0.5, float: float("nan")}.get(type(value))
        if wrong is not None:
            values = {section: {parameter: wrong}} if section else {parameter: wrong}
            assert f"{name} is {wrong}" in refuse(values)
