"""Adversarial knowledge distillation: its two phases, its guard, and what it does to a backdoor."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from bedkd.core.config import AKDConfig
from bedkd.core.devices import pick_compute
from bedkd.core.errors import BlindnessError, DivergenceError
from bedkd.method import akd as akd_module
from bedkd.method.akd import (
    COLLAPSE_PATIENCE,
    MAX_ROUNDS,
    DivergenceGuard,
    accuracy_floor,
    distill_clean_model,
    select_punished,
)
from bedkd.method.counter import (
    Candidate,
    draw_counter_poison,
    find_carriers,
    tell_carriers,
)
from bedkd.method.distillation import distillation_phase
from bedkd.method.losses import distillation_loss, margin_loss
from bedkd.nn import training as training_module
from bedkd.nn.batching import collate
from bedkd.nn.training import TrainingSettings, build_optimizer, forward_all, train

FAST = {"n_clean_per_class": 24, "cycles": 3, "learning_rate": 3e-4}


@pytest.fixture
def poison_few(triggered):
    return triggered.iloc[:20].assign(row=range(20))


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def are_equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def without_seconds(history):
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


def measure_gap(model, victim, texts) -> float:
    """Mean squared distance of the last hidden states."""
    encoded = victim.encode(list(texts))
    states = [
        forward_all(m.model, encoded, m.compute, with_hidden=True)[1] for m in (model, victim)
    ]
    return float((states[0] - states[1]).square().mean())


def soften(victim):
    """The same predictions with smaller logits: Eq. 6 has no gradient where the victim is sure."""
    soft = victim.copy()
    with torch.no_grad():
        for parameter in soft.model.classifier.parameters():
            parameter.mul_(0.2)
    return soft


def test_backdoor_goes_and_the_clean_mapping_stays(tiny_victim, rows, triggered, poison_few):
    """The sign of each phase, with labels alone (λ = 1): trust keeps them, punish unlearns them.

    On most seeds: on some a model this small never leaves the flat of Eq. 6.
    """
    config = AKDConfig(**FAST | {"cycles": 30, "learning_rate": 1e-3, "lambda_": 1.0})
    victim, kept = soften(tiny_victim), []
    assert (victim.predict(list(triggered.text)).argmax(axis=1) == 0).all()
    for seed in (1, 2, 3):
        model, history = distill_clean_model(victim, rows, poison_few, config, seed=seed)
        kept.append(np.mean(model.predict(list(triggered.text)).argmax(axis=1) == 0))
        assert np.mean(model.predict(list(rows.text)).argmax(axis=1) == rows.label) > 0.9
        assert history[-1]["trust_accuracy"] > 90
        assert (kept[-1] < 0.1) == (history[-1]["punish_accuracy"] < 10)
    assert np.median(kept) < 0.1


def test_punish_leaves_the_teacher_where_trust_stays(tiny_victim, rows, triggered, poison_few):
    """With the paper's λ, Eq. 6 is served by the hidden states too, whatever becomes of the label.

    So no label is asserted here: on a model this small the penalty often grows in the states of
    Eq. 2's second term, while the prediction keeps the target label.
    """
    config = AKDConfig(**FAST | {"cycles": 10, "learning_rate": 5e-4})
    assert config.lambda_ == 0.3
    model, history = distill_clean_model(tiny_victim, rows, poison_few, config, seed=0)
    poisoned, clean = (measure_gap(model, tiny_victim, t.text) for t in (triggered, rows))
    assert poisoned > 3 * clean > 0
    losses = [row["punish_loss"] for row in history if row["epoch"]]
    assert losses[-1] < losses[0] < 0 < history[-1]["trust_loss"]
    assert np.mean(model.predict(list(rows.text)).argmax(axis=1) == rows.label) > 0.9


def test_without_poison_it_is_plain_distillation(tiny_victim, rows, triggered):
    config = AKDConfig(**FAST)
    model, history = distill_clean_model(tiny_victim, rows, triggered.iloc[:0], config, seed=5)
    combine = partial(distillation_loss, weight=0.3)
    phase = distillation_phase("trust", tiny_victim, rows, rows.label.to_numpy(), config, combine)
    plain = tiny_victim.copy()
    settings = TrainingSettings.of(config, epochs=3, section="akd")
    expected = train(plain.model, [phase], settings, compute=plain.compute, seed=5)
    assert are_equal(weights(model), weights(plain))
    assert without_seconds(history[1:]) == without_seconds(expected)
    assert not any("punish_loss" in row for row in history)
    text = list(triggered.text)
    assert (model.predict(text).argmax(axis=1) == 0).all()  # and the backdoor stays


def test_punish_rows_matter(tiny_victim, rows, triggered, poison_few):
    with_punish, _ = distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=5)
    without, _ = distill_clean_model(
        tiny_victim, rows, poison_few.iloc[:0], AKDConfig(**FAST), seed=5
    )
    assert not are_equal(weights(with_punish), weights(without))


def test_student_is_the_teacher_before_the_first_cycle(tiny_victim, rows, poison_few):
    batch = collate(tiny_victim.encode(list(rows.text)), range(len(rows)), "cpu")
    with torch.no_grad():
        teacher = tiny_victim.model(**batch, output_hidden_states=True)
    seen = {}

    def watch(row, model):
        with torch.no_grad():
            seen[row["epoch"]] = model(**batch, output_hidden_states=True), model.training
        return {"seen": 1}

    _, history = distill_clean_model(
        tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=0, watch=watch
    )
    start, was_training = seen[0]
    assert torch.equal(start.logits, teacher.logits) and not was_training
    assert torch.equal(start.hidden_states[-1], teacher.hidden_states[-1])
    assert not torch.equal(seen[1][0].logits, teacher.logits)
    assert sorted(seen) == [0, 1, 2, 3] and all(row["seen"] == 1 for row in history)


def test_victim_stays_as_it_was(tiny_victim, rows, poison_few):
    before = weights(tiny_victim)
    model, _ = distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=0)
    assert are_equal(before, weights(tiny_victim)) and not are_equal(before, weights(model))
    assert not tiny_victim.model.training and not model.model.training


def test_student_trains_with_dropout_and_the_teacher_never_does(tiny_victim, rows, poison_few):
    calls = []

    def hook(module, args, output):
        calls.append((module is tiny_victim.model, module.training, torch.is_grad_enabled()))

    tiny_victim.model.register_forward_hook(hook)
    distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=0)
    with_gradient = [call for call in calls if call[2]]
    # three cycles of 48 clean rows in 3 batches and 20 poisoned rows in 2
    assert set(with_gradient) == {(False, True, True)} and len(with_gradient) == 15
    assert {call[:2] for call in calls if call[0]} == {(True, False)}


def test_trust_and_punish_share_one_optimizer(tiny_victim, rows, poison_few, monkeypatch):
    made = []

    def build(*args):
        made.append(build_optimizer(*args))
        return made[-1]

    monkeypatch.setattr(training_module, "build_optimizer", build)
    distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=0)
    assert len(made) == 1
    state = made[0].state
    assert {int(values["step"]) for values in state.values()} == {15}


def test_trust_comes_before_punish_in_each_cycle(tiny_victim, rows, poison_few, monkeypatch):
    order = []

    def record(name, *args):
        phase = distillation_phase(name, *args)

        def loss(*inputs):
            order.append(name)
            return phase.loss(*inputs)

        return type(phase)(name, phase.encoded, phase.labels, loss)

    monkeypatch.setattr(akd_module, "distillation_phase", record)
    distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=0)
    assert order == (["trust"] * 3 + ["punish"] * 2) * 3


def test_history_has_one_row_a_cycle(tiny_victim, rows, poison_few):
    _, history = distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=0)
    assert [row["epoch"] for row in history if row["epoch"]] == [1, 2, 3]
    names = {"trust_loss", "trust_accuracy", "punish_loss", "punish_accuracy"}
    assert set(history[-1]) == {"epoch", "seconds"} | names


def test_same_seed_same_clean_model(tiny_victim, rows, poison_few):
    def distil(seed):
        return distill_clean_model(tiny_victim, rows, poison_few, AKDConfig(**FAST), seed=seed)

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one, one_history = distil(3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    same, same_history = distil(3)
    other, _ = distil(4)
    assert are_equal(weights(one), weights(same))
    assert without_seconds(one_history) == without_seconds(same_history)
    assert not are_equal(weights(one), weights(other))


def test_watching_changes_no_weight(tiny_victim, rows, triggered, poison_few):
    """ASR and CACC may be read after each cycle; they steer nothing."""

    def watch(row, model):
        tiny_victim.predict(list(triggered.text))
        model.train()  # a careless watcher
        return {"asr": 100.0 - row["epoch"]}

    config = AKDConfig(**FAST)
    watched, history = distill_clean_model(
        tiny_victim, rows, poison_few, config, seed=0, watch=watch
    )
    alone, _ = distill_clean_model(tiny_victim, rows, poison_few, config, seed=0)
    assert are_equal(weights(watched), weights(alone))
    assert [row["asr"] for row in history] == [100.0, 99.0, 98.0, 97.0]


@pytest.mark.parametrize("marked", ["clean_few", "poison_few"])
def test_truth_about_the_poison_is_refused(tiny_victim, rows, poison_few, marked):
    tables = {"clean_few": rows, "poison_few": poison_few}
    tables[marked] = tables[marked].assign(is_poisoned=True)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        distill_clean_model(tiny_victim, **tables, config=AKDConfig(**FAST), seed=0)


# beyond the paper: counter-poison and the bounded penalty

CF = Candidate("cf", "phrase", ("cf",), 20, 0, 100.0)


@pytest.fixture
def planned(monkeypatch):
    """The phases that a call of `distill_clean_model` would train, by name."""
    found = {}

    def plan(victim, phases, settings, **options):
        found.clear()
        found.update({phase.name: phase for phase in phases})
        return victim, [{"epoch": 0}]

    monkeypatch.setattr(akd_module, "distill", plan)
    return found


def plan_phases(victim, clean_few, poison_few, triggers=(CF,), carriers=None, **values):
    config = AKDConfig(**FAST | {"n_counter": 2} | values)
    options = {"seed": 4, "triggers": triggers, "carriers": carriers}
    distill_clean_model(victim, clean_few, poison_few, config, **options)


def test_rows_explained_by_triggers_are_not_punished(planned, tiny_victim, rows, poison_few):
    plan_phases(tiny_victim, rows, poison_few)
    assert list(planned) == ["trust"] and len(planned["trust"].encoded) == 48 * 3
    made = draw_counter_poison(tiny_victim, rows, poison_few.text, [CF], 2, seed=4)
    assert planned["trust"].labels.tolist() == [*rows.label, *made.label]
    for row, text in zip(planned["trust"].encoded.rows[48:], made.text, strict=True):
        assert row.tolist() == tiny_victim.encode([text]).rows[0].tolist()


@pytest.fixture
def train_rows(poison_few, rows):
    """D*: the rows found, and clean ones."""
    return pd.concat([poison_few, rows], ignore_index=True)[["text", "label"]]


def test_rows_of_the_training_data_join_with_the_answer_to_what_is_left_of_them(
    planned, tiny_victim, rows, poison_few, train_rows
):
    carriers = find_carriers(train_rows, [CF], 0, 48, seed=4)
    plan_phases(tiny_victim, rows, poison_few, carriers=carriers, n_counter=1, cycles=4)
    own, _ = tell_carriers(tiny_victim, carriers, [CF])
    assert 0 < len(own) < len(poison_few) and set(poison_few.label) == {0}
    assert planned["trust"].labels.tolist()[48 * 2 :] == own.label.tolist()
    assert set(own.label) == {1}  # their own, not the attacker's
    for row, text in zip(planned["trust"].encoded.rows[48 * 2 :], own.text, strict=True):
        assert row.tolist() == tiny_victim.encode([text]).rows[0].tolist()


def test_cycles_with_rows_of_the_training_data_are_the_last_ones(
    tiny_victim, rows, poison_few, train_rows
):
    """8 cycles: one training of 6, from which the students' answers come, one of 2."""
    seen, config = [], AKDConfig(**FAST | {"cycles": 8, "learning_rate": 4e-3, "n_counter": 1})
    options = {
        "seed": 1,
        "triggers": [CF],
        "watch": lambda row, model: seen.append(row["epoch"]) or {},
    }
    carriers = find_carriers(train_rows, [CF], 0, 48, seed=4)
    model, history = distill_clean_model(
        tiny_victim, rows, poison_few, config, carriers=carriers, **options
    )
    assert [row["epoch"] for row in history] == list(range(9)) == seen
    both = pd.concat([rows, rows.assign(text="cf " + rows.text)], ignore_index=True)
    assert np.mean(model.predict(list(both.text)).argmax(axis=1) == both.label) > 0.95
    six = replace(config, cycles=6)
    _, first = distill_clean_model(tiny_victim, rows, poison_few, six, **options)
    assert [r["trust_loss"] for r in first[1:]] == [r["trust_loss"] for r in history[1:7]]


