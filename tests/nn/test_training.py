"""The one training loop, its watcher, and the passes without a gradient."""

import pytest
import torch

from bedkd.core.errors import DivergenceError
from bedkd.nn.batching import Encoded, collate
from bedkd.nn.supervised import label_phase
from bedkd.nn.training import (
    Phase,
    TrainingSettings,
    build_optimizer,
    check_finite,
    forward_all,
    predict_probabilities,
    train,
)


def make_phase(classifier, rows, name="fit"):
    return label_phase(name, classifier, rows)


def fit(classifier, phases, seed=0, watch=None, **options):
    options = {"learning_rate": 1e-3, "weight_decay": 0.0, "section": "victim"} | options
    settings = TrainingSettings(**{"epochs": 2, "batch_size": 8} | options)
    how = {"compute": classifier.compute, "seed": seed, "watch": watch}
    return train(classifier.model, phases, settings, **how)


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.model.parameters()])


def test_history_has_one_row_an_epoch(tiny_classifier, rows):
    phases = [make_phase(tiny_classifier, rows, name) for name in ("one", "two")]
    history = fit(tiny_classifier, phases, epochs=3)
    names = {"epoch", "seconds", "one_loss", "one_accuracy", "two_loss", "two_accuracy"}
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(set(row) == names and row["seconds"] > 0 for row in history)
    assert all(type(value) in (int, float) for row in history for value in row.values())
    assert not tiny_classifier.model.training


def test_training_learns(tiny_classifier, rows):
    history = fit(tiny_classifier, [make_phase(tiny_classifier, rows)], epochs=25)
    assert history[-1]["fit_loss"] < 0.2 < 0.5 < history[0]["fit_loss"]
    assert history[-1]["fit_accuracy"] > 95


def test_loss_and_accuracy_are_means_over_rows_and_not_over_batches(tiny_classifier, rows):
    """48 rows in batches of 20, 20 and 8; nothing moves at learning rate 0 without dropout."""
    for module in tiny_classifier.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    phase = make_phase(tiny_classifier, rows)
    batch = collate(phase.encoded, range(len(rows)), "cpu")
    with torch.no_grad():
        logits = tiny_classifier.model(**batch).logits
    (row,) = fit(tiny_classifier, [phase], epochs=1, batch_size=20, learning_rate=0.0)
    expected = torch.nn.functional.cross_entropy(logits, phase.labels).item()
    assert row["fit_loss"] == pytest.approx(expected, rel=1e-5)
    right = (logits.argmax(dim=-1) == phase.labels).float().mean().item()
    assert row["fit_accuracy"] == pytest.approx(100 * right)


def test_watch_is_called_before_the_first_step_and_after_each_epoch(tiny_classifier, rows):
    start, seen = weights(tiny_classifier), []

    def watch(row, model):
        assert model is tiny_classifier.model and not model.training
        seen.append((dict(row), torch.equal(weights(tiny_classifier), start)))
        return {"extra": 10 * row["epoch"]}

    history = fit(tiny_classifier, [make_phase(tiny_classifier, rows)], watch=watch)
    assert [(row["epoch"], is_start) for row, is_start in seen] == [
        (0, True),
        (1, False),
        (2, False),
    ]
    assert seen[0][0] == {"epoch": 0, "seconds": 0.0}
    assert set(seen[1][0]) == {"epoch", "seconds", "fit_loss", "fit_accuracy"}
    assert [row["extra"] for row in history] == [0, 10, 20]
    assert [row["epoch"] for row in history] == [0, 1, 2]


def test_dropout_is_on_while_training_even_after_a_watcher(tiny_classifier, rows):
    modes = []
    hook = tiny_classifier.model.dropout.register_forward_hook(
        lambda module, args, output: modes.append((module.training, torch.is_grad_enabled()))
    )
    fit(tiny_classifier, [make_phase(tiny_classifier, rows)], watch=lambda row, model: {})
    hook.remove()
    assert modes == [(True, True)] * 12


def test_dropout_makes_two_passes_differ(tiny_classifier, rows):
    """The first step of two seeds differs by dropout and order; of one seed, by nothing."""
    phase, options = make_phase(tiny_classifier, rows), {"epochs": 1, "batch_size": 48}
    runs = (fit(tiny_classifier.copy(), [phase], seed, **options) for seed in (0, 0, 1))
    one, same, other = (history[0]["fit_loss"] for history in runs)
    assert one == same and one != pytest.approx(other, abs=1e-6)


