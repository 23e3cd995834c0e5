"""W2SDefense's teacher: fully fine-tuned on clean proxy rows, once for all attacks."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from bedkd.core import hub
from bedkd.core.blindness import check_blind
from bedkd.core.config import VictimConfig
from bedkd.core.defence_config import TeacherConfig
from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json
from bedkd.nn.batching import Encoded
from bedkd.nn.classifier import Classifier, new_classifier, quiet
from bedkd.nn.supervised import train_on_labels
from bedkd.nn.tiny import TINY_BUILDERS
from bedkd.nn.training import TrainingSettings, WatchFunction, forward_batches

WARMUP_SHARE = 0.06  # of the teacher's steps, as in the authors' code; the student has none


@dataclass(frozen=True)
class TeacherOutput:
    """logits [B, C]; feature [B, h_s], what the student's [CLS] state is aligned with."""

    logits: Tensor
    feature: Tensor


class TeacherModel(nn.Module):
    """Encoder, its last [CLS] state -> Linear(h_t, h_s) -> ReLU (the feature) -> Linear(h_s, C).

    h_s is the student's hidden size, so that the two can be compared whatever the encoder's is.
    """

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.projection = nn.Linear(encoder.config.hidden_size, width)
        self.head = nn.Linear(width, encoder.config.num_labels)

    def forward(self, input_ids, attention_mask, output_hidden_states=False) -> TeacherOutput:
        """input_ids, attention_mask [B, L]; the third is there for `training.train` alone."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        feature = F.relu(self.projection(hidden[:, 0]))
        return TeacherOutput(self.head(feature), feature)


def train_teacher(
    proxy: pd.DataFrame,
    label_names: Sequence[str],
    student_width: int,
    config: TeacherConfig,
    *,
    compute: Compute,
    seed: int,
    watch: WatchFunction | None = None,
) -> tuple[Classifier, list[dict]]:
    """The teacher and its history: full fine-tuning with cross-entropy on clean rows text, label.

    A pretrained encoder, or a tiny one with a tokenizer made from the proxy's texts; its top layers
    are fresh, `student_width` is the victim's hidden size. The authors keep the best epoch on clean
    development rows; this is the last one, which needs no such rows.

    Raises BedkdError: the model cannot be found, or a label is none of `label_names`.
    Raises DivergenceError: a loss is not finite.
    """
    check_proxy(proxy, len(label_names))
    encoder = VictimConfig(model=config.model, max_length=config.max_length)
    plain = new_classifier(encoder, list(proxy.text), tuple(label_names), compute, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TeacherModel(plain.model.base_model, student_width)
    teacher = replace(plain, model=model.to(compute.device))
    more = {"schedule": "linear", "warmup_share": WARMUP_SHARE}
    settings = TrainingSettings.of(config, section="teacher", title="teacher", **more)
    return teacher, train_on_labels(teacher, proxy, settings, seed=seed, watch=watch)


def check_proxy(proxy: pd.DataFrame, n_classes: int) -> None:
    """Raises BedkdError if the rows are no clean rows of the victim's classes."""
    check_blind(proxy)
    if len(proxy) == 0:
        raise BedkdError("the proxy has no rows")
    if proxy.label.min() < 0 or proxy.label.max() >= n_classes:
        raise BedkdError(
            f"the proxy's labels run from {proxy.label.min()} to {proxy.label.max()}, but the "
            f"victim has {n_classes} classes, counted from 0"
        )


def ask_teacher(teacher: Classifier, encoded: Encoded) -> TeacherOutput:
    """logits [N, C] and features [N, h_s] in row order, in eval mode; asked once for all epochs."""
    model, device = teacher.model, teacher.compute.device
    logits = torch.zeros(len(encoded), model.config.num_labels, device=device)
    feature = torch.zeros(len(encoded), model.projection.out_features, device=device)
    for index, output in forward_batches(model, encoded, teacher.compute):
        rows = index.to(device)
        logits[rows], feature[rows] = output.logits.float(), output.feature.float()
    return TeacherOutput(logits, feature)


def save_teacher(teacher: Classifier, folder: Path) -> None:
    """Weights as safetensors, the encoder's configuration, the tokenizer, and meta.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model = teacher.model
    with quiet():
        model.config.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"))
    meta = {"max_length": teacher.max_length, "label_names": list(teacher.label_names)}
    write_json(folder / "meta.json", meta | {"width": model.projection.out_features})


def load_teacher(folder: Path, compute: Compute) -> Classifier:
    """What `save_teacher` left. Raises BedkdError if files are missing or cannot be read."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        with quiet(), torch.random.fork_rng():  # the weights drawn here are replaced
            config = AutoConfig.from_pretrained(folder)
            plain = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            model = TeacherModel(plain.base_model, int(meta["width"]))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        load_model(model, str(folder / "model.safetensors"))
        names, max_length = tuple(meta["label_names"]), int(meta["max_length"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BedkdError(f"cannot load the teacher in {folder}: {error}") from error
    model.encoder.set_attn_implementation(compute.attention)
    return Classifier(model.to(compute.device).eval(), tokenizer, max_length, names, compute)


def hidden_size(model: str) -> int:
    """Width of the last hidden state of a model by name: what a teacher for it must project to.
    Raises BedkdError if the model is nowhere, or does not say."""
    if model in hub.TINY_MODELS:
        return inspect.signature(TINY_BUILDERS[model]).parameters["hidden_size"].default
    location = hub.locate(model, "model")
    try:
        return int(AutoConfig.from_pretrained(location.path, **location.pinned).hidden_size)
    except (OSError, ValueError, AttributeError) as error:
        raise BedkdError(f"model {model!r} does not say its hidden size: {error}") from error