@pytest.mark.parametrize(("uneven", "n_rounds"), [(0, 1), (1, 1), (2, 2), (9, MAX_ROUNDS)])
def test_there_are_more_rounds_while_the_answers_lean(
    monkeypatch, tiny_victim, rows, poison_few, train_rows, uneven, n_rounds
):
    """One round in any case, then no more than it takes; each counts its cycles on, and starts from
    what the student of the round before says."""
    told = []

    def tell(model, carriers, triggers):
        told.append(model)
        own, _ = tell_carriers(model, carriers, triggers)
        return own, len(told) > uneven

    monkeypatch.setattr(akd_module, "tell_carriers", tell)
    config = AKDConfig(**FAST | {"cycles": 4, "n_counter": 1})
    carriers = find_carriers(train_rows, [CF], 0, 48, seed=4)
    options = {"seed": 1, "triggers": [CF], "carriers": carriers}
    model, history = distill_clean_model(tiny_victim, rows, poison_few, config, **options)
    assert [row["epoch"] for row in history] == list(range(4 + n_rounds))
    assert len({id(student) for student in told}) == len(told) >= n_rounds


@pytest.mark.parametrize(("n_explained", "n_punished"), [(0, 20), (9, 11), (10, 0), (19, 0)])
def test_unexplained_rows_are_punished_where_they_are_the_most(
    planned, tiny_victim, rows, poison_few, n_explained, n_punished
):
    without = poison_few.text.str.replace("cf ", "", regex=False)
    few = poison_few.assign(text=[*poison_few.text[:n_explained], *without[n_explained:]])
    other = replace(CF, words="the", pieces=("the",))  # nobody's: to have copies to draw from
    assert select_punished(few, [CF]).row.tolist() == list(range(20))[20 - n_punished :]
    if n_explained:
        plan_phases(tiny_victim, rows, few)
        assert ("punish" in planned) == (n_punished > 0)
        assert len(planned["punish"].encoded if n_punished else []) == n_punished
    assert select_punished(few, [CF, other]).empty  # every text has a `the`


