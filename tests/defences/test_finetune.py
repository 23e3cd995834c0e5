"""Fine-tuning and distillation as rivals, and both with the rows that the DMM found."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bedkd.core.config import AKDConfig
from bedkd.core.defence_config import FinetuneConfig
from bedkd.core.errors import BlindnessError
from bedkd.defences import distill, finetune
from bedkd.defences.interface import EquippedView
from bedkd.method.akd import distill_clean_model
from bedkd.nn.training import Step, forward_all

FAST = AKDConfig(n_clean_per_class=24, cycles=2, learning_rate=3e-4)
BRIEF = FinetuneConfig(epochs=2, learning_rate=3e-4)


@pytest.fixture
def view(tiny_victim, rows):
    probabilities = tiny_victim.predict(list(rows.text))
    return EquippedView(rows, rows, rows.iloc[:20], tiny_victim, probabilities)


@pytest.fixture
def found(triggered):
    return triggered[["text", "label"]].iloc[:16].assign(row=range(16))


def are_equal(one, other) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def margin(model, rows) -> float:
    """How far the label's logit leads, on average; probabilities may be 1 to the last digit."""
    logits, _ = forward_all(model.model, model.encode(list(rows.text)), model.compute)
    return float((logits[:, 0] - logits[:, 1]).mean())


def test_learning_rate_0_changes_nothing(view, triggered):
    defended = finetune.defend(view, replace(BRIEF, learning_rate=0.0), seed=0)
    for texts in (list(view.train.text), list(triggered.text)):
        assert np.array_equal(defended.predict(texts), view.victim.predict(texts))
    assert (defended.predict(list(triggered.text)).argmax(axis=1) == 0).all()  # ASR stays 100


def test_fine_tuning_learns_from_the_clean_share_alone(view):
    flipped = view.clean_share.assign(label=1 - view.clean_share.label)
    config = FinetuneConfig(epochs=20, learning_rate=1e-3)
    defended = finetune.defend(replace(view, clean_share=flipped), config, seed=0)
    predicted = defended.predict(list(flipped.text)).argmax(axis=1)
    assert np.mean(predicted == flipped.label) > 0.9
    assert defended.facts == {"n_clean": 20, "n_poison": 0} and len(defended.history) == 20


def test_the_victim_itself_stays_as_it_is(view, found):
    before = view.victim.copy()
    finetune.defend(replace(view, poison_few=found), BRIEF, seed=0)
    distill.defend(replace(view, poison_few=found), FAST, seed=0)
    assert are_equal(view.victim, before)


@pytest.mark.parametrize(
    ("module", "config", "passes"), [(finetune, BRIEF, "clean"), (distill, FAST, "trust")]
)
def test_rows_found_are_climbed(view, found, tiny_classifier, module, config, passes):
    """On a model that is not yet sure of them; where the label's probability is 1 to the last
    digit, cross-entropy has no gradient to climb."""
    view = replace(view, victim=tiny_classifier)
    without = module.defend(view, config, seed=0)
    with_rows = module.defend(replace(view, poison_few=found), config, seed=0)
    assert not are_equal(without.model, with_rows.model)
    assert with_rows.facts["n_poison"] == 16
    row = with_rows.history[-1]
    assert row["punish_loss"] <= 0 and f"{passes}_loss" in row
    assert margin(with_rows.model, found) < margin(without.model, found)


@pytest.fixture
def passes_made(monkeypatch):
    """Names of the phases that steps were made of."""
    made, call = [], Step.__call__
    monkeypatch.setattr(
        Step, "__call__", lambda self, index: made.append(self.phase.name) or call(self, index)
    )
    return made


@pytest.mark.parametrize(
    ("cycles", "epochs", "batch", "expected"),
    [(4, 2, 6, 12), (6, 2, 16, 6), (5, 2, 16, 6), (1, 2, 16, 2)],  # 5 and 1: not to be divided
)
def test_rows_found_are_climbed_in_as_many_steps_as_akd_punishes(
    view, found, passes_made, cycles, epochs, batch, expected
):
    akd = replace(FAST, cycles=cycles, batch_size=batch)
    poisoned = replace(view, poison_few=found)
    distill_clean_model(view.victim, view.clean_pool, found[["text", "label"]], akd, seed=0)
    wanted = passes_made.count("punish")
    assert wanted == cycles * math.ceil(16 / batch)
    passes_made.clear()
    distill.defend(poisoned, akd, seed=0)
    assert passes_made.count("punish") == wanted
    passes_made.clear()
    config = replace(BRIEF, epochs=epochs, batch_size=batch)
    finetune.defend(poisoned, config, seed=0, akd=akd)
    assert passes_made.count("punish") == expected >= wanted
    if expected == wanted:
        assert passes_made.count("clean") >= epochs * math.ceil(20 / batch)


def test_climbs_are_made_in_turn_with_parts_of_the_clean_share(view, found, passes_made):
    akd = replace(FAST, cycles=6)
    finetune.defend(replace(view, poison_few=found), BRIEF, seed=0, akd=akd)
    assert passes_made == ["clean", "punish"] * 6  # parts of 7, 7 and 6 rows


def test_few_clean_rows_are_still_climbed_in_turn(view, found, passes_made):
    few = replace(view, poison_few=found, clean_share=view.clean_share[:2])
    finetune.defend(few, BRIEF, seed=0, akd=replace(FAST, cycles=6))
    assert (passes_made.count("clean"), passes_made.count("punish")) == (4, 6)


@pytest.mark.parametrize(("module", "config"), [(finetune, BRIEF), (distill, FAST)])
def test_the_climb_is_the_label_part_of_eq_6(view, found, module, config):
    """-λ times the cross-entropy, on a model that training leaves as it is: dropout is off."""
    victim = view.victim
    for part in victim.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    poisoned = replace(view, poison_few=found.assign(label=1))  # which the victim does not believe
    akd = {"akd": replace(FAST, lambda_=0.3)} if module is finetune else {}
    defended = module.defend(poisoned, replace(config, learning_rate=1e-12), seed=0, **akd)
    probability = victim.predict(list(found.text))[:, 1].astype(float)
    expected = 0.3 * np.log(probability).mean()
    assert defended.history[-1]["punish_loss"] == pytest.approx(expected, rel=1e-3)


def test_distillation_is_akd_without_poisoned_rows(view, found):
    expected, history = distill_clean_model(
        view.victim, view.clean_pool, found[["text", "label"]].iloc[:0], FAST, seed=7
    )
    defended = distill.defend(view, FAST, seed=7)
    assert are_equal(defended.model, expected)
    assert [row["trust_loss"] for row in defended.history] == [
        row["trust_loss"] for row in history[1:]
    ]


@pytest.mark.parametrize(("module", "config"), [(finetune, BRIEF), (distill, FAST)])
def test_the_defender_is_blind(view, module, config):
    leak = {"is_poisoned": False}
    seeing = replace(
        view, clean_share=view.clean_share.assign(**leak), clean_pool=view.clean_pool.assign(**leak)
    )
    with pytest.raises(BlindnessError, match="is_poisoned"):
        module.defend(seeing, config, seed=0)


def test_same_seed_same_model(view):
    first, again, other = (finetune.defend(view, BRIEF, seed=s).model for s in (0, 0, 1))
    assert are_equal(first, again) and not are_equal(first, other)
