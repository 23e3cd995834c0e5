"""IMBERT (He et al., 2023a): the victim itself points at the words that decide its prediction.

Each word piece of a text gets a score, the K pieces with the highest are taken out unless they
score λ or more, and the victim classifies the rest. Nothing is trained. IMBERT's authors set λ by
hand and BeDKD's paper leaves it open; here clean rows choose it, since with all K gone too many
clean texts lose the words that they hang on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bedkd.core.defence_config import ImbertConfig
from bedkd.data.splits import draw_clean_few
from bedkd.defences.interface import Defended, EquippedView
from bedkd.defences.thresholds import choose_threshold
from bedkd.evaluation.metrics import percent
from bedkd.nn.batching import Encoded, collate, evaluation_batches
from bedkd.nn.classifier import Classifier


def defend(view: EquippedView, config: ImbertConfig, *, seed: int) -> Defended:
    """A text's prediction without its K most decisive word pieces. Draws nothing: no use of `seed`.

    The authors' code is for one text at a time; this works on batches, with the same scores. They
    have λ for gradients alone; by attention, all K go.

    Raises:
        BedkdError: too few clean rows to choose λ on.
    """
    facts = {"n_tokens": config.n_tokens, "score": config.score, "removal": config.removal}
    if config.score == "gradient" and config.max_score is None and config.n_tokens:
        clean_few = draw_clean_few(view.clean_pool, config.n_clean_per_class)
        curve = sweep_max_score(view.victim, clean_few, config)
        untouched, chosen = choose_threshold(curve, config.max_accuracy_drop)
        config = replace(config, max_score=chosen["max_score"])
        facts["clean_accuracy"] = chosen["accuracy"]
        facts["victim_clean_accuracy"] = untouched["accuracy"]
    if config.max_score is not None:
        facts["max_score"] = config.max_score

    def predict(texts: Sequence[str]) -> np.ndarray:
        encoded = view.victim.encode(texts)
        return predict_without(view.victim, encoded, find(view.victim, encoded, config), config)

    return Defended(predict, facts)


def sweep_max_score(victim: Classifier, rows: pd.DataFrame, config: ImbertConfig) -> Iterator[dict]:
    """From the λ under which nothing is removed upwards, a hundredth of the candidates at a time.

    Yields max_score and the victim's accuracy on the rows, in percent.
    """
    encoded, labels = victim.encode(rows.text), rows.label.to_numpy()
    scores = token_scores(victim, encoded, config.score)
    found = find(victim, encoded, replace(config, max_score=None), scores)
    low_first = np.sort(
        np.concatenate([s[at].numpy() for s, at in zip(scores, found, strict=True)])
    )
    predicted = victim.predict_encoded(encoded).argmax(axis=1)
    yield {"max_score": 0.0, "accuracy": percent(predicted == labels)}
    n_removed = np.zeros(len(rows), dtype=np.int64)
    for k in np.unique(np.linspace(0, len(low_first) - 1, 101).astype(int))[1:]:
        # between two candidates: rounding moves neither across
        max_score = float(low_first[k - 1] / 2 + low_first[k] / 2)
        at = [p[s[p] < max_score] for s, p in zip(scores, found, strict=True)]
        changed = np.flatnonzero(n_removed != [len(p) for p in at])
        if len(changed):
            texts = Encoded(
                [encoded.rows[i] for i in changed], encoded.pad_id, encoded.lengths[changed]
            )
            part = predict_without(victim, texts, [at[i] for i in changed], config)
            predicted[changed] = part.argmax(axis=1)
            n_removed[changed] = [len(at[i]) for i in changed]
        yield {"max_score": max_score, "accuracy": percent(predicted == labels)}


def find(
    victim: Classifier,
    encoded: Encoded,
    config: ImbertConfig,
    scores: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Positions to remove from each of N texts, at most K, the highest score first.

    scores: what `token_scores` gave, if it was asked already.
    """
    if config.n_tokens == 0:
        return [torch.zeros(0, dtype=torch.int64)] * len(encoded)
    if scores is None:
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
    removed = find(victim, encoded, config, scores)
    special = set(special_ids(victim).tolist())
    lines = []
    for row, ids in enumerate(encoded.rows):
        pieces = victim.tokenizer.convert_ids_to_tokens(ids.tolist())
        out = set(removed[row].tolist())
        for place, piece in enumerate(pieces):
            if int(ids[place]) not in special:
                lines.append((row, place, piece, float(scores[row][place]), place in out))
    return pd.DataFrame(lines, columns=["row", "position", "piece", "score", "is_removed"])
