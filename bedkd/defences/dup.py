"""DUP (arXiv 2508.01647; AAAI 2026): detect, then unlearn through LoRA. Not in BeDKD's paper.

The victim leaves, on the rows that its layers betray (`layer_scores`), what it used to say, and
keeps the labels of clean rows. As the authors' released code, except for what no defender here
has: they choose learning rate and epoch by the ASR on triggered rows that were held out. Here
nothing is chosen, and the last epoch counts. The weights of the two losses, which the paper leaves
open (the released script sets the first to 0), are both 1.
"""

import itertools

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bedkd.core.blindness import check_blind
from bedkd.core.defence_config import DUPConfig
from bedkd.core.errors import BedkdError
from bedkd.data.splits import draw_clean_few
from bedkd.defences.interface import Defended, EquippedView
from bedkd.defences.lora import add_lora, merge_lora, split_layers
from bedkd.defences.pairs import Pair, PairedRows, check_converging, unlearn_epoch
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Stepper, build_optimizer

WARMUP_SHARE, MAX_GRAD_NORM = 0.1, 1.0  # the authors' values
# the attention's query, key and value: BERT and RoBERTa, DistilBERT, others
ATTENTION = ("query", "key", "value", "q_lin", "k_lin", "v_lin", "q_proj", "k_proj", "v_proj")


def defend(view: EquippedView, config: DUPConfig, *, seed: int, is_flagged: np.ndarray) -> Defended:
    """`is_flagged`: bool [N], rows of D* to forget (`layer_scores.flag_rows`); with none the victim
    stays as it is. Their labels are not looked at.

    Raises BedkdError: the clean rows are too few, or the model has no attention that is known.
    Raises DivergenceError: a loss is not finite, for the KL is climbed without bound.
    """
    check_blind(view.train)
    facts = {"n_flagged": int(is_flagged.sum()), "rank": config.rank}
    if not is_flagged.any():
        return Defended(view.victim.predict, facts, [], view.victim)
    clean = draw_clean_few(view.clean_pool, config.n_clean_per_class)
    parts = (shuffle(rows, seed) for rows in (view.train[is_flagged], clean))
    rows = PairedRows(view.victim, *parts, config.batch_size)
    student = adapt(view.victim, config, seed)
    history = unlearn(student, rows, config, seed)
    n_trainable, _ = student.model.get_nb_trainable_parameters()
    model = merge_lora(student)
    facts |= {"n_clean": len(clean), "n_trainable": n_trainable}
    return Defended(model.predict, facts, history, model)


def shuffle(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Once for all epochs: clean rows lie class by class."""
    return rows.iloc[np.random.default_rng([seed, 61]).permutation(len(rows))]


def unlearn(student: Classifier, rows: PairedRows, config: DUPConfig, seed: int) -> list[dict]:
    """AdamW with a linear decay after a warm-up; an epoch is a pass over the flagged rows, the
    batches of clean rows going round beside it."""
    model, n = student.model, config.epochs * len(rows.forget)
    optimizer = build_optimizer(model, "adamw", config.learning_rate, config.weight_decay)
    stepper = Stepper(optimizer, "linear", n, WARMUP_SHARE, MAX_GRAD_NORM)
    clean, history = itertools.cycle(rows.keep), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        for epoch in range(1, config.epochs + 1):
            pairs = zip(rows.forget, clean, strict=False)
            row = unlearn_epoch(model, rows, pairs, lambda pair: dup_loss(pair, config), stepper)
            history.append({"epoch": epoch} | row)
            check_converging(history[-1], "DUP", "dup")
    return history


def dup_loss(pair: Pair, config: DUPConfig) -> Tensor:
    """-λ_1 · KL(victim ‖ student) on flagged rows + λ_2 · CE on clean ones."""
    return config.ce_weight * pair.keep_loss() - config.kl_weight * pair.kl()


def adapt(victim: Classifier, config: DUPConfig, seed: int) -> Classifier:
    """LoRA on the attention's query, key and value; the head is trained too, as peft does for the
    authors' classifier.

    Raises BedkdError: none of the encoder's layers has a name out of ATTENTION.
    """
    linear, heads = split_layers(victim.model)
    layers = [name for name in linear if name.split(".")[-1] in ATTENTION]
    if not layers:
        kind = victim.model.config.model_type
        raise BedkdError(f"DUP knows no query, key and value in a model of type {kind!r}")
    shape = {"r": config.rank, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    return add_lora(victim, layers, heads, shape=shape, seed=seed)
