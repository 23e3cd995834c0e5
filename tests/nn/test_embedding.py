"""Word embeddings trained on the used rows only: the same model, sooner."""

import contextlib

import pytest
import torch
from test_training import fit, make_phase

from bedkd.nn import training
from bedkd.nn.embedding import only_used_rows


def table_of(classifier):
    return classifier.model.get_input_embeddings()


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


@pytest.fixture(params=["bert", "roberta"])
def tiny_classifier(request, tiny_classifier, tiny_roberta):
    """Either kind of model, in place of the shared fixture."""
    return tiny_classifier if request.param == "bert" else tiny_roberta


@pytest.fixture
def used(tiny_classifier, rows):
    return torch.cat(make_phase(tiny_classifier, rows).encoded.rows).unique()


def test_it_trains_as_the_whole_table_would(tiny_classifier, rows, monkeypatch):
    whole = tiny_classifier.copy()
    fit(tiny_classifier, [make_phase(tiny_classifier, rows)])
    context = contextlib.nullcontext(contextlib.nullcontext)
    monkeypatch.setattr(training, "only_used_rows", lambda *_: context)
    fit(whole, [make_phase(whole, rows)])
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tiny_classifier)[name], value, atol=1e-6, rtol=1e-5)


def test_unused_rows_keep_their_values_and_used_ones_move(tiny_classifier, rows, used):
    before = table_of(tiny_classifier).weight.detach().clone()
    table = table_of(tiny_classifier)
    fit(tiny_classifier, [make_phase(tiny_classifier, rows)])
    assert table_of(tiny_classifier) is table
    moved = (table.weight != before).any(dim=1).nonzero().flatten()
    assert set(moved.tolist()) == set(used.tolist())


def test_a_watcher_sees_the_whole_table_and_what_was_learnt(tiny_classifier, rows):
    other = tiny_classifier.encode(["some words that no training row has: zebra quartz"])
    seen, table = [], table_of(tiny_classifier)

    def watch(row, model):
        assert model.get_input_embeddings() is table
        seen.append(training.forward_all(model, other, tiny_classifier.compute)[0])
        return {}

    fit(tiny_classifier, [make_phase(tiny_classifier, rows)], watch=watch)
    after, _ = training.forward_all(tiny_classifier.model, other, tiny_classifier.compute)
    assert torch.equal(seen[-1], after) and not torch.equal(seen[0], after)


def test_the_optimizer_has_the_used_rows_only(tiny_classifier, rows, used):
    encoded = make_phase(tiny_classifier, rows).encoded
    n_all = tiny_classifier.model.num_parameters()
    table = table_of(tiny_classifier).weight
    with only_used_rows(tiny_classifier.model, [encoded]):
        n_inside = sum(p.numel() for p in tiny_classifier.model.parameters())
        n_pad = int(encoded.pad_id not in used)
        n_unused = len(table) - len(used) - n_pad
        assert n_all - n_inside == n_unused * table.shape[1]


def test_the_table_comes_back_after_an_error(tiny_classifier, rows):
    table = table_of(tiny_classifier)
    encoded = make_phase(tiny_classifier, rows).encoded
    with pytest.raises(ValueError), only_used_rows(tiny_classifier.model, [encoded]):
        raise ValueError
    assert table_of(tiny_classifier) is table


def test_a_frozen_table_stays_frozen(tiny_classifier, rows):
    table = table_of(tiny_classifier)
    table.weight.requires_grad_(False)
    with only_used_rows(tiny_classifier.model, [make_phase(tiny_classifier, rows).encoded]):
        assert table_of(tiny_classifier) is table
