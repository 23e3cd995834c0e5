"""Length-bucketed batches and collation."""

import pytest
import torch

from bedkd.core.devices import Compute
from bedkd.nn.batching import (
    Encoded,
    collate,
    encode,
    encode_ids,
    evaluation_batches,
    training_batches,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw_lengths(n, seed=0):
    return torch.randint(3, 60, (n,), generator=generator(seed))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 300])
@pytest.mark.parametrize("batch_size", [1, 16, 1000])
def test_an_epoch_has_every_row_once(n, batch_size):
    batches = training_batches(draw_lengths(n), batch_size, generator())
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-n // batch_size)
    sizes = [len(batch) for batch in batches] or [0]
    assert max(sizes) - min(sizes) <= 1  # 33 rows in batches of 16 leave none alone


def test_batches_hang_on_the_generator_alone():
    lengths = draw_lengths(500)
    torch.manual_seed(1)
    one = training_batches(lengths, 16, generator(3))
    torch.manual_seed(2)
    assert training_batches(lengths, 16, generator(3)) == one
    assert training_batches(lengths, 16, generator(4)) != one


def test_order_is_random_and_not_by_length():
    """Rows of one length meet other rows each time, and short batches do not come first."""
    lengths = draw_lengths(2000)
    one, two = (training_batches(lengths, 16, generator(seed)) for seed in (0, 1))
    assert not {frozenset(batch) for batch in one} & {frozenset(batch) for batch in two}
    means = torch.tensor([lengths[batch].float().mean() for batch in one])
    rise = (means.diff() > 0).float().mean()
    assert 0.3 < rise < 0.7


def test_few_rows_have_other_company_each_time():
    """32 punished rows in two batches, cycle after cycle."""
    lengths, draw = draw_lengths(32), generator()
    passes = [training_batches(lengths, 16, draw) for _ in range(20)]
    assert len({frozenset(map(frozenset, batches)) for batches in passes}) > 15


def test_rows_of_like_length_share_a_batch():
    lengths = draw_lengths(2000)

    def padding(batches):
        return sum(int((lengths[b].max() - lengths[b]).sum()) for b in batches)

    at_random = [list(range(start, start + 16)) for start in range(0, 2000, 16)]
    bucketed = training_batches(lengths, 16, generator())
    assert padding(bucketed) < padding(at_random) / 4


@pytest.mark.parametrize("n", [0, 1, 500])
def test_evaluation_has_every_row_once_and_few_tokens(n):
    lengths = draw_lengths(n)
    batches = list(evaluation_batches(lengths, 256))
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert all(len(batch) * int(lengths[batch].max()) <= 256 for batch in batches)


def test_evaluation_takes_a_row_above_the_limit_alone():
    assert list(evaluation_batches(torch.tensor([40, 3, 50]), 16)) == [[2], [0], [1]]


def test_collate_pads_to_the_longest_of_the_batch():
    rows = [torch.tensor(row) for row in ([5, 6, 7, 8, 9], [5], [6, 7], [1, 2, 3])]
    encoded = Encoded(rows, 99, torch.tensor([5, 1, 2, 3]))
    batch = collate(encoded, [3, 1], "cpu")
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 99, 99]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert set(batch) == {"input_ids", "attention_mask"}
    assert collate(encoded, [1], "cpu", 4)["input_ids"].tolist() == [[5, 99, 99, 99]]
    assert torch.equal(collate(encoded, [3, 1], "cpu", 2)["input_ids"], batch["input_ids"])


def test_encode_cuts_and_keeps_special_tokens(tiny_classifier):
    tokenizer = tiny_classifier.tokenizer
    texts = ["the story is good .", "the plot is dull from the first scene to the last ."]
    encoded = encode(tokenizer, texts, 8)
    assert encoded.lengths.tolist() == [len(row) for row in encoded.rows] == [8, 8]
    for row in encoded.rows:
        assert (row[0], row[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    full = encode(tokenizer, texts, 32)
    assert full.lengths.tolist() == [len(tokenizer(text)["input_ids"]) for text in texts]
    assert full.lengths[1] > 8 and torch.equal(full.rows[1][:7], encoded.rows[1][:7])
    assert encoded.pad_id == tokenizer.pad_token_id and len(encoded) == 2
    assert encoded.rows[0].dtype == torch.int64
    assert len(encode(tokenizer, [], 8)) == 0


def test_predictions_hang_neither_on_order_nor_on_batches(tiny_victim, rows, monkeypatch):
    texts = list(rows.text)
    expected = tiny_victim.predict(texts)
    assert expected[:, 0].std() > 0.1
    backwards = tiny_victim.predict(texts[::-1])[::-1]
    assert backwards == pytest.approx(expected, abs=1e-5)
    for text, probabilities in zip(texts, expected, strict=True):
        assert tiny_victim.predict([text])[0] == pytest.approx(probabilities, abs=1e-5)
    monkeypatch.setattr(Compute, "eval_tokens", 40)
    assert tiny_victim.predict(texts) == pytest.approx(expected, abs=1e-5)


def test_ids_are_rows_as_they_are():
    encoded = encode_ids([[5, 6], [], [7]], 9)
    assert [row.tolist() for row in encoded.rows] == [[5, 6], [], [7]]
    assert encoded.lengths.tolist() == [2, 0, 1] and encoded.pad_id == 9
    assert len(encode_ids([], 9)) == 0


def test_no_text_gives_no_prediction(tiny_victim):
    assert tiny_victim.predict([]).shape == (0, 2)