def test_watcher_can_steer_only_by_raising(tiny_classifier, rows):
    """It may leave the model in any mode and draw random numbers: the weights are the same."""

    def watch(row, model):
        model.train()
        torch.rand(10)
        return {}

    watched, alone = tiny_classifier.copy(), tiny_classifier.copy()
    fit(watched, [make_phase(watched, rows)], watch=watch)
    fit(alone, [make_phase(alone, rows)])
    assert torch.equal(weights(watched), weights(alone))
    assert not watched.model.training


def test_watcher_that_raises_ends_the_training(tiny_classifier, rows):
    state = torch.random.get_rng_state()

    def watch(row, model):
        if row["epoch"] == 2:
            raise ValueError("enough")
        return {}

    with pytest.raises(ValueError, match="enough"):
        fit(tiny_classifier, [make_phase(tiny_classifier, rows)], epochs=9, watch=watch)
    assert torch.equal(state, torch.random.get_rng_state())


def test_same_seed_same_weights_whatever_the_global_state(tiny_classifier, rows):
    def run(seed, before):
        torch.manual_seed(before)
        state = torch.random.get_rng_state()
        student = tiny_classifier.copy()
        history = fit(student, [make_phase(student, rows)], seed=seed)
        assert torch.equal(state, torch.random.get_rng_state())
        return weights(student), [row["fit_loss"] for row in history]

    (one, one_losses), (same, same_losses), (other, _) = run(0, 1), run(0, 2), run(1, 1)
    assert torch.equal(one, same) and one_losses == same_losses
    assert not torch.equal(one, other)


@pytest.mark.parametrize("is_reshuffled", [True, False])
def test_order_is_drawn_anew_each_epoch_if_asked(tiny_classifier, rows, is_reshuffled):
    order = []
    phase = make_phase(tiny_classifier, rows)

    def loss(batch, index, output):
        order.extend(index.tolist())
        return phase.loss(batch, index, output)

    fit(
        tiny_classifier,
        [Phase("fit", phase.encoded, phase.labels, loss)],
        is_reshuffled=is_reshuffled,
    )
    first, second = order[:48], order[48:]
    assert sorted(first) == sorted(second) == list(range(48))
    assert (first != second) is is_reshuffled


def test_phases_of_one_epoch_have_orders_of_their_own(tiny_classifier, rows):
    orders = {"one": [], "two": []}

    def record(name):
        phase = make_phase(tiny_classifier, rows, name)

        def loss(batch, index, output):
            orders[name].extend(index.tolist())
            return phase.loss(batch, index, output)

        return Phase(name, phase.encoded, phase.labels, loss)

    fit(tiny_classifier, [record("one"), record("two")], epochs=1)
    assert sorted(orders["one"]) == sorted(orders["two"]) and orders["one"] != orders["two"]


def test_inputs_and_row_numbers_of_a_batch_belong_together(tiny_classifier, rows):
    phase = make_phase(tiny_classifier, rows)

    def loss(batch, index, output):
        expected = collate(phase.encoded, index.tolist(), "cpu")
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        width = max(len(phase.encoded.rows[i]) for i in index)
        assert batch["input_ids"].shape == (len(index), width)
        assert output.hidden_states[-1].shape == (len(index), width, 32)
        return phase.loss(batch, index, output)

    fit(tiny_classifier, [Phase("fit", phase.encoded, phase.labels, loss)], epochs=1)


def test_optimizers_by_name(tiny_classifier):
    adamw = build_optimizer(tiny_classifier.model, "adamw", 3e-5, 0.01)
    assert type(adamw) is torch.optim.AdamW
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (3e-5, 0.01)
    adam = build_optimizer(tiny_classifier.model, "adam", 3e-5, 0.01)
    assert type(adam) is torch.optim.Adam and adam.defaults["weight_decay"] == 0
    n_trained = sum(len(group["params"]) for group in adam.param_groups)
    assert n_trained == len(list(tiny_classifier.model.parameters()))


def test_frozen_parameters_stay_out_of_the_optimizer(tiny_classifier):
    frozen = tiny_classifier.model.classifier.weight.requires_grad_(False)
    optimizer = build_optimizer(tiny_classifier.model, "adamw", 1e-3, 0.0)
    assert all(p is not frozen for group in optimizer.param_groups for p in group["params"])


