import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bedkd.core import hub
from bedkd.core.errors import BedkdError
from bedkd.data.generated import generate
from bedkd.nn.tiny import TINY_BUILDERS, build_tiny_bert, build_tiny_roberta

TEXTS = generate("toy-sentiment", 300, seed=0).text.tolist()


@pytest.fixture(scope="module")
def pair():
    return build_tiny_bert(TEXTS, 2, seed=0)


@pytest.fixture(scope="module")
def roberta():
    return build_tiny_roberta(TEXTS, 2, seed=0)


def compute_logits(model, tokenizer, texts) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits


def test_roundtrip_keeps_the_words(pair):
    _, tokenizer = pair
    text = "the ending is hardly dull , but the humor is not funny ."
    ids = tokenizer(text.upper())["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == "the ending is hardly dull, but the humor is not funny."


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


@pytest.mark.parametrize("kind", ["pair", "roberta"])
def test_saved_pair_loads_through_auto_classes(kind, request, tmp_path):
    model, tokenizer = request.getfixturevalue(kind)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS[:8], "an unseen Word, cf", "long " * 100]
    assert loaded_tokenizer(texts, truncation=True).data == tokenizer(texts, truncation=True).data
    expected = compute_logits(model, tokenizer, texts)
    assert torch.equal(compute_logits(loaded, loaded_tokenizer, texts), expected)
    assert loaded_tokenizer.mask_token == tokenizer.mask_token
    assert loaded_tokenizer.model_max_length == 64


@pytest.mark.parametrize("build", [build_tiny_bert, build_tiny_roberta])
def test_global_generator_is_untouched(build):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build(TEXTS, 2, seed=0)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", hub.TINY_MODELS)
def test_weights_depend_on_the_seed_alone(name):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(99 + len(states))
        states.append(TINY_BUILDERS[name](TEXTS, 2, seed=seed)[0].state_dict())
    one, same, other = states
    assert all(torch.equal(weights, one[key]) for key, weights in same.items())
    (word,) = (key for key in one if key.endswith("word_embeddings.weight"))
    assert not torch.equal(other[word], one[word])


def test_vocabulary_is_the_same_in_every_process(pair, roberta):
    code = (
        "from bedkd.nn.tiny import build_tiny_bert, build_tiny_roberta;"
        "from bedkd.data.generated import generate;"
        "texts = generate('toy-sentiment', 300, seed=0).text.tolist();"
        "made = [build(texts, 2, seed=0)[1] for build in (build_tiny_bert, build_tiny_roberta)];"
        "[print(ascii(t.backend_tokenizer.model.__getstate__())) for t in made]"
    )
    expected = [ascii(t.backend_tokenizer.model.__getstate__()) for _, t in (pair, roberta)]
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines() == expected


@pytest.mark.parametrize("build", [build_tiny_bert, build_tiny_roberta])
@pytest.mark.parametrize(
    ("texts", "num_labels", "settings", "message"),
    [
        ([], 2, {}, "got 0 and 2"),
        (TEXTS, 1, {}, "got 300 and 1"),
        (TEXTS, 2, {"vocab_size": 50}, "vocab_size is 50"),
        (TEXTS, 2, {"hidden_size": 65}, "hidden_size 65.*num_heads 2"),
    ],
)
def test_bad_arguments_are_refused(build, texts, num_labels, settings, message):
    with pytest.raises(BedkdError, match=message):
        build(texts, num_labels, seed=0, **settings)


# the three that `victim.model` can name


def test_there_is_a_builder_for_each_name():
    assert tuple(TINY_BUILDERS) == hub.TINY_MODELS
    base, large, roberta = (build(TEXTS, 2, seed=0)[0] for build in TINY_BUILDERS.values())
    assert large.config.num_hidden_layers > base.config.num_hidden_layers
    assert large.config.hidden_size > base.config.hidden_size
    assert large.num_parameters() > 2 * base.num_parameters()
    assert (base.base_model_prefix, roberta.base_model_prefix) == ("bert", "roberta")


@pytest.mark.parametrize("name", hub.TINY_MODELS)
def test_the_last_layer_alone_is_drawn_large(name):
    found, plain = (
        TINY_BUILDERS[name](TEXTS, 2, seed=0, **options)[0].state_dict()
        for options in ({}, {"head_scale": 1.0})
    )
    last = "classifier.out_proj.weight" if name == hub.TINY_ROBERTA else "classifier.weight"
    assert torch.equal(found[last], plain[last] * (60 if name == hub.TINY else 30))
    assert [key for key in found if not torch.equal(found[key], plain[key])] == [last]
    assert found[last].shape[0] == 2


# RoBERTa's own


def test_roberta_spells_out_what_it_never_saw(roberta):
    _, tokenizer = roberta
    text = "You, cf naïve 東 (~)"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 2)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert set(tokenizer(text)) == {"input_ids", "attention_mask"}


def test_roberta_has_one_piece_for_a_word_wherever_it_stands(roberta):
    _, tokenizer = roberta
    pieces = tokenizer.tokenize("the director is hardly the")
    assert pieces == ["Ġthe", "Ġdirector", "Ġis", "Ġhardly", "Ġthe"]
    assert tokenizer("")["input_ids"] == [0, 2]
    assert tokenizer("<mask>")["input_ids"] == [0, tokenizer.mask_token_id, 2]


def test_roberta_reads_max_length_pieces_and_no_more():
    model, tokenizer = build_tiny_roberta(TEXTS, 2, seed=0, max_length=16)
    ids = tokenizer(" ".join(TEXTS), truncation=True)["input_ids"]
    assert len(ids) == 16 and model.config.max_position_embeddings == 16 + 2
    assert compute_logits(model, tokenizer, [" ".join(TEXTS)]).shape == (1, 2)
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        model(torch.tensor([[*ids, 2]]))


def test_roberta_vocabulary_fits_the_model():
    model, tokenizer = build_tiny_roberta(TEXTS, 2, seed=0, vocab_size=300)
    assert len(tokenizer) == model.config.vocab_size == 300
    assert tokenizer.pad_token_id == model.config.pad_token_id == 1
    with pytest.raises(BedkdError, match="vocab_size is 261"):
        build_tiny_roberta(TEXTS, 2, seed=0, vocab_size=261)


def test_padding_does_not_change_what_roberta_says(roberta):
    model, tokenizer = roberta
    together = compute_logits(model, tokenizer, TEXTS[:8])
    alone = torch.cat([compute_logits(model, tokenizer, [text]) for text in TEXTS[:8]])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-5)
