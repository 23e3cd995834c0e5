"""IMBERT (He et al., 2023a): the victim itself points at the words that decide its prediction.

Each word piece of a text gets a score, the K pieces with the highest are taken out unless they
score λ or more, and the victim classifies the rest. Nothing is trained. IMBERT's authors set λ by
hand and BeDKD's paper leaves it open; here clean rows choose it, since with all K gone too many
clean texts lose the words that they hang on.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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
from bedkd.nn.batching import Encoded, collate, encode_ids, evaluation_batches
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import evaluating


def defend(view: EquippedView, config: ImbertConfig, *, seed: int) -> Defended:
    """A text's prediction without its K most decisive word pieces. Draws nothing: no use of `seed`.

    The authors' code is for one text at a time; this works on batches, with the same scores. They
    have λ for gradients alone; by attention, all K go.

    Raises BedkdError: too few clean rows to choose λ on.
    """
    victim = view.victim
    facts = {"n_tokens": config.n_tokens, "score": config.score, "removal": config.removal}
    if config.score == "gradient" and config.max_score is None and config.n_tokens:
        clean_few = draw_clean_few(view.clean_pool, config.n_clean_per_class)
        curve = sweep_max_score(victim, clean_few, config)
        facts |= choose_threshold(curve, config.max_accuracy_drop)
        config = replace(config, max_score=facts["max_score"])
    elif config.max_score is not None:
        facts["max_score"] = config.max_score

    def predict(texts: Sequence[str]) -> np.ndarray:
        encoded = victim.encode(texts)
        return predict_without(victim, encoded, find(victim, encoded, config), config.removal)

    return Defended(predict, facts)


def sweep_max_score(victim: Classifier, rows: pd.DataFrame, config: ImbertConfig) -> Iterator[dict]:
    """From the λ under which nothing is removed upwards, a hundredth of the candidates at a time.

    Yields max_score and the victim's accuracy on the rows, clean_accuracy, in percent.
    """
    encoded, labels = victim.encode(rows.text), rows.label.to_numpy()
    scores = token_scores(victim, encoded, config.score)
    found = find(victim, encoded, replace(config, max_score=None), scores)
    candidates = torch.cat([s[at] for s, at in zip(scores, found, strict=True)]).sort().values
    predicted = victim.predict_encoded(encoded).argmax(axis=1)
    n_removed = [0] * len(rows)
    yield {"max_score": 0.0, "clean_accuracy": percent(predicted == labels)}
    for k in np.unique(np.linspace(0, len(candidates) - 1, 101).astype(int))[1:]:
        # between two candidates: rounding moves neither across
        max_score = float(candidates[k - 1] / 2 + candidates[k] / 2)
        removed = [at[s[at] < max_score] for s, at in zip(scores, found, strict=True)]
        changed = [i for i, at in enumerate(removed) if len(at) != n_removed[i]]
        texts = encode_ids([encoded.rows[i].numpy() for i in changed], encoded.pad_id)
        answer = predict_without(victim, texts, [removed[i] for i in changed], config.removal)
        predicted[changed] = answer.argmax(axis=1)
        n_removed = [len(at) for at in removed]
        yield {"max_score": max_score, "clean_accuracy": percent(predicted == labels)}


def find(
    victim: Classifier, encoded: Encoded, config: ImbertConfig, scores: list[Tensor] | None = None
) -> list[Tensor]:
    """Positions to remove from each of N texts, at most K, the highest score first.

    `scores`: what `token_scores` gave, if it was asked already.
    """
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


def run_batches(victim: Classifier, encoded: Encoded, run: Callable) -> list[Tensor]:
    """`run(model, batch, row numbers)` is [B, …]: its N rows, in eval mode, float32, on the CPU.

    Unlike `training.forward_batches` it leaves room for gradients, and for a batch to be changed.
    """
    model, compute = victim.model, victim.compute
    rows = [torch.zeros(0)] * len(encoded)
    with evaluating(model), compute.autocast():
        for index in evaluation_batches(encoded.lengths, compute.eval_tokens):
            result = run(model, collate(encoded, index, compute.device), index)
            for i, row in zip(index, result.float().cpu(), strict=True):
                rows[i] = row
    return rows


def token_scores(victim: Classifier, encoded: Encoded, score: str = "gradient") -> list[Tensor]:
    """A score for each piece of N texts, special tokens included: float32 [L_i] each, on the CPU.

    They hang on the text alone, not on its batch (in float32; bfloat16 rounds by the batch's shape,
    and so may swap pieces of nearly equal score).
    """
    score_batch = {"gradient": gradient_scores, "attention": attention_scores}[score]
    rows = run_batches(victim, encoded, lambda model, batch, _: score_batch(model, batch))
    return [row[:length] for row, length in zip(rows, encoded.lengths, strict=True)]


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
    with telling_attention(model):
        attention = model(**batch, output_attentions=True).attentions[-1]  # [B, heads, L, L]
    is_query = batch["attention_mask"].float()[:, :, None]
    return (attention.float().mean(dim=1) * is_query).sum(dim=1) / is_query.sum(dim=1)


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
    victim: Classifier, encoded: Encoded, positions: Sequence[Tensor], removal: str
) -> np.ndarray:
    """The victim's class probabilities [N, C] for texts without the pieces at `positions`.

    `delete`: they are gone; a text that loses all its pieces is the empty text. `mask`: the text
    keeps them, but no piece attends to them.
    """
    if removal == "delete" or not len(encoded):  # no rows: nothing to stack below
        return victim.predict_encoded(delete(encoded, positions))

    @torch.no_grad()
    def ask(model, batch: dict, index: Sequence[int]) -> Tensor:
        for row, i in zip(batch["attention_mask"], index, strict=True):
            row[positions[i].to(row.device)] = 0
        return model(**batch).logits

    return torch.stack(run_batches(victim, encoded, ask)).softmax(dim=-1).numpy()


def delete(encoded: Encoded, positions: Sequence[Tensor]) -> Encoded:
    """The texts without these pieces: shorter rows."""
    rows = zip(encoded.rows, positions, strict=True)
    return encode_ids([np.delete(row.numpy(), at.numpy()) for row, at in rows], encoded.pad_id)


def show_removal(victim: Classifier, texts: Sequence[str], config: ImbertConfig) -> pd.DataFrame:
    """What IMBERT does to a few texts: row, position, piece, score, is_removed; one line a piece.

    `row` counts the texts from 0; special tokens are left out, they are never removed.
    """
    encoded = victim.encode(texts)
    scores = token_scores(victim, encoded, config.score)
    removed = find(victim, encoded, config, scores)
    special = special_ids(victim)
    lines = []
    for row, ids in enumerate(encoded.rows):
        pieces = victim.tokenizer.convert_ids_to_tokens(ids.tolist())
        for place in (~torch.isin(ids, special)).nonzero().flatten().tolist():
            score, is_removed = float(scores[row][place]), place in removed[row]
            lines.append((row, place, pieces[place], score, is_removed))
    return pd.DataFrame(lines, columns=["row", "position", "piece", "score", "is_removed"])
