"""The speed room: loops that do the same work, the floor counted by hand, the record's shape."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bedkd.core.config import AKDConfig, DMMConfig, RunConfig, VictimConfig
from bedkd.method.distillation import distillation_phase
from bedkd.method.losses import distillation_loss
from bedkd.nn.batching import collate, encode_ids
from bedkd.report.speed.accuracy import SHOWN, compare_accuracies, spread
from bedkd.report.speed.floor import count_flops, matrix_rate
from bedkd.report.speed.growth import grow_lengths, grow_rows
from bedkd.report.speed.pictures import bar_table, bars, growth_curves
from bedkd.report.speed.record import describe_speed, keep_speed
from bedkd.report.speed.stages import (
    Stage,
    kit_akd,
    kit_dmm,
    kit_scan,
    kit_victim,
    time_distillation,
    time_scan,
    time_victim,
)
from bedkd.report.speed.textbook import textbook_akd, textbook_dmm, textbook_losses, textbook_scan
from bedkd.report.speed.trainer import trainer_arguments, trainer_victim
from bedkd.report.speed.turns import Timed, summarise, take_turns
from bedkd.report.speed.whole import count_steps, estimate
from bedkd.runs.profiles import load_profile, open_run

SMALL = RunConfig(
    victim=VictimConfig(epochs=3, batch_size=8, learning_rate=1e-3),
    dmm=DMMConfig(epochs=3, batch_size=8),
    akd=AKDConfig(cycles=3, batch_size=8),
)


def without_dropout(classifier):
    for module in classifier.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return classifier


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.model.parameters()])


def are_near(one, other, start):
    """Apart by less than a twentieth of their way. AdamW steps alike on a gradient that is nothing
    but rounding, such as that of a key's bias, so single weights are not compared."""
    way, apart = weights(one) - weights(start), weights(one) - weights(other)
    return way.norm() > 1e-2 and apart.norm() < way.norm() / 20


def test_seconds_of_epochs_that_were_not_run():
    assert Timed(total=10.0, epoch=4.0, n_epochs=2).of(5) == 22.0
    assert Timed(total=10.0, epoch=4.0, n_epochs=2).of(2) == 10.0


def test_loops_take_turns():
    called = []
    loops = {n: lambda number, n=n: called.append((n, number)) or 2.0 for n in ("bedkd", "other")}
    times = take_turns(loops, 2)
    assert called == [("bedkd", 0), ("other", 0), ("bedkd", 1), ("other", 1)]
    assert list(times.columns) == ["round", "loop", "seconds"]


def test_summary_says_how_many_times_as_fast():
    times = pd.DataFrame({"loop": ["bedkd", "textbook"] * 3, "seconds": [1, 6, 2, 8, 9, 7.0]})
    table = summarise(times)
    assert table.loc["bedkd", ["median", "min", "max", "times_as_fast"]].tolist() == [2, 1, 9, 3.5]
    assert table.loc["textbook", "times_as_fast"] == 1


def test_both_losses_are_the_same_on_the_same_batch(tiny_victim, rows):
    """Eq. 3 on eight rows: the kit's from stored outputs, the textbook's from a new pass."""
    student, batch = without_dropout(tiny_victim.copy()), rows[:8]
    with torch.no_grad():
        student.model.classifier.bias += 1.0
        hard, soft = textbook_losses(tiny_victim, student, batch, SMALL.dmm)
    labels = rows.label.to_numpy()
    phase = distillation_phase(
        "one", tiny_victim, rows, labels, SMALL.dmm, lambda a, b: distillation_loss(a, b, 0.3)
    )
    inputs = collate(phase.encoded, range(8), "cpu")
    with torch.no_grad():
        loss = phase.loss(
            inputs, torch.arange(8), student.model(**inputs, output_hidden_states=True)
        )
    assert float(loss) == pytest.approx(float(0.3 * hard + 0.7 * soft), rel=1e-5)


def test_both_loops_end_at_the_same_model(tiny_victim, rows):
    """All rows are one batch and nothing is dropped, so that neither order nor chance is left."""
    victim = without_dropout(tiny_victim)
    one = {"batch_size": len(rows), "learning_rate": 1e-3}
    dmm, akd = replace(SMALL.dmm, **one), replace(SMALL.akd, **one)
    kits = (
        kit_dmm(victim, rows, dmm, seed=1, epochs=3),
        kit_akd(victim, rows, rows[:8], akd, seed=1, cycles=2),
    )
    textbooks = (
        textbook_dmm(victim, rows, dmm, seed=1, epochs=3),
        textbook_akd(victim, rows, rows[:8], akd, seed=1, cycles=2),
    )
    for (kit, timed), (textbook, other) in zip(kits, textbooks, strict=True):
        assert are_near(kit, textbook, victim)
        assert timed.n_epochs == other.n_epochs and timed.total >= timed.epoch > 0


