"""Configurations in a model folder from somebody else: what is refused, and what is left out."""

import json
from pathlib import Path

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NATIVE,
)

from bedkd.core.errors import BedkdError
from bedkd.purification.refusing import first_line, printable

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
SPECIAL_TOKENS, TOKENIZER = "special_tokens_map.json", "tokenizer.json"
# They name code or kernels, other files, or how to compute, which is not the folder's to say.
DROPPED = {
    *("auto_map", "transformers_weights", "fusion_config", "distributed_config"),
    *("use_kernels", "kernel_config", "attn_implementation", "_attn_implementation"),
    *("_attn_implementation_internal", "experts_implementation", "_experts_implementation"),
    *("_name_or_path", "name_or_path", "dtype", "torch_dtype"),
}
DROPPED_TOKENIZER = {"auto_map", "init_inputs", "name_or_path", "vocab", "merges", "chat_template"}
MAX_JSON = 10_000_000  # bytes of a configuration
MAX_LABELS, MAX_LAYERS = 1000, 1000  # more would only exhaust the machine
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
ENDING = "ForSequenceClassification"


def read_json(file: Path, name: str) -> dict:
    if not file.is_file():
        raise BedkdError(f"{name} holds no {file.name}: it is no folder of a transformers model")
    if file.stat().st_size > MAX_JSON:
        raise BedkdError(f"{name}: {file.name} is larger than {MAX_JSON // 10**6} MB")
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BedkdError(f"{name}: {file.name} is no JSON: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise BedkdError(f"{name}: {file.name} holds a {type(values).__name__}, no settings")
    return values


def check_config(config: dict, name: str) -> None:
    """Raises BedkdError unless it describes a classifier that transformers builds by itself, of one
    label a text, with weights that can be trained."""
    stated = config.get("architectures")
    names = [printable(str(entry)) for entry in stated] if isinstance(stated, list) else []
    heads = [entry for entry in names if entry.endswith(ENDING)]
    if not heads:
        raise BedkdError(
            f"{name} holds no sequence classifier: its architecture is "
            f"{', '.join(names) or 'not given'}, and one that ends in {ENDING} is needed"
        )
    if heads[0] != NATIVE.get(str(config.get("model_type"))):
        raise BedkdError(
            f"{name}: {heads[0]} (model type {config.get('model_type')!r}) is not a classifier of "
            "transformers itself; code that comes with a model is never run"
        )
    if config.get("quantization_config"):
        raise BedkdError(f"{name}: its weights are quantized and cannot be trained; use full ones")
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise BedkdError(f"{name}: its problem type is {problem!r}; one label a text is needed")
    check_counts(config, name)


def check_counts(config: dict, name: str) -> None:
    given = config.get("id2label")
    n = len(given) if isinstance(given, dict) else config.get("num_labels", 2)
    if not isinstance(n, int) or not 2 <= n <= MAX_LABELS:
        raise BedkdError(f"{name}: it has {n} labels; 2 to {MAX_LABELS} can be told apart")
    for key in DEPTHS:
        if isinstance(config.get(key), int | float) and config[key] > MAX_LAYERS:
            raise BedkdError(f"{name}: {key} is {config[key]}; at most {MAX_LAYERS} are read")


def clean_config(config: dict) -> dict:
    """Without DROPPED, in its sections, too."""
    kept = {key: value for key, value in config.items() if key not in DROPPED}
    sections = [key for key, value in kept.items() if isinstance(value, dict)]
    return kept | {key: clean_config(kept[key]) for key in sections if key.endswith("_config")}


def clean_tokenizer_config(config: dict) -> dict:
    """Without what would name code, or files elsewhere."""
    dropped = {key for key in config if key in DROPPED_TOKENIZER or key.endswith("_file")}
    return {key: value for key, value in config.items() if key not in dropped}


def clean_special_tokens(config: dict) -> dict:
    """Tokens alone: what else it holds would go to the tokenizer's class."""
    return {key: value for key, value in config.items() if key.endswith(("_token", "_tokens"))}


def check_tokenizer_config(configs: dict[str, dict], vocabulary: list[str], name: str) -> None:
    """Raises BedkdError if only code that comes with the model would read the vocabulary."""
    if "auto_map" in configs.get(TOKENIZER_CONFIG, {}) and TOKENIZER not in vocabulary:
        raise BedkdError(
            f"{name}: its tokenizer needs code of its own, which is never run; save it as "
            f"{TOKENIZER}"
        )


# the files, and what is kept of each
CLEANED = {
    CONFIG: clean_config,
    TOKENIZER_CONFIG: clean_tokenizer_config,
    SPECIAL_TOKENS: clean_special_tokens,
}
