"""IMBERT (He et al., 2023a): the victim itself points at the words that decide its prediction.

Each word piece of a text gets a score, the K pieces with the highest are taken out, and the victim
classifies the rest. Nothing is trained; all it needs is the victim and the text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bedkd.batching import Encoded, collate, evaluation_batches
from bedkd.defences.config import ImbertConfig
from bedkd.defences.interface import Defended, EquippedView
from bedkd.models import Classifier


def defend(view: EquippedView, config: ImbertConfig, *, seed: int) -> Defended:
    """A text's prediction without its K most decisive word pieces. Draws nothing: no use of `seed`.

    The authors' code is for one text at a time; this works on batches, with the same scores.
    """

    def predict(texts: Sequence[str]) -> np.ndarray:
        encoded = view.victim.encode(texts)
        return predict_without(view.victim, encoded, find(view.victim, encoded, config), config)

    facts = {"n_tokens": config.n_tokens, "score": config.score, "removal": config.removal}
    return Defended(predict, facts)


def find(victim: Classifier, encoded: Encoded, config: ImbertConfig) -> list[Tensor]:
    """Positions to remove from each of N texts, at most K, the highest score first."""
    if config.n_tokens == 0:
        return [torch.zeros(0, dtype=torch.int64)] * len(encoded)
    scores = token_scores(victim, encoded, config.score)
    special = special_ids(victim)
    return [
        select(row_scores, ~torch.isin(row, special), config.n_tokens, config.max_score)
        for row_scores, row in zip(scores, encoded.rows, strict=True)
    ]


def special_ids(victim: Classifier) -> Tensor:
    """Ids that are not of the text: [CLS], [SEP], padding. An unknown piece is of the text."""
    tokenizer = victim.tokenizer
    return torch.tensor([i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id])


def select(
    scores: Tensor, is_candidate: Tensor, n_tokens: int, max_score: float | None = None
) -> Tensor:
    """Positions of the `n_tokens` highest scores, ties by position. Both tensors [L].

    With `max_score` only those of them that score lower. This is the authors' direction: a
    prediction that the trigger has saturated has small gradients, so where even the most decisive
    pieces score low, the text is suspect (our reading; their code does not say why).
    """
    candidates = is_candidate.nonzero().flatten()
    order = scores[candidates].argsort(descending=True, stable=True)
    chosen = candidates[order[:n_tokens]]
    return chosen if max_score is None else chosen[scores[chosen] < max_score]


def token_scores(victim: Classifier, encoded: Encoded, score: str = "gradient") -> list[Tensor]:
    """A score for each piece of N texts, special tokens included: float32 [L_i] each, on the CPU.

    They hang on the text alone, not on its batch (in float32; bfloat16 rounds by the batch's shape,
    and so may swap pieces of nearly equal score).
    """
    model, compute = victim.model, victim.compute
    score_batch = {"gradient": gradient_scores, "attention": attention_scores}[score]
    scores: list[Tensor] = [torch.zeros(0)] * len(encoded)
    eager = telling_attention(model) if score == "attention" else contextlib.nullcontext()
    with evaluating(model), eager, compute.autocast():
        for index in evaluation_batches(encoded.lengths, compute.eval_tokens):
            batch = score_batch(model, collate(encoded, index, compute.device)).float().cpu()
            for place, i in enumerate(index):
                scores[i] = batch[place, : len(encoded.rows[i])]
    return scores


def gradient_scores(model, batch: dict) -> Tensor:
    """IMBERT-G, [B, L]: L2 norm of the gradient of the predicted class's logit (not of the loss),
    with respect to the word embedding of each piece (the layer's output).

    The rows of a batch do not interact, so one pass back from the sum gives each row its own.
    """
    leaves = []

    def cut(layer, inputs, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())  # parameters get no gradient
        return leaves[0]

    hook = model.get_input_embeddings().register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(**batch).logits.float()
            (gradient,) = torch.autograd.grad(logits.amax(dim=-1).sum(), leaves)
    finally:
        hook.remove()
    return gradient.float().norm(dim=-1)


@torch.no_grad()
def attention_scores(model, batch: dict) -> Tensor:
    """IMBERT-A, [B, L]: the attention that a piece receives in the last layer, the mean over heads
    and over the text's pieces (special tokens too, padding not).

    The authors have such a variant in their paper but not in their code: a reading of ours.
    """
    attention = model(**batch, output_attentions=True).attentions[-1].float()  # [B, heads, L, L]
    is_query = batch["attention_mask"].float()[:, :, None]
    return (attention.mean(dim=1) * is_query).sum(dim=1) / is_query.sum(dim=1)


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """Eval mode inside the block, what it was before after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def telling_attention(model) -> Iterator[None]:
    """Plain attention inside the block, what it was before after it: no other tells its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def predict_without(
    victim: Classifier, encoded: Encoded, positions: Sequence[Tensor], config: ImbertConfig
) -> np.ndarray:
    """The victim's class probabilities [N, C] for texts without the pieces at `positions`.

    Every text has a row: one that loses all its pieces is classified as the empty text.
    """
    if config.removal == "delete":
        return victim.predict_encoded(delete(encoded, positions))
    return predict_masked(victim, encoded, positions)


def delete(encoded: Encoded, positions: Sequence[Tensor]) -> Encoded:
    """The texts without these pieces: shorter rows."""
    rows = []
    for row, removed in zip(encoded.rows, positions, strict=True):
        is_kept = torch.ones(len(row), dtype=torch.bool)
        is_kept[removed] = False
        rows.append(row[is_kept])
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return Encoded(rows, encoded.pad_id, lengths)


@torch.no_grad()
def predict_masked(victim: Classifier, encoded: Encoded, positions: Sequence[Tensor]) -> np.ndarray:
    """Class probabilities [N, C] of texts in which no piece attends to those at `positions`."""
    model, compute = victim.model, victim.compute
    logits = torch.zeros(len(encoded), model.config.num_labels)
    with evaluating(model), compute.autocast():
        for index in evaluation_batches(encoded.lengths, compute.eval_tokens):
            batch = collate(encoded, index, compute.device)
            mask(batch, [positions[i] for i in index])
            logits[index] = model(**batch).logits.float().cpu()
    return logits.softmax(dim=-1).numpy()


def mask(batch: dict, positions: Sequence[Tensor]) -> None:
    """Put 0 into the attention mask [B, L] at the positions of each row, in place."""
    for row, removed in zip(batch["attention_mask"], positions, strict=True):
        row[removed.to(row.device)] = 0


def show_removal(victim: Classifier, texts: Sequence[str], config: ImbertConfig) -> pd.DataFrame:
    """What IMBERT does to a few texts: row, position, piece, score, is_removed; one line a piece.

    `row` counts the texts from 0; special tokens are left out, they are never removed.
    """
    encoded = victim.encode(texts)
    scores = token_scores(victim, encoded, config.score)
    removed = find(victim, encoded, config)
    special = set(special_ids(victim).tolist())
    lines = []
    for row, ids in enumerate(encoded.rows):
        pieces = victim.tokenizer.convert_ids_to_tokens(ids.tolist())
        out = set(removed[row].tolist())
        for place, piece in enumerate(pieces):
            if int(ids[place]) not in special:
                lines.append((row, place, piece, float(scores[row][place]), place in out))
    return pd.DataFrame(lines, columns=["row", "position", "piece", "score", "is_removed"])