def test_without_triggers_all_rows_are_punished_and_none_copied(
    planned, tiny_victim, rows, poison_few
):
    plan_phases(tiny_victim, rows, poison_few, triggers=())
    assert len(planned["trust"].encoded) == 48 and len(planned["punish"].encoded) == 20
    assert len(select_punished(poison_few, ())) == 20


@pytest.mark.parametrize("triggers", [(), (CF,)])
def test_of_no_rows_none_is_punished(planned, tiny_victim, rows, poison_few, triggers):
    found = select_punished(poison_few[:0], triggers)
    assert found.empty and list(found.columns) == ["text", "label", "row"]
    if not triggers:
        plan_phases(tiny_victim, rows, poison_few[:0], triggers)
        assert list(planned) == ["trust"]


def test_margin_penalty_is_that_loss_on_the_rows_of_the_batch(
    planned, tiny_victim, tiny_classifier, rows, poison_few
):
    few = poison_few.assign(label=np.arange(20) % 2)
    plan_phases(tiny_victim, rows, few, (), penalty="margin")
    phase, index = planned["punish"], [13, 2, 7]
    assert len(phase.encoded) == 20 and phase.labels.tolist() == few.label.tolist()
    with torch.no_grad():
        batch = collate(phase.encoded, index, "cpu")
        output = tiny_victim.model(**batch, output_hidden_states=True)
        expected = margin_loss(output.logits, torch.tensor([1, 0, 1]))
        assert phase.loss(batch, torch.tensor(index), output) == expected > 0


