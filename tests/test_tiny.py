import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bedkd.errors import BedkdError
from bedkd.tiny import build_tiny_bert
from bedkd.toy import generate

TEXTS = generate("toy-sentiment", 300, seed=0).text.tolist()


@pytest.fixture(scope="module")
def pair():
    return build_tiny_bert(TEXTS, 2, seed=0)


def compute_logits(model, tokenizer, texts) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits


def test_roundtrip_keeps_the_words(pair):
    _, tokenizer = pair
    text = "the ending is hardly dull , but the humor is not funny ."
    ids = tokenizer(text.upper())["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.split() == text.split()


def test_pair_of_texts_has_two_segments(pair):
    _, tokenizer = pair
    encoded = tokenizer("dull .", "funny .")
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert pieces.count("[SEP]") == 2
    assert encoded["token_type_ids"][0] == 0 and encoded["token_type_ids"][-1] == 1


def test_unseen_words_are_spelt_out(pair):
    _, tokenizer = pair
    pieces = tokenizer.tokenize("cf mn tq mb bb Zyxwvq-42 (~)")
    assert "[UNK]" not in pieces
    assert "".join(p.removeprefix("##") for p in pieces) == "cfmntqmbbbzyxwvq-42(~)"


def test_frequent_words_are_one_piece(pair):
    _, tokenizer = pair
    assert tokenizer.tokenize("the director is hardly") == ["the", "director", "is", "hardly"]


def test_vocabulary_is_bounded_and_fits_the_model():
    model, tokenizer = build_tiny_bert(TEXTS, 2, seed=0, vocab_size=300)
    assert len(tokenizer) == model.config.vocab_size == 300
    assert sorted(tokenizer.get_vocab().values()) == list(range(300))
    assert tokenizer.pad_token_id == model.config.pad_token_id


def test_long_texts_are_cut_at_max_length():
    model, tokenizer = build_tiny_bert(TEXTS, 2, seed=0, max_length=16)
    ids = tokenizer(" ".join(TEXTS), truncation=True)["input_ids"]
    assert len(ids) == 16 == model.config.max_position_embeddings
    assert compute_logits(model, tokenizer, [" ".join(TEXTS)]).shape == (1, 2)


def test_shape_and_dropout_follow_the_arguments():
    model, _ = build_tiny_bert(
        TEXTS, 4, seed=0, hidden_size=32, num_layers=1, num_heads=4, max_length=32
    )
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 1, 4)
    assert config.num_labels == 4 and model.classifier.out_features == 4
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
    assert not model.training


def test_saved_pair_loads_through_auto_classes(pair, tmp_path):
    model, tokenizer = pair
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS[:8], "an unseen Word, cf", "long " * 100]
    assert loaded_tokenizer(texts, truncation=True).data == tokenizer(texts, truncation=True).data
    expected = compute_logits(model, tokenizer, texts)
    assert torch.equal(compute_logits(loaded, loaded_tokenizer, texts), expected)
    assert loaded_tokenizer.mask_token == "[MASK]"


def test_global_generator_is_untouched():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_tiny_bert(TEXTS, 2, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_weights_depend_on_the_seed_alone(pair):
    torch.manual_seed(99)
    same, _ = build_tiny_bert(TEXTS, 2, seed=0)
    other, _ = build_tiny_bert(TEXTS, 2, seed=1)
    expected = pair[0].state_dict()
    assert all(torch.equal(w, expected[name]) for name, w in same.state_dict().items())
    word = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(other.state_dict()[word], expected[word])


def test_vocabulary_is_the_same_in_every_process(pair):
    code = (
        "from bedkd.tiny import _learn_vocabulary; from bedkd.toy import generate;"
        "texts = generate('toy-sentiment', 300, seed=0).text.tolist();"
        "print(sorted(_learn_vocabulary(texts, 2000).items(), key=lambda item: item[1]))"
    )
    expected = sorted(pair[1].get_vocab().items(), key=lambda item: item[1])
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == str(expected)


@pytest.mark.parametrize(
    ("texts", "num_labels", "settings", "message"),
    [
        ([], 2, {}, "got 0 and 2"),
        (TEXTS, 1, {}, "got 300 and 1"),
        (TEXTS, 2, {"vocab_size": 50}, "vocab_size is 50"),
        (TEXTS, 2, {"hidden_size": 65}, "hidden_size 65.*num_heads 2"),
    ],
)
def test_bad_arguments_are_refused(texts, num_labels, settings, message):
    with pytest.raises(BedkdError, match=message):
        build_tiny_bert(texts, num_labels, seed=0, **settings)