def test_both_scans_say_the_same(tiny_victim, tiny_classifier, rows):
    models, texts = [tiny_victim, tiny_classifier], list(rows.text)
    kit, textbook = kit_scan(models, texts), textbook_scan(models, texts, 16)
    for one, other in zip(kit, textbook, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_trainer_ends_where_the_kit_does(tiny_classifier, rows):
    """One batch an epoch and no dropout: the same steps."""
    start = without_dropout(tiny_classifier)
    config = replace(SMALL.victim, batch_size=len(rows))
    kit, _ = kit_victim(start, rows, config, seed=1, epochs=3)
    other, timed = trainer_victim(start, rows, config, seed=1, epochs=3)
    assert are_near(kit, other, start) and timed.n_epochs == 3


def test_trainer_has_its_best_settings(tmp_path, compute):
    options = {"seed": 1, "epochs": 2, "workers": 0}
    given = trainer_arguments(SMALL.victim, compute, str(tmp_path), **options)
    assert given.optim == "adamw_torch_fused"
    assert given.train_sampling_strategy == "group_by_length"
    assert given.per_device_train_batch_size == 8 and not given.bf16
    low = replace(compute, dtype=torch.bfloat16)
    assert trainer_arguments(SMALL.victim, low, str(tmp_path), **options).bf16


def flops_by_hand(length, *, width=32, inner=64, labels=2):
    """One layer forward: four projections, two of the feed-forward net, two products of the
    attention, the pooler and the head, which see one token; a product of [m, k] and [k, n] is
    2·m·k·n."""
    projections = 4 * 2 * length * width * width
    feed_forward = 2 * 2 * length * width * inner
    attention = 2 * 2 * length * length * width
    return projections + feed_forward + attention + 2 * width * width + 2 * width * labels


def test_floor_is_counted_as_by_hand(tiny_classifier):
    inner = tiny_classifier.model.config.intermediate_size
    encoded = encode_ids([[2, 5, 6, 3], [2, 5, 6, 3], [2, 5, 6, 7, 8, 3]], 0)
    counted = count_flops(tiny_classifier, encoded, is_training=False)
    assert counted == 2 * flops_by_hand(4, inner=inner) + flops_by_hand(6, inner=inner)
    # two products backward for one forward: the gradients of the input and of the weight
    assert count_flops(tiny_classifier, encoded, is_training=True) == 3 * counted


def test_counting_leaves_the_model_alone(tiny_classifier):
    before = weights(tiny_classifier)
    count_flops(tiny_classifier, encode_ids([[2, 5, 3]], 0), is_training=True)
    assert torch.equal(before, weights(tiny_classifier))
    assert all(p.grad is None for p in tiny_classifier.model.parameters())


def test_floor_fraction_and_ratio():
    times = pd.DataFrame({"loop": ["bedkd", "textbook"], "seconds": [2.0, 10.0]})
    stage = Stage(times.assign(round=0), 100.0, "textbook")
    assert stage.ratio == 5 and stage.floor_fraction(rate=100.0) == 0.5


def test_rate_of_the_machine_is_one_of_each_type(compute, monkeypatch):
    monkeypatch.setattr("bedkd.report.speed.floor.SMALL", (64,))
    rates = matrix_rate(compute)
    assert set(rates) == {"float32", "bfloat16"} and min(rates.values()) > 0


@pytest.fixture
def measured(tiny_victim, rows):
    """All stages, once; nothing is said of how long they took."""
    few, options = rows[:16], {"rounds": 1}
    return {
        "dmm_akd": time_distillation(tiny_victim, few, rows[:4], SMALL, epochs=1, **options),
        "scan": time_scan([tiny_victim, tiny_victim], list(rows.text), 16, **options),
        "victim": time_victim(tiny_victim, few, SMALL.victim, epochs=1, **options),
    }


def test_record(measured, compute, tmp_path):
    rates = {"float32": 1e9, "bfloat16": 2e9}
    accuracies = pd.DataFrame({"seed": [1], "loop": ["bedkd"], "asr": [5.0]})
    parts = {"accuracies": accuracies, "growth": pd.DataFrame(), "what": {"model": "tiny-bert"}}
    record = describe_speed(measured, compute, rates, **parts)
    for name, stage in measured.items():
        assert record[f"ratio_{name}"] == stage.ratio > 0
        assert record["floor_fraction"][name] == stage.floor_fraction(2e9)
        assert set(record["seconds"][name]) == {"bedkd", stage.rival}
    # 16 clean rows and 4 poisoned ones, in batches of 8
    assert record["steps"] == {
        "dmm_akd": 2 * SMALL.dmm.epochs + 3 * SMALL.akd.cycles,
        "victim": 2 * SMALL.victim.epochs,
    }
    assert {"device", "threads", "precision", "versions", "commit", "what"} <= set(record)
    assert record["accuracies"] == [{"seed": 1, "loop": "bedkd", "asr": 5.0}]
    assert "NaN" not in json.dumps(record)


def test_records_of_other_places_are_kept_and_the_same_is_replaced(tmp_path):
    def make(threads, device="cpu", model="some/encoder", **more):
        return {"device": device, "threads": threads, "what": {"model": model}} | more

    path = tmp_path / "speed.json"
    for record in (make(1), make(2, ratio=1), make(8, "gpu"), make(2, model="tiny-bert")):
        keep_speed(record, path)
    keep_speed(make(2, ratio=5), path)
    kept = json.loads(path.read_text())
    places = [(r["threads"], r["device"], r["what"]["model"]) for r in (kept, *kept["others"])]
    assert places == [
        (2, "cpu", "some/encoder"),
        (1, "cpu", "some/encoder"),
        (8, "gpu", "some/encoder"),
        (2, "cpu", "tiny-bert"),
    ]
    assert kept["ratio"] == 5


def test_bars_are_relative_to_the_kit():
    times = pd.DataFrame({"loop": ["bedkd", "textbook"], "seconds": [2.0, 10.0], "round": 0})
    stages = {"scan": Stage(times, 100.0, "textbook"), "onion": Stage(times, math.nan, "textbook")}
    table = bar_table(stages, rate=100.0)
    assert table.floor.isna().sum() == 2
    ax = bars(table)
    assert [bar.get_width() for bar in ax.patches] == [1, 5, 1, 5]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {
        "bedkd",
        "textbook",
        "floor",
    }


def test_growth_has_a_row_for_each_size(tiny_victim, rows):
    """Four rows, and four times as many; then rows of eight and sixteen tokens."""
    grown = grow_rows(tiny_victim, rows, SMALL.dmm, base=4, factors=(1, 4))
    longer = grow_lengths(tiny_victim, rows, SMALL.dmm, n_rows=4, lengths=(8, 16))
    assert list(grown.stage) == ["scan", "dmm"] * 2 == list(longer.stage)
    assert grown.tokens.iloc[2] == 4 * grown.tokens.iloc[0]
    assert list(longer.tokens) == [32, 32, 64, 64]
    assert (grown.added_mb >= 0).all() and (longer.peak_mb > 0).all()
    ax = growth_curves(pd.concat([grown, longer], ignore_index=True), "seconds")
    assert len(ax.lines) == 4


def test_what_each_side_reaches(tmp_path, monkeypatch):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path))
    small = {
        **{"data.n_train": 200, "data.n_test": 60, "data.clean_pool_per_class": 20},
        **{"victim.epochs": 1, "dmm.n_clean_per_class": 16, "akd.n_clean_per_class": 16},
        **{"dmm.epochs": 1, "akd.cycles": 1},
    }
    found = compare_accuracies([open_run("quick", "toy-offence", "badwords", 1, small)])
    loops = ["victim", "victim fp32", "bedkd", "bedkd fp32", "textbook"]
    assert list(found.loop) == loops
    assert found[list(SHOWN)].to_numpy().min() >= 0 and found[list(SHOWN)].to_numpy().max() <= 100
    # this profile computes in float32, so that they are the same
    shown = found.set_index("loop")[list(SHOWN)]
    assert shown.loc["victim"].tolist() == shown.loc["victim fp32"].tolist()
    assert shown.loc["bedkd"].tolist() == shown.loc["bedkd fp32"].tolist()
    assert list(spread(found).index) == loops
    assert spread(found[:0]).empty