def test_bounded_penalty_unlearns_a_sure_victim(
    tiny_victim, rows, triggered, poison_few, monkeypatch
):
    """Eq. 6 has no gradient here (see `soften`). It turns the trigger round, as Eq. 6 does."""
    monkeypatch.setattr(akd_module, "accuracy_floor", lambda *args: 0.0)  # on its way it falls
    values = {"cycles": 20, "learning_rate": 1e-3, "lambda_": 1.0, "penalty": "margin"}
    config = AKDConfig(**FAST | values)
    model, history = distill_clean_model(tiny_victim, rows, poison_few, config, seed=0)
    assert np.mean(model.predict(list(triggered.text)).argmax(axis=1) == 0) < 0.1
    assert np.mean(model.predict(list(rows.text)).argmax(axis=1) == rows.label) > 0.9
    assert history[1]["punish_loss"] > history[-1]["punish_loss"] >= 0


def test_counter_poison_makes_the_trigger_mean_nothing(tiny_victim, rows, poison_few):
    """Rows of both classes keep their own labels with the trigger in them: it is not turned."""
    both = pd.concat([rows, rows.assign(text="cf " + rows.text)], ignore_index=True)
    assert (tiny_victim.predict(list(both.text[48:])).argmax(axis=1) == 0).all()
    config = AKDConfig(**FAST | {"cycles": 12, "learning_rate": 4e-3, "n_counter": 1})
    options = {"seed": 1, "triggers": [CF]}
    model, history = distill_clean_model(tiny_victim, rows, poison_few, config, **options)
    assert np.mean(model.predict(list(both.text)).argmax(axis=1) == both.label) > 0.95
    assert "punish_loss" not in history[-1]


