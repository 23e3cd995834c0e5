"""IMBERT: the scores, what is taken out, and that nothing else changes."""

import numpy as np
import pytest
import torch

from bedkd.core.defence_config import ImbertConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.data.splits import draw_clean_few
from bedkd.defences import imbert
from bedkd.defences.interface import EquippedView
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier

SCORES = ("gradient", "attention")


def make_view(victim, rows) -> EquippedView:
    return EquippedView(rows, rows, rows, victim, victim.predict(rows.text))


@pytest.fixture
def defend(tiny_victim, rows):
    """Texts' probabilities under a config's parameters, of which `max_score` lets all K go."""

    def predict(texts, **options):
        view, config = make_view(tiny_victim, rows), ImbertConfig(**{"max_score": 1e9} | options)
        return imbert.defend(view, config, seed=0).predict(texts)

    return predict


def specials(tokenizer) -> list[int]:
    return [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("removal", ["delete", "mask"])
def test_without_a_removed_piece_it_is_the_victim(defend, tiny_victim, rows, score, removal):
    options = {"score": score, "removal": removal}
    expected = tiny_victim.predict(rows.text)
    assert np.array_equal(defend(rows.text, n_tokens=0, **options), expected)
    assert np.array_equal(defend(rows.text, n_tokens=3, max_score=0.0, **options), expected)
    assert not np.allclose(defend(rows.text, n_tokens=3, **options), expected, atol=1e-2)


def test_gradients_are_those_of_one_text_at_a_time(tiny_victim, triggered):
    encoded = tiny_victim.encode(triggered.text)
    scores = imbert.token_scores(tiny_victim, encoded)
    for row, row_scores in zip(encoded.rows, scores, strict=True):
        embedded = tiny_victim.model.get_input_embeddings()(row[None]).detach().requires_grad_()
        logits = tiny_victim.model(inputs_embeds=embedded).logits[0]
        logits[logits.argmax()].backward()
        expected = embedded.grad[0].norm(dim=-1)
        torch.testing.assert_close(row_scores, expected, atol=1e-5, rtol=1e-5)


def test_scoring_leaves_no_gradient_and_no_hook(tiny_victim, rows):
    imbert.token_scores(tiny_victim, tiny_victim.encode(rows.text))
    assert all(parameter.grad is None for parameter in tiny_victim.model.parameters())
    assert not tiny_victim.model.get_input_embeddings()._forward_hooks
    with torch.no_grad():  # a caller's no_grad does not stop it
        assert imbert.token_scores(tiny_victim, tiny_victim.encode(["the plot is dull ."]))[0].any()


def test_attention_is_the_mean_over_heads_and_pieces(tiny_victim, rows):
    tiny_victim.model.set_attn_implementation("eager")
    encoded = tiny_victim.encode(rows.text)
    scores = imbert.token_scores(tiny_victim, encoded, "attention")
    for row, row_scores in zip(encoded.rows, scores, strict=True):
        with torch.no_grad():
            output = tiny_victim.model(row[None], output_attentions=True)
        expected = output.attentions[-1][0].flatten(0, 1).mean(dim=0)
        torch.testing.assert_close(row_scores, expected, atol=1e-6, rtol=1e-5)
        assert row_scores.sum() == pytest.approx(1, abs=1e-5)  # each piece gives 1 away


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("is_training", [False, True])
def test_the_model_is_put_back(tiny_victim, rows, implementation, is_training):
    model, encoded = tiny_victim.model, tiny_victim.encode(rows.text)
    model.set_attn_implementation(implementation)
    model.train(is_training)
    first, second = (imbert.token_scores(tiny_victim, encoded, "attention") for _ in range(2))
    assert model.config._attn_implementation == implementation
    assert model.training == is_training
    assert all(map(torch.equal, first, second))  # no dropout while it scores


def test_attention_is_put_back_after_an_error(tiny_victim):
    tiny_victim.model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError), imbert.telling_attention(tiny_victim.model):
        assert tiny_victim.model.config._attn_implementation == "eager"
        raise ValueError
    assert tiny_victim.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("score", SCORES)