PROFILE = """
extends: paper
grid: {dataset: [olid], attack: [none, badwords], seed: [0]}
defences: [finetune, onion, textguard]
studies: [poison_rate, temperature_akd]
focus: [olid]
sweeps: {poison_rate: [0.1, 0.2], temperature_akd: [1.0, 2.5]}
"""


def test_steps_of_a_profile_are_counted_once_each(tmp_path):
    """Victims: clean, 20% and 10%. AKD: both methods of each cell, and two points as printed."""
    (tmp_path / "mine.yaml").write_text(PROFILE)
    profile = load_profile(str(tmp_path / "mine.yaml"))
    table = count_steps(profile, {"olid": 1600}).set_index("stage")
    assert table.n.to_dict() == {"victim": 3, "dmm": 5, "akd": 6, "finetune": 2, "textguard": 2}
    assert table.steps["victim"] == 3 * 10 * 100 / 1000
    assert table.steps["finetune"] == 2 * 10 * 20 / 1000
    assert table.steps["textguard"] == 2 * 9 * 5 * 100 / 1000
    printed = 50 * (640 / 16 + 32 / 16) / 1000
    counter = profile.plus_run(profile.run("olid", "badwords", 0)).config.akd
    few, later = 640 * (1 + counter.n_counter), counter.cycles // 4
    plus = (counter.cycles - later) * few / 16 + 4 * later * (few + 0.2 * 1600 / 2) / 16
    assert table.steps["akd"] == pytest.approx(4 * printed + 2 * plus / 1000)
    record = {"seconds": {"victim": {"bedkd": 36.0}, "dmm_akd": {"bedkd": 9.0}}}
    record["steps"] = {"victim": 1000, "dmm_akd": 1000}
    hours = estimate(table.reset_index(), record, ["textguard"]).set_index("stage").hours
    assert hours["victim"] == pytest.approx(3 * 36 / 3600)
    assert hours["akd"] == pytest.approx(table.steps["akd"] * 9 / 3600)
    assert hours["all but textguard"] == pytest.approx(hours[:4].sum())