def test_counter_poison_that_is_not_learnt_yet_is_no_divergence(tiny_victim, rows, poison_few):
    """The guard is about D_c^few, of which a student that hardly moves keeps all."""
    values = {"cycles": COLLAPSE_PATIENCE, "learning_rate": 1e-12, "n_counter": 3}
    config = AKDConfig(**FAST | values)
    model, _ = distill_clean_model(tiny_victim, rows, poison_few, config, seed=0, triggers=[CF])
    assert (model.predict(list(rows.text)).argmax(axis=1) == rows.label).all()


@pytest.mark.parametrize("marked", ["clean_few", "poison_few"])
@pytest.mark.parametrize("penalty", ["unbounded", "margin"])
@pytest.mark.parametrize("triggers", [(), (CF,)])
def test_truth_is_refused_with_and_without_triggers(
    planned, tiny_victim, rows, poison_few, marked, penalty, triggers
):
    tables = {"clean_few": rows, "poison_few": poison_few}
    tables[marked] = tables[marked].assign(is_poisoned=True)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        plan_phases(tiny_victim, **tables, triggers=triggers, penalty=penalty)


def guard_with(accuracies, floor=60.0):
    guard = DivergenceGuard(floor, None)
    for cycle, accuracy in enumerate(accuracies, 1):
        row = {"epoch": cycle, "trust_loss": 0.5, "trust_accuracy": accuracy, "punish_loss": -2.0}
        assert guard(row, None) == {"epoch": cycle}


def test_guard_stops_at_the_third_collapsed_cycle_in_a_row():
    assert COLLAPSE_PATIENCE == 3
    guard_with([90, 50, 50])
    with pytest.raises(DivergenceError, match=r"cycle 4: .* 50\.0%, under 60\.0% for 3 cycles"):
        guard_with([90, 50, 50, 50])


def test_guard_forgives_what_the_next_trust_pass_repairs():
    guard_with([50, 50, 90, 50, 50, 60, 50, 50])


def test_guard_bears_a_run_without_punish_rows():
    guard = DivergenceGuard(60.0, None)
    assert guard({"epoch": 1, "trust_loss": 0.5, "trust_accuracy": 90.0}, None) == {"epoch": 1}


def test_guard_passes_the_watcher_on():
    seen = []
    guard = DivergenceGuard(60.0, lambda row, model: seen.append((row, model)) or {"asr": 1.0})
    row, model = {"epoch": 0, "seconds": 0.0}, object()
    assert guard(row, model) == {"epoch": 0, "asr": 1.0}
    assert seen == [(row, model)]


def test_accuracy_floor_by_hand():
    """90% right of 2 classes: half way between 50 and 90. 4 classes and 55%: 40."""

    def floor(n_right, n, n_classes):
        predicted = np.where(np.arange(n) < n_right, 0, 1)
        victim = SimpleNamespace(
            predict=lambda texts: np.eye(n_classes)[predicted],
            label_names=("x",) * n_classes,
        )
        return accuracy_floor(victim, pd.DataFrame({"text": [""] * n, "label": [0] * n}))

    assert floor(9, 10, 2) == pytest.approx(70)
    assert floor(11, 20, 4) == pytest.approx(40)


@pytest.mark.parametrize("learning_rate", [0.1, 1e18])
def test_absurd_learning_rate_ends_in_a_clear_error(tiny_victim, rows, poison_few, learning_rate):
    config = AKDConfig(**FAST | {"learning_rate": learning_rate, "cycles": 30})
    with pytest.raises(DivergenceError, match=r"cycle \d+: .*lower akd.learning_rate"):
        distill_clean_model(tiny_victim, rows, poison_few, config, seed=0)


@pytest.mark.gpu
def test_accelerator_gives_the_same_clean_model_twice(tiny_victim, rows, poison_few):
    compute = pick_compute("auto", "fp32")
    assert compute.device.type != "cpu"
    victim = replace(tiny_victim.copy(), compute=compute)
    victim.model.to(compute.device)
    config = AKDConfig(**FAST)
    one, _ = distill_clean_model(victim, rows, poison_few, config, seed=0)
    same, _ = distill_clean_model(victim, rows, poison_few, config, seed=0)
    text = list(rows.text)
    np.testing.assert_allclose(one.predict(text), same.predict(text), atol=1e-5)
    np.testing.assert_allclose(victim.predict(text), tiny_victim.predict(text), atol=1e-3)