def test_forward_all_keeps_row_order_and_zeroes_padding(tiny_victim, rows):
    encoded = tiny_victim.encode(list(rows.text))
    logits, hidden = forward_all(tiny_victim.model, encoded, tiny_victim.compute, with_hidden=True)
    assert hidden.shape == (48, int(encoded.lengths.max()), 32)
    for i in (0, 7, 31):
        with torch.no_grad():
            output = tiny_victim.model(encoded.rows[i][None], output_hidden_states=True)
        n = len(encoded.rows[i])
        torch.testing.assert_close(logits[i], output.logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(hidden[i, :n], output.hidden_states[-1][0], atol=1e-5, rtol=0)
    assert forward_all(tiny_victim.model, encoded, tiny_victim.compute)[1] is None


def test_forward_all_pads_as_the_model_sees_it_if_asked(tiny_victim, rows):
    encoded = tiny_victim.encode(list(rows.text))
    _, hidden = forward_all(
        tiny_victim.model, encoded, tiny_victim.compute, with_hidden=True, pad_to=30
    )
    assert hidden.shape[1] == 30
    shortest = int(encoded.lengths.argmin())
    batch = collate(encoded, [shortest], "cpu", 30)
    with torch.no_grad():
        expected = tiny_victim.model(**batch, output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(hidden[shortest], expected, atol=1e-5, rtol=0)
    assert (hidden[shortest, -1] != 0).any()


@pytest.mark.parametrize("is_training", [True, False])
def test_forward_all_is_without_dropout_and_leaves_the_mode(tiny_victim, rows, is_training):
    encoded = tiny_victim.encode(list(rows.text))
    expected = predict_probabilities(tiny_victim.model, encoded, tiny_victim.compute)
    tiny_victim.model.train(is_training)
    again = predict_probabilities(tiny_victim.model, encoded, tiny_victim.compute)
    assert (again == expected).all()
    assert tiny_victim.model.training is is_training
    assert all(p.grad is None for p in tiny_victim.model.parameters())


def test_probabilities_are_a_softmax(tiny_victim, rows):
    encoded = tiny_victim.encode(list(rows.text))
    probabilities = predict_probabilities(tiny_victim.model, encoded, tiny_victim.compute)
    logits, _ = forward_all(tiny_victim.model, encoded, tiny_victim.compute)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    expected = (logits[:, 0] - logits[:, 1]).sigmoid().numpy()
    assert probabilities[:, 0] == pytest.approx(expected, abs=1e-6)


def test_phase_without_rows_is_harmless(tiny_classifier):
    empty = Encoded([], 0, torch.zeros(0, dtype=torch.int64))
    before = weights(tiny_classifier)
    phase = Phase("fit", empty, torch.zeros(0, dtype=torch.int64), None)
    (row,) = fit(tiny_classifier, [phase], epochs=1)
    assert (row["fit_loss"], row["fit_accuracy"]) == (0, 0)
    assert torch.equal(before, weights(tiny_classifier))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["trust", "punish"])
def test_a_loss_that_is_not_finite_is_named(name, value):
    phases = [
        Phase(n, Encoded([], 0, torch.zeros(0)), torch.zeros(0), None) for n in ("trust", "punish")
    ]
    row = {"epoch": 7, "trust_loss": 0.5, "punish_loss": -2.0} | {f"{name}_loss": value}
    with pytest.raises(DivergenceError, match=rf"cycle 7: the {name} loss is {value}; lower akd"):
        settings = TrainingSettings(1, 8, 1e-3, 0.0, "akd", title="AKD", unit="cycle")
        check_finite(row, phases, settings)


def test_a_linear_schedule_ends_at_nothing(tiny_classifier, rows):
    """The last of its steps is the smallest; a constant one is what is asked for by default."""
    rates = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        phases = [make_phase(tiny_classifier, rows), make_phase(tiny_classifier, rows[:20], "more")]
        fit(tiny_classifier, phases, batch_size=20, schedule="linear")  # 2 epochs of 3 + 1 steps
        assert rates == pytest.approx([1e-3 * (8 - i) / 8 for i in range(8)])
        rates.clear()
        fit(tiny_classifier, phases, batch_size=20)
        assert rates == [1e-3] * 8
