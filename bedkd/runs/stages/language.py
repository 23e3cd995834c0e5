"""A causal language model, ONION's or AIText's: the tiny one is trained, others only found."""

from pathlib import Path

from bedkd.core.hub import TINY_LM
from bedkd.data.generated import TOY_TASKS, generate
from bedkd.nn.language import (
    LanguageModel,
    load_language_model,
    save_language_model,
    train_tiny_lm,
)
from bedkd.runs.folders import Run
from bedkd.runs.reading import SHARED_SEED, compute_of

N_ROWS = 2000  # generated texts of each task that the tiny language model reads


def make(run: Run, stage: str, folder: Path) -> dict:
    c, compute = run.config.language, compute_of(run)
    if c.model != TINY_LM:
        load_language_model(c.model, c.max_length, compute)
        return {"language_model": c.model}
    drawn = [list(generate(task, N_ROWS, SHARED_SEED).text) for task in TOY_TASKS]
    texts = [text for rows in drawn for text in join(rows, c.n_joined)]
    language = train_tiny_lm(texts, config=c, compute=compute, seed=SHARED_SEED)
    save_language_model(language, folder / "model")
    return {"language_model": c.model, "n_train": len(texts)}


def join(texts: list[str], n: int) -> list[str]:
    """`n` texts in a row as one, each in one of them."""
    return [" ".join(texts[i : i + n]) for i in range(0, len(texts), n)]


def read_language(run: Run) -> LanguageModel:
    """What the stage left, or found."""
    c = run.config.language
    kept = run.folder("language") / "model"
    name = str(kept.absolute()) if c.model == TINY_LM else c.model
    return load_language_model(name, c.max_length, compute_of(run))
