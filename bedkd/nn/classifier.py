"""Sequence classifiers with their tokenizers: load, copy, save, predict."""

import contextlib
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bedkd.core import hub
from bedkd.core.config import VictimConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.nn.batching import Encoded, encode
from bedkd.nn.tiny import TINY_BUILDERS
from bedkd.nn.training import predict_probabilities


@dataclass(frozen=True)
class Classifier:
    """A model with all that it takes to classify a text."""

    model: torch.nn.Module
    tokenizer: transformers.PreTrainedTokenizerBase
    max_length: int
    label_names: tuple[str, ...]
    compute: Compute

    def encode(self, texts: Sequence[str]) -> Encoded:
        return encode(self.tokenizer, texts, self.max_length)

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities [N, C], in the order of the texts."""
        return self.predict_encoded(self.encode(texts))

    def predict_encoded(self, encoded: Encoded) -> np.ndarray:
        """The same for texts tokenized before."""
        return predict_probabilities(self.model, encoded, self.compute)

    def copy(self) -> "Classifier":
        """The same parameters in a model of its own: how DMM and CM start."""
        return replace(self, model=copy.deepcopy(self.model))


def new_classifier(
    config: VictimConfig,
    texts: Sequence[str],
    label_names: tuple[str, ...],
    compute: Compute,
    seed: int,
) -> Classifier:
    """Pretrained encoder with a fresh head, or a tiny model with a tokenizer made from `texts`.

    Raises BedkdError if it cannot be found, or is no sequence classifier with safetensors.
    """
    n = len(label_names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the head's initial weights
        if config.model in hub.TINY_MODELS:
            model, tokenizer = TINY_BUILDERS[config.model](texts, n, seed=seed)
        else:
            model, tokenizer = _load(config.model, n)
    model.set_attn_implementation(compute.attention)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    limit = getattr(model.config, "max_position_embeddings", None) or config.max_length
    max_length = min(config.max_length, limit, tokenizer.model_max_length)
    return Classifier(model.to(compute.home), tokenizer, max_length, label_names, compute)


def _load(name: str, n_labels: int):
    location = hub.locate(name, "model")
    # a head for other classes is drawn anew
    head = {"num_labels": n_labels, "ignore_mismatched_sizes": True}
    try:
        return _from_pretrained(location.path, location.pinned, **head)
    except (OSError, ValueError, SafetensorError) as error:
        cause = str(error).strip().split("\n")[0]
        raise BedkdError(f"cannot load model {name!r} as a classifier: {cause}") from error


def _from_pretrained(path: str | Path, pinned: dict, **head):
    """Model, in float32, which the optimizer needs (the mirror's are float16), and tokenizer."""
    options = {"dtype": torch.float32, "use_safetensors": True} | pinned | head
    with quiet():  # a fresh head is meant, not worth a warning
        model = AutoModelForSequenceClassification.from_pretrained(path, **options)
        return model, AutoTokenizer.from_pretrained(path, **pinned)


@contextlib.contextmanager
def quiet():
    """No warnings and no bars from transformers, inside the block."""
    log = transformers.logging
    verbosity, is_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if is_bar:
            log.enable_progress_bar()


def save_classifier(classifier: Classifier, folder: Path, meta: dict) -> None:
    """Weights as safetensors, the tokenizer, and meta.json, which `load_classifier` needs. Of
    several processes, which hold the same, the first writes."""
    if classifier.compute.rank:
        return
    with quiet():
        classifier.model.save_pretrained(folder)
        classifier.tokenizer.save_pretrained(folder)
    own = {"max_length": classifier.max_length, "label_names": list(classifier.label_names)}
    write_json(folder / "meta.json", meta | own)


def load_classifier(folder: Path, compute: Compute) -> Classifier:
    """What `save_classifier` left. Raises BedkdError if files are missing or cannot be read."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        names, max_length = tuple(meta["label_names"]), int(meta["max_length"])
        model, tokenizer = _from_pretrained(folder, {})
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BedkdError(f"cannot load the classifier in {folder}: {error}") from error
    model.set_attn_implementation(compute.attention)
    return Classifier(model.to(compute.home).eval(), tokenizer, max_length, names, compute)
