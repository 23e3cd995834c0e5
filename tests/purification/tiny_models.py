"""Tiny random classifiers of many architectures, as somebody else would make and save them."""

import string

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bedkd.nn.tiny import build_tiny_bert, build_tiny_roberta

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 64}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
CORPUS = ["the story is good .", "the cast is bad from the first scene to the last ."]
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_NAMES = dict(zip(("pad", "unk", "cls", "sep", "mask"), BERT_TOKENS, strict=True))


def wordpieces():
    return build_tiny_bert([*CORPUS, string.printable], 2, seed=0, vocab_size=200)[1]


def roberta_pairs():
    return build_tiny_roberta(CORPUS, 2, seed=0, vocab_size=300)[1]


def byte_pairs(first: str = "", last: str = "", **special: str):
    """Byte-level BPE, with a token at the start and the end of each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 300, "initial_alphabet": alphabet, "show_progress": False}
    tokens = sorted({*special.values()})
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=tokens, **options))
    return finish(tokenizer, first, last, special)


def unigrams():
    """What DeBERTa-v2 and v3 have, but for its size."""
    pieces = sorted({*string.ascii_lowercase, *"▁.", "▁the", "▁story", "▁is", "▁good", "st"})
    vocabulary = [(token, 0.0) for token in BERT_TOKENS] + [(p, -9.0 / len(p)) for p in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return finish(tokenizer, "[CLS]", "[SEP]", BERT_NAMES)


def finish(tokenizer, first: str, last: str, special: dict):
    tokens = [(token, tokenizer.token_to_id(token)) for token in (first, last) if token]
    if tokens:
        single = " ".join(filter(None, (first, "$A", last)))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=tokens
        )
    names = {f"{name}_token": token for name, token in special.items()}
    return t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def gpt2_pairs():
    return byte_pairs(eos="<|endoftext|>", bos="<|endoftext|>", unk="<|endoftext|>")


def llama_pairs():
    return byte_pairs("<|begin|>", bos="<|begin|>", eos="<|end|>")


def modern_pairs():
    return byte_pairs("[CLS]", "[SEP]", **BERT_NAMES)


V2 = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3}
V2 |= {"conv_act": "gelu", "position_buckets": 8}
V3 = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
V3 |= {"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
ARCHITECTURES = {
    "bert": (t.BertConfig, SIZES, wordpieces),
    "distilbert": (t.DistilBertConfig, DISTIL, wordpieces),
    "roberta": (t.RobertaConfig, SIZES | {"max_position_embeddings": 66}, roberta_pairs),
    "deberta-v2": (t.DebertaV2Config, SIZES | V2, unigrams),
    "deberta-v3": (t.DebertaV2Config, SIZES | V3, unigrams),
    "modernbert": (t.ModernBertConfig, SIZES | {"local_attention": 8}, modern_pairs),
    "gpt2": (t.GPT2Config, GPT2, gpt2_pairs),
    "llama": (t.LlamaConfig, SIZES | {"num_key_value_heads": 1}, llama_pairs),
}


def make(name: str, n_labels: int = 2, **more):
    """(model, tokenizer), random and with an answer of its own to each text."""
    config, sizes, make_tokenizer = ARCHITECTURES[name]
    tokenizer = make_tokenizer()
    ids = {
        key: getattr(tokenizer, key)
        for key in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    }
    names = {i: f"class {i}" for i in range(n_labels)}
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    made = config(vocab_size=len(tokenizer), **sizes | ids | labels | more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = t.AutoModelForSequenceClassification.from_config(made).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model, tokenizer


def save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
