"""A classifier from somebody else, checked; and a clean one, saved for `pipeline`."""

import copy
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bedkd.core.devices import Compute
from bedkd.core.errors import BedkdError
from bedkd.nn.classifier import Classifier, quiet, save_classifier
from bedkd.purification.configurations import check_config
from bedkd.purification.fitting import fit
from bedkd.purification.foreign import find_folder, staged
from bedkd.purification.refusing import first_line, refusing

GIB = 2**30
N_STATES = 3  # gradient and two moments of AdamW, for each parameter
LOCAL = {"local_files_only": True, "trust_remote_code": False}
WHOLE = {
    "dtype": torch.float32,  # which the optimizer needs
    "weights_only": True,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # `check_whole` says which
}


def load_model(
    name: str | Path,
    compute: Compute,
    *,
    allow_pickle: bool = False,
    max_length: int | None = None,
) -> Classifier:
    """A sequence classifier with its tokenizer, in float32, from a folder or a hub id.

    Code that comes with it is never run. Weights are safetensors; with `allow_pickle` a pickle will
    do, of which tensors are read alone. `max_length`: tokens of a text, None for the model's own
    limit, up to 512.

    Raises BedkdError: no such folder, no whole classifier of one label a text in it, or nothing
    that is safe to read; a tokenizer that is not the model's; see `fit`.
    """
    folder = find_folder(name, allow_pickle)
    with staged(folder, str(name), allow_pickle) as (stage, is_pickle):
        with quiet(), refusing(f"cannot load the tokenizer of {name}", stage):
            tokenizer = AutoTokenizer.from_pretrained(stage, **LOCAL)
        with quiet(), refusing(f"cannot load {name}", stage):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                stage, use_safetensors=not is_pickle, **LOCAL, **WHOLE
            )
    check_whole(info, str(name))
    tokenizer.name_or_path = model.config._name_or_path = model.name_or_path = str(name)
    return fit(model, tokenizer, compute, max_length, str(name))


def check_whole(info: dict, where: str) -> None:
    """Raises BedkdError if a weight is not there, or not of the size that the configuration says:
    transformers would draw it at random."""
    if missing := sorted(info["missing_keys"]):
        raise BedkdError(
            f"{where} is no whole classifier: {len(missing)} of its weights are missing, such as "
            f"{missing[0]}"
        )
    if wrong := sorted(info["mismatched_keys"]):
        name, there, wanted = wrong[0]
        raise BedkdError(
            f"{where}: weights and configuration do not match: {name} is {list(there)}, "
            f"{list(wanted)} by config.json"
        )
    if info["error_msgs"]:
        raise BedkdError(f"cannot load {where}: {info['error_msgs'][0]}")


def adopt(model, tokenizer, compute: Compute, max_length: int | None = None) -> Classifier:
    """A copy, in float32, of a transformers classifier and its tokenizer; theirs stay as they are.

    Raises BedkdError as `load_model`.
    """
    where = f"the model ({type(model).__name__})"
    if not isinstance(model, PreTrainedModel) or getattr(model, "_hf_peft_config_loaded", False):
        raise BedkdError(
            f"{where} is no plain transformers model; give a folder, a hub id, or an "
            "AutoModelForSequenceClassification, adapters merged into it (merge_and_unload)"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise BedkdError(f"{where} needs its tokenizer; {type(tokenizer).__name__} is none")
    check_config(model.config.to_dict() | {"architectures": [type(model).__name__]}, where)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise BedkdError(f"{where} holds no weights: some are on the device `meta`")
    with refusing(f"cannot copy {where}"):
        own, words = copy.deepcopy(model).float(), copy.deepcopy(tokenizer)
    own.requires_grad_(True)
    own.zero_grad()
    return fit(own, words, compute, max_length, where)


def save_model(classifier: Classifier, folder: str | Path, meta: dict | None = None) -> Path:
    """The folder, which `pipeline("text-classification", model=folder)` loads; whole, or not there.

    `meta` goes into meta.json. Raises BedkdError if the folder holds something, or cannot be
    written.
    """
    folder = Path(folder)
    temporary = None
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BedkdError(f"{folder} is there already; give a folder that is not")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-")
        save_classifier(classifier, Path(temporary), meta or {})
        os.chmod(temporary, 0o755)  # mkdtemp's own mode would hide it from other users
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise BedkdError(f"cannot write {folder}: {first_line(error)}") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def estimate_memory(classifier: Classifier, n_copies: int = 2) -> int:
    """Bytes of so many copies of the model (teacher and student), and of the student's gradients
    and AdamW's moments. What a batch takes comes on top."""
    return (n_copies + N_STATES) * count_bytes(classifier.model)


def count_bytes(model: nn.Module) -> int:
    tensors = (*model.parameters(), *model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def find_memory(device: torch.device) -> int:
    """Bytes that are free on an accelerator; of a CPU all that the machine has."""
    if device.type == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return torch.accelerator.get_memory_info(device)[0]


def check_memory(classifier: Classifier, n_copies: int = 2) -> None:
    """Raises BedkdError if the model and what training takes are more than there is."""
    device, needed = classifier.compute.device, estimate_memory(classifier, n_copies)
    there = find_memory(device)
    if device.type != "cpu":
        there += count_bytes(classifier.model)  # it is there already
    if needed > there:
        raise BedkdError(
            f"the model needs about {needed / GIB:.1f} GiB to be purified, {there / GIB:.1f} GiB "
            f"are there on {device}; use a larger machine or a smaller model"
        )
