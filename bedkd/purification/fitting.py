"""Makes a model and its tokenizer fit: padding, length, labels; and tries whether they do."""

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import forward_all
from bedkd.purification.refusing import refusing

MAX_LENGTH = 512  # tokens, unless asked for more
LEAST_LENGTH = 4  # tokens
SAMPLES = ("good", "It was not good at all, she said.")
TOLERANCE = 1e-3  # of the largest logit


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    compute: Compute,
    max_length: int | None,
    where: str,
) -> Classifier:
    """A classifier of both, in place: on its device, in eval mode, padding and length as it needs.

    Raises BedkdError: the tokenizer has tokens that the model does not know, its labels have no
    names of their own, `max_length` is more than it can read, or it gives no sensible answer (see
    `check_answers`).
    """
    if model.config.is_encoder_decoder:
        raise BedkdError(
            f"{where} is an encoder and a decoder, of which distillation knows nothing"
        )
    with refusing(f"{where} cannot be run on {compute.device}"):
        names = list_labels(model.config, where)
        check_vocabulary(model, tokenizer, where)
        set_padding(model, tokenizer, where)
        length = choose_length(model, tokenizer, max_length, where)
        model.set_attn_implementation(compute.attention)
        model = model.to(compute.device).eval()
        classifier = Classifier(model, tokenizer, length, names, compute)
        check_answers(classifier, where)
    return classifier


def list_labels(config, where: str) -> tuple[str, ...]:
    """The names in the order of the ids."""
    given = {int(key): value for key, value in config.id2label.items()}
    if sorted(given) != list(range(config.num_labels)):
        raise BedkdError(f"{where}: id2label names the ids {sorted(given)[:8]}, not 0 to C-1")
    names = tuple(str(given[number]).strip() for number in range(len(given)))
    for name in names:
        if not name or not name.isprintable():
            raise BedkdError(f"{where}: a label is called {name!r}; correct id2label")
        if names.count(name) > 1:
            raise BedkdError(f"{where}: several labels are called {name!r}; correct id2label")
    return names


def check_vocabulary(model, tokenizer, where: str) -> None:
    """Raises BedkdError if there are token ids without an embedding."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    n_rows = model.get_input_embeddings().weight.shape[0]
    if largest >= n_rows or largest < 0:
        raise BedkdError(
            f"{where}: tokenizer and model do not match: the tokenizer has token ids up to "
            f"{largest}, the model {n_rows} embeddings; give the tokenizer that it was trained with"
        )


def set_padding(model, tokenizer, where: str) -> None:
    """One padding token for both. The tokenizer's own, if there is one; the model's, where the
    tokenizer has none or positions are counted by it.

    A decoder classifies at the last token that is not padding, so that the token which ends every
    text is none.
    """
    config = model.config.get_text_config()
    wanted = config.pad_token_id
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    if tokenizer.pad_token_id is None or count_offset(model):
        token = vocabulary.get(wanted) if isinstance(wanted, int) else None
        tokenizer.pad_token = token or tokenizer.pad_token or spare_token(tokenizer, where)
    config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def spare_token(tokenizer, where: str) -> str:
    ends, ids = tokenizer(SAMPLES[0])["input_ids"][-1:], tokenizer.get_vocab()
    for token in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token):
        if token in ids and [ids[token]] != ends:
            return token
    raise BedkdError(f"{where}: its tokenizer has no padding token, and none that could be one")


def count_offset(model: nn.Module) -> int:
    """Positions that RoBERTa and its like leave unused: they count from the padding id plus 1."""
    for name, module in model.named_modules():
        is_positions = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_positions and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def choose_length(model, tokenizer, wanted: int | None, where: str) -> int:
    """Tokens of a text: `wanted`, or as many as both can read, up to MAX_LENGTH."""
    limits = [tokenizer.model_max_length]
    if not isinstance(limits[0], int | float):
        raise BedkdError(f"{where}: its tokenizer's model_max_length is {limits[0]!r}, no number")
    n_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(n_positions, int) and n_positions > 0:
        limits.append(n_positions - count_offset(model))
    limit = int(min(limits))
    if limit < LEAST_LENGTH:
        raise BedkdError(f"{where}: model and tokenizer read {limit} tokens of a text, too few")
    if wanted is None:
        return min(limit, MAX_LENGTH)
    if not LEAST_LENGTH <= wanted <= limit:
        raise BedkdError(
            f"{where} reads at most {limit} tokens of a text; max_length is {wanted}, which must "
            f"be {LEAST_LENGTH} to {limit}"
        )
    return wanted


def check_answers(classifier: Classifier, where: str) -> None:
    """Raises BedkdError unless the model answers a short text alone as beside longer ones, with
    numbers, and gives a hidden state for each token, which distillation compares."""
    exact = Compute(classifier.compute.device, torch.float32)
    long = " ".join([SAMPLES[1]] * classifier.max_length)
    together, alone = classifier.encode([*SAMPLES, long]), []
    if not together.lengths.min():
        raise BedkdError(f"{where}: its tokenizer makes nothing of {SAMPLES[0]!r}")
    logits, hidden = forward_all(classifier.model, together, exact, with_hidden=True)
    for text in SAMPLES:
        alone.append(forward_all(classifier.model, classifier.encode([text]), exact)[0])
    if not logits.isfinite().all():
        raise BedkdError(
            f"{where} answers with numbers that are not finite; its weights are broken"
        )
    if hidden.shape[1] != int(together.lengths.max()):
        raise BedkdError(f"{where} has no hidden state for each token, which distillation needs")
    error = (logits[: len(SAMPLES)] - torch.cat(alone)).abs().max()
    if error > TOLERANCE * max(1.0, float(logits.abs().max())):
        raise BedkdError(
            f"{where} answers a text otherwise beside a longer one: it does not know its padding "
            f"({classifier.tokenizer.pad_token!r})"
        )