def test_neither_order_nor_batches_matter(defend, tiny_victim, rows, triggered, score, monkeypatch):
    texts = [*rows.text, *triggered.text]
    expected = imbert.token_scores(tiny_victim, tiny_victim.encode(texts), score)
    for removal in ("delete", "mask"):
        options = {"score": score, "removal": removal}
        together = defend(texts, **options)
        assert defend(texts[::-1], **options)[::-1] == pytest.approx(together, abs=1e-5)
        with monkeypatch.context() as patch:
            patch.setattr(Compute, "eval_tokens", 40)
            assert defend(texts, **options) == pytest.approx(together, abs=1e-5)
    monkeypatch.setattr(Compute, "eval_tokens", 1)  # one text a batch
    alone = imbert.token_scores(tiny_victim, tiny_victim.encode(texts), score)
    for one, other in zip(alone, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_max_score_is_the_highest_that_clean_rows_allow(tiny_victim, rows):
    view, few = make_view(tiny_victim, rows), draw_clean_few(rows, 8)
    curve = list(imbert.sweep_max_score(tiny_victim, few, ImbertConfig()))
    limits = [point["max_score"] for point in curve]
    assert limits[0] == 0 and limits == sorted(set(limits)) and len(limits) > 20
    assert curve[0]["clean_accuracy"] == 100 * np.mean(
        tiny_victim.predict(few.text).argmax(axis=1) == few.label
    )
    for point in curve[1::7]:  # in steps as all at once
        config = ImbertConfig(max_score=point["max_score"])
        predicted = imbert.defend(view, config, seed=0).predict(few.text).argmax(axis=1)
        assert point["clean_accuracy"] == pytest.approx(100 * np.mean(predicted == few.label))
    for drop in (0.0, 10.0):
        config = ImbertConfig(n_clean_per_class=8, max_accuracy_drop=drop)
        facts = imbert.defend(view, config, seed=0).facts
        beyond = [
            p for p in curve if p["clean_accuracy"] < curve[0]["clean_accuracy"] - drop - 1e-6
        ]
        allowed = [limit for limit in limits if not beyond or limit < beyond[0]["max_score"]]
        assert facts["max_score"] == allowed[-1]
        assert facts["victim_clean_accuracy"] - facts["clean_accuracy"] <= drop + 1e-6
    assert beyond  # without a limit, K = 3 costs more than 10 points here


def test_too_few_clean_rows_to_choose_on(tiny_victim, rows):
    view = make_view(tiny_victim, rows)
    with pytest.raises(BedkdError, match="320"):
        imbert.defend(view, ImbertConfig(), seed=0)
    imbert.defend(view, ImbertConfig(n_tokens=0), seed=0)  # nothing to choose


@pytest.mark.parametrize("score", SCORES)
def test_special_tokens_are_never_selected(tiny_victim, rows, score):
    encoded = tiny_victim.encode(rows.text)
    special = torch.tensor(specials(tiny_victim.tokenizer))
    found = imbert.find(tiny_victim, encoded, ImbertConfig(n_tokens=100, score=score))
    for row, positions in zip(encoded.rows, found, strict=True):
        others = (~torch.isin(row, special)).nonzero().flatten()
        assert sorted(positions.tolist()) == others.tolist()


def test_an_unknown_piece_can_be_selected(tiny_victim):
    assert tiny_victim.tokenizer.unk_token_id not in imbert.special_ids(tiny_victim)
    assert set(specials(tiny_victim.tokenizer)) < set(imbert.special_ids(tiny_victim).tolist())


def test_select_takes_the_highest_and_ties_by_position():
    scores = torch.tensor([9.0, 1.0, 3.0, 2.0, 3.0, 0.5, 9.0])
    is_candidate = torch.tensor([False, True, True, True, True, True, False])
    assert imbert.select(scores, is_candidate, 0).tolist() == []
    assert imbert.select(scores, is_candidate, 1).tolist() == [2]
    assert imbert.select(scores, is_candidate, 3).tolist() == [2, 4, 3]
    assert imbert.select(scores, is_candidate, 100).tolist() == [2, 4, 3, 1, 5]
    assert imbert.select(scores, torch.zeros(7, dtype=torch.bool), 3).tolist() == []


def test_of_the_highest_only_those_below_max_score_go():
    scores, every = torch.tensor([1.0, 3.0, 2.0, 0.5]), torch.ones(4, dtype=torch.bool)
    assert imbert.select(scores, every, 3, max_score=2.0).tolist() == [0]
    assert imbert.select(scores, every, 3, max_score=2.5).tolist() == [2, 0]  # 0.5: not of the K
    assert imbert.select(scores, every, 3, max_score=0.1).tolist() == []


def test_delete_shortens_by_k_and_keeps_the_rest_in_order(tiny_victim, rows):
    encoded = tiny_victim.encode(rows.text)
    found = imbert.find(tiny_victim, encoded, ImbertConfig(n_tokens=3))
    shorter = imbert.delete(encoded, found)
    assert torch.equal(shorter.lengths, encoded.lengths - 3)
    assert shorter.pad_id == encoded.pad_id
    for row, short, out in zip(encoded.rows, shorter.rows, found, strict=True):
        expected = [int(i) for place, i in enumerate(row) if place not in out.tolist()]
        assert short.tolist() == expected and len(short) == len(row) - 3


def test_mask_keeps_the_length_and_hides_the_pieces(defend, tiny_victim, rows, monkeypatch):
    seen = []
    forward = tiny_victim.model.forward

    def spy(**batch):
        seen.append(batch)
        return forward(**batch)

    encoded = tiny_victim.encode(rows.text)
    found = imbert.find(tiny_victim, encoded, ImbertConfig(n_tokens=3))
    monkeypatch.setattr(tiny_victim.model, "forward", spy)
    monkeypatch.setattr(Compute, "eval_tokens", 10_000)  # one batch, the longest rows first
    imbert.predict_without(tiny_victim, encoded, found, "mask")
    (batch,) = seen
    assert batch["input_ids"].shape == (len(rows), int(encoded.lengths.max()))
    order = encoded.lengths.argsort(descending=True, stable=True).tolist()
    for place, i in enumerate(order):
        row_mask = batch["attention_mask"][place, : len(encoded.rows[i])]
        assert torch.equal(batch["input_ids"][place, : len(row_mask)], encoded.rows[i])
        assert (row_mask == 0).nonzero().flatten().tolist() == sorted(found[i].tolist())


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("removal", ["delete", "mask"])
def test_short_and_empty_texts_keep_their_rows(defend, tiny_victim, score, removal):
    texts = ["", "the plot is dull from the first scene to the last .", "plot", "  ", "the plot"]
    options = {"score": score, "removal": removal, "n_tokens": 3}
    answer = defend(texts, **options)
    assert answer.shape == (5, 2) and np.isfinite(answer).all()
    empty = tiny_victim.predict([""])[0]
    assert answer[0] == pytest.approx(empty, abs=1e-6)
    assert answer[3] == pytest.approx(empty, abs=1e-6)
    if removal == "delete":  # [CLS] [SEP] remain
        assert answer[2] == pytest.approx(empty, abs=1e-6)
    assert defend([], **options).shape == (0, 2)
    assert defend(["", " "], **options) == pytest.approx(np.stack([empty, empty]), abs=1e-6)


@pytest.mark.parametrize(("score", "n_tokens"), [("attention", 1), ("gradient", 3)])
def test_the_trigger_is_among_the_selected(tiny_victim, triggered, score, n_tokens):
    """Measured: a piece of `cf` in all 24 texts. By gradient it is first in 16 only (in 6, were the
    tiny BERT's activation GELU), so nothing is claimed of K = 1 there."""
    config = ImbertConfig(n_tokens=n_tokens, score=score)
    found = imbert.find(tiny_victim, tiny_victim.encode(triggered.text), config)
    assert np.mean([bool({1, 2} & set(positions.tolist())) for positions in found]) > 0.7


@pytest.mark.parametrize("score", SCORES)
def test_roberta_is_a_victim_like_any_other(roberta_victim, rows, triggered, score):
    """Its positions are counted from the ids, so that no batch may shift them."""
    victim, config = roberta_victim, ImbertConfig(n_tokens=3, score=score, max_score=1e9)
    assert np.mean(victim.predict(triggered.text).argmax(axis=1) == 0) == 1
    encoded = victim.encode(triggered.text)
    together = imbert.token_scores(victim, encoded, score)
    for row, found in zip(encoded.rows, together, strict=True):
        alone = Encoded([row], encoded.pad_id, torch.tensor([len(row)]))
        (expected,) = imbert.token_scores(victim, alone, score)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    removed = imbert.find(victim, encoded, config)
    trigger = set(range(1, 1 + len(victim.tokenizer.tokenize("cf"))))
    assert np.mean([bool(trigger & set(positions.tolist())) for positions in removed]) > 0.7
    shown = imbert.show_removal(victim, ["the plot is dull ."], config)
    assert list(shown.piece) == ["Ġthe", "Ġplot", "Ġis", "Ġdull", "Ġ."]
    for removal in ("delete", "mask"):
        config = ImbertConfig(n_tokens=3, score=score, removal=removal, n_clean_per_class=8)
        defended = imbert.defend(make_view(victim, rows), config, seed=0)
        assert np.isfinite(defended.predict([*triggered.text, ""])).all()


def test_the_victim_stays_as_it_was_and_the_facts_are_told(tiny_victim, rows):
    before = {name: value.clone() for name, value in tiny_victim.model.state_dict().items()}
    config = ImbertConfig(n_tokens=2, score="attention", removal="mask")
    defended = imbert.defend(make_view(tiny_victim, rows), config, seed=0)
    defended.predict(rows.text)
    assert defended.facts == {"n_tokens": 2, "score": "attention", "removal": "mask"}
    assert defended.model is None and defended.history == []
    for name, value in tiny_victim.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_show_removal_has_each_piece_once(tiny_victim: Classifier):
    texts = ["the plot is dull .", "", "cf the cast is warm ."]
    table = imbert.show_removal(tiny_victim, texts, ImbertConfig(n_tokens=2))
    assert list(table.columns) == ["row", "position", "piece", "score", "is_removed"]
    assert set(table.row) == {0, 2}
    tokenizer = tiny_victim.tokenizer
    for row, lines in table.groupby("row"):
        assert list(lines.piece) == tokenizer.tokenize(texts[row])
        assert list(lines.position) == list(range(1, len(lines) + 1))
        assert lines.is_removed.sum() == 2
        assert lines[lines.is_removed].score.min() >= lines[~lines.is_removed].score.max()
