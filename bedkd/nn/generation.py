"""A causal language model goes on with texts (AIText)."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from bedkd.core.errors import BedkdError
from bedkd.nn.language import LanguageModel, special_tokens

TOP_K, TOP_P = 50, 0.95  # Du et al.'s
BATCH_SIZE = 128  # texts


def continue_texts(
    lm: LanguageModel, texts: Sequence[str], n_new_tokens: int, *, seed: int
) -> list[str | None]:
    """Each text with what the model says next: `n_new_tokens` sampled tokens, as far as they end a
    sentence. None where no word came.

    Sampled, as by Du et al.: the likeliest continuation would be much the same for many texts, a
    fixed sentence. A text has random numbers of its own, so that its company in a batch is no
    matter. A text that is too long is read from where it fits.

    Raises BedkdError: the model takes no more than `n_new_tokens` tokens.
    """
    before = special_tokens(lm.tokenizer)[0]
    room = lm.max_length - n_new_tokens - len(before)
    if room < 1:
        raise BedkdError(
            f"generator.n_new_tokens is {n_new_tokens}, but the language model takes "
            f"{lm.max_length} tokens, those of the text among them; lower it"
        )
    ids = lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []
    start = before or [lm.tokenizer.eos_token_id or 0]  # GPT-2's own start, for an empty text
    prompts = [[*before, *row[-room:]] or start for row in ids]
    noise = torch.rand(len(prompts), n_new_tokens, generator=torch.Generator().manual_seed(seed))
    made: list[str | None] = [None] * len(prompts)
    for index in batches_of_a_length(prompts, BATCH_SIZE):
        rows = torch.tensor([prompts[i] for i in index], device=lm.compute.device)
        new = sample(lm, rows, noise[index].to(lm.compute.device))
        for i, row in zip(index, new.tolist(), strict=True):
            if tail := finish(decode_tail(lm.tokenizer, prompts[i], row)):
                made[i] = texts[i] + match_spacing(tail, texts[i])
    return made


def batches_of_a_length(rows: Sequence[list[int]], size: int) -> list[list[int]]:
    """Numbers of rows of equal length, `size` at most: no padding, whatever a model makes of it."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(len(row), []).append(i)
    return [group[k : k + size] for group in groups.values() for k in range(0, len(group), size)]


@torch.no_grad()
def sample(lm: LanguageModel, rows: Tensor, noise: Tensor) -> Tensor:
    """What follows `rows` [B, L], one token for each column of `noise` [B, T], uniform on [0, 1):
    of the TOP_K likeliest tokens, those that make up TOP_P. No special token is said."""
    special = torch.tensor(lm.tokenizer.all_special_ids, device=rows.device)
    tokens, cache, said = rows, None, []
    for column in noise.T:
        output = lm.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        logits, cache = output.logits[:, -1].float(), output.past_key_values
        p, likeliest = logits.index_fill(1, special, -torch.inf).softmax(dim=-1).topk(TOP_K)
        p = p * (p.cumsum(dim=-1) - p < TOP_P)
        place = (p.cumsum(dim=-1) <= column[:, None] * p.sum(dim=-1, keepdim=True)).sum(dim=-1)
        tokens = likeliest.gather(1, place.clamp(max=TOP_K - 1)[:, None])
        said.append(tokens)
    return torch.cat(said, dim=1)


def decode_tail(tokenizer, prompt: list[int], new: list[int]) -> str:
    """What the new tokens add to the text, with a space before it unless they go on with a word."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    known = tokenizer.decode(prompt, **options)
    return tokenizer.decode([*prompt, *new], **options)[len(known) :]


def match_spacing(tail: str, text: str) -> str:
    """Punctuation set off where the text has it so; decoders have one way for all."""
    tail = re.sub(r"([#@]) (?=\w)", r"\1", tail)
    if re.search(r"\w [.,!?]", text):
        tail = re.sub(r"(?<=\w)(?=[.,!?](?:\s|$))", " ", tail)
    return tail


def finish(tail: str) -> str:
    """On one line and up to its last whole sentence, if there is one; empty where no word is."""
    tail = re.sub(r"\s+", " ", tail).rstrip()
    ended = re.match(r".*\w.*[.!?](?=\s|$)", tail)
    tail = ended[0] if ended else tail
    return tail if re.search(r"\w", tail) else ""
