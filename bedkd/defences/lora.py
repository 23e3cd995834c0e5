"""A classifier that trains through LoRA, and an ordinary one made of it again (peft)."""

import warnings
from dataclasses import replace

import torch
from torch import nn

from bedkd.nn.classifier import Classifier


def add_lora(
    victim: Classifier, layers: list[str], heads: list[str], *, shape: dict, seed: int
) -> Classifier:
    """A copy of the victim that trains LoRA on `layers`, and `heads` whole; see `split_layers`.

    `shape`: r, lora_alpha, lora_dropout. Nothing else has a gradient, and the outputs are still the
    victim's: LoRA's B starts at 0, and a head is a copy of the victim's.
    """
    import peft

    student = victim.copy()
    lora = peft.LoraConfig(**shape, target_modules=layers, modules_to_save=heads)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for what transformers renamed
        torch.manual_seed(seed)  # LoRA's A
        model = peft.get_peft_model(student.model, lora)
    return replace(student, model=model.eval())


def split_layers(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the encoder's linear layers, and of the modules on top of it that have weights.

    peft's own `all-linear` knows a head by its name, and fails where there are two (DistilBERT).
    """
    encoder = model.base_model_prefix
    inside = getattr(model, encoder).named_modules(prefix=encoder)
    linear = [name for name, module in inside if isinstance(module, nn.Linear)]
    on_top = [(name, module) for name, module in model.named_children() if name != encoder]
    return linear, [name for name, module in on_top if any(True for _ in module.parameters())]


def merge_lora(student: Classifier) -> Classifier:
    """LoRA added into the weights: an ordinary classifier, all of it trainable again."""
    model = student.model.merge_and_unload()
    return replace(student, model=model.requires_grad_(True).eval())
