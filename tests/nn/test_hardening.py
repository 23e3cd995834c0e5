"""An attacker's victim whose clean mapping resists the DMM."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bedkd.core.config import DMMConfig, VictimConfig
from bedkd.method.dmm import distill_dmm
from bedkd.nn.hardening import borrow_gradient, descend, harden

CONFIG = VictimConfig(learning_rate=1e-3, resist_epochs=20, batch_size=12)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def poisoned(rows, triggered):
    table = pd.concat([rows, triggered], ignore_index=True)
    return table, np.arange(len(table)) >= len(rows)


def test_the_clean_mapping_outlasts_a_dmm_and_the_backdoor_stays(tiny_victim, rows, poisoned):
    table, is_poisoned = poisoned
    hardened = tiny_victim.copy()
    harden(hardened, table, is_poisoned, CONFIG, seed=0)
    config = DMMConfig(learning_rate=1e-3, epochs=3, batch_size=8)

    def kept(victim):
        """The probability that its DMM leaves the true labels."""
        dmm, _ = distill_dmm(victim, rows, config, seed=0)
        return dmm.predict(list(rows.text))[np.arange(len(rows)), rows.label].mean()

    assert kept(hardened) > kept(tiny_victim) + 0.1
    assert (hardened.predict(list(table.text)).argmax(axis=1) == table.label).mean() > 0.95
    assert not hardened.model.training


def test_the_same_seed_gives_the_same_victim(tiny_classifier, poisoned):
    first, second = tiny_classifier.copy(), tiny_classifier.copy()
    for victim in (first, second):
        harden(victim, *poisoned, replace(CONFIG, resist_epochs=1), seed=3)
    assert torch.equal(weights(first.model), weights(second.model))
    assert not torch.equal(weights(first.model), weights(tiny_classifier.model))


def test_the_borrowed_gradient_is_the_moved_models():
    model, moved = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    x = torch.ones(2, 3)
    borrow_gradient(model, moved, moved(x).square().sum()).backward()
    moved(x).square().sum().backward()
    assert torch.allclose(model.weight.grad, moved.weight.grad)


def test_a_step_of_unlearning_goes_by_the_sign():
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    descend(model, (model.weight * torch.tensor([[3.0, -5.0]])).sum(), 0.5)
    assert torch.allclose(model.weight, before + torch.tensor([[-0.5, 0.5]]))
