"""A model folder from somebody one does not trust: what of it is read, and what never is.

transformers is shown a folder of links to the few files that a classifier needs, with
configurations from which everything is gone that would make it read, fetch or run something else.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bedkd.core import hub
from bedkd.core.errors import BedkdError
from bedkd.core.files import from_here
from bedkd.purification.configurations import (
    CLEANED,
    CONFIG,
    TOKENIZER,
    check_config,
    check_tokenizer_config,
    read_json,
)
from bedkd.purification.refusing import first_line, printable, refusing

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # of weights in several files
# any of these makes a vocabulary
VOCABULARIES = (
    (TOKENIZER,),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("spm.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tokenizer.model",),
)
ADAPTER = "adapter_config.json"
BESIDE = ("added_tokens.json", "bpe.codes")


def find_folder(name: str | Path, allow_pickle: bool) -> Path:
    """The folder of a path, or of a hub id. Raises BedkdError if there is none."""
    try:
        folder = from_here(name)
        if str(name).strip() and folder.is_dir():
            return folder
        is_file = folder.is_file()
    except (OSError, RuntimeError) as error:  # too long, not ours to read, of no such user
        raise BedkdError(f"cannot read {str(name)[:200]}: {first_line(error)}") from error
    if is_file:
        raise BedkdError(f"{name} is a file; give the folder that it lies in")
    location = hub.locate(str(name), "model")
    is_here = location.origin in ("local", "mirror")
    return Path(location.path) if is_here else download(location, allow_pickle)


def download(location: hub.Location, allow_pickle: bool) -> Path:
    """The snapshot in the hub's cache, with no more than what will be read."""
    import huggingface_hub

    vocabulary = {file for files in VOCABULARIES for file in files}
    wanted = [*CLEANED, *BESIDE, *sorted(vocabulary), "model*.safetensors*"]
    wanted += ["pytorch_model*.bin*"] if allow_pickle else []
    options = {"revision": location.revision, "allow_patterns": wanted}
    try:
        return Path(huggingface_hub.snapshot_download(location.path, **options))
    except Exception as error:  # the hub client's transport library changes between versions
        raise BedkdError(f"cannot download {location.path}: {first_line(error)}") from error


@contextlib.contextmanager
def staged(folder: Path, name: str, allow_pickle: bool) -> Iterator[tuple[Path, bool]]:
    """(a temporary folder with what may be read, whether its weights are a pickle).

    Raises BedkdError: a link leads out of the folder, it holds no sequence classifier that
    transformers itself knows, a file is missing, or a pickle is all there is.
    """
    with refusing(f"{name} cannot be read"):
        check_links(folder, name)
        if (folder / ADAPTER).is_file():
            raise BedkdError(
                f"{name}: its weights are an adapter ({ADAPTER}); merge it into its base model "
                "(peft's merge_and_unload) and save that"
            )
        configs = {file: read_json(folder / file, name) for file in find_configs(folder)}
        check_config(configs[CONFIG], name)
        weights = find_weights(folder, name, allow_pickle)
        vocabulary = find_vocabulary(folder, name)
        check_tokenizer_config(configs, vocabulary, name)
        beside = [file for file in BESIDE if (folder / file).is_file()]
        with tempfile.TemporaryDirectory(prefix="bedkd-model-") as temporary:
            stage = Path(temporary)
            for file in (*weights, *vocabulary, *beside):
                (stage / file).symlink_to((folder / file).resolve())
            for file, config in configs.items():
                (stage / file).write_text(json.dumps(CLEANED[file](config)))
            yield stage, PICKLED in weights or PICKLED + INDEX in weights


def check_links(folder: Path, name: str) -> None:
    """Raises BedkdError if something in the folder is a link that leaves it. Snapshots in the hub's
    cache link to the blobs in the same repository's folder."""
    root = folder.resolve()
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    for parent, folders, files in os.walk(root):
        for path in (Path(parent, entry) for entry in (*folders, *files)):
            if path.is_symlink() and not any(leads_into(path, place) for place in allowed):
                link = printable(str(path.relative_to(root)))
                raise BedkdError(
                    f"{name}: {link} leads out of the folder by a link; it is not followed"
                )


def leads_into(link: Path, place: Path) -> bool:
    try:
        return link.resolve().is_relative_to(place)
    except (OSError, RuntimeError):  # a link to itself
        return False


def find_configs(folder: Path) -> list[str]:
    """Those that are there; the model's own, if it is there or not."""
    return [file for file in CLEANED if file == CONFIG or (folder / file).is_file()]


def find_weights(folder: Path, name: str, allow_pickle: bool) -> list[str]:
    """The names of the files with the weights; safetensors, if there are any."""
    for weights in (SAFE, PICKLED):
        if not any((folder / file).is_file() for file in (weights, weights + INDEX)):
            continue
        if weights == PICKLED and not allow_pickle:
            raise BedkdError(
                f"{name}: its weights are a pickle ({weights}), which can run code; save them as "
                "safetensors, or give --allow-pickle: then tensors are read from it, and no code"
            )
        return [weights] if (folder / weights).is_file() else find_shards(folder, name, weights)
    raise BedkdError(f"{name} holds no weights: there is no {SAFE}")


def find_shards(folder: Path, name: str, weights: str) -> list[str]:
    """An index and the files that it lists. Raises BedkdError if one lies elsewhere."""
    index = read_json(folder / (weights + INDEX), name).get("weight_map")
    files = set(index.values()) if isinstance(index, dict) else set()
    for file in sorted(map(str, files)) or ["nothing"]:
        is_plain = Path(file).name == file and file.endswith(Path(weights).suffix)
        if not is_plain or not (folder / file).is_file():
            raise BedkdError(
                f"{name}: {weights}{INDEX} lists {printable(file)}, which is not in the folder"
            )
    return [weights + INDEX, *sorted(files)]


def find_vocabulary(folder: Path, name: str) -> list[str]:
    found = [f for f in VOCABULARIES if all((folder / part).is_file() for part in f)]
    if not found:
        raise BedkdError(
            f"{name} holds no tokenizer: there is no {TOKENIZER} and no other vocabulary"
        )
    return [file for files in found for file in files]
