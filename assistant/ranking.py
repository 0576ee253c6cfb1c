"""How likely answers are behind a prompt that was read once."""

from collections.abc import Iterator, Sequence

import torch
from transformers.cache_utils import Cache

from .model import FlamingoForConditionalGeneration
from .model.growing_cache import GrowingLayer
from .prefixes import copy_prefix

PACKED = 512
"""Tokens of answers that are read in one pass."""

_ROWS = 16  # answers in one pass, where each needs a copy of the prompt's keys and values


def score_after(
    model: FlamingoForConditionalGeneration, cache: Cache, pictures: int, answers: Sequence[Sequence[int]]
) -> list[float]:
    """Log-probability of all but the first token of each answer, natural logarithm; none sees another.

    Args:
        cache: of the prompt, one row; it holds the same afterwards.
        pictures: in the prompt.
        answers: of at least one token.
    """
    grows = all(isinstance(layer, GrowingLayer) for layer in cache.layers)
    packs = grows and model.config.get_text_config()._attn_implementation in ("eager", "sdpa")
    scores = [0.0] * len(answers)
    longer = [place for place, answer in enumerate(answers) if len(answer) > 1]
    for some in _chunks(longer, answers) if packs else (longer[i : i + _ROWS] for i in range(0, len(longer), _ROWS)):
        given = [answers[i] for i in some]
        score = _score_packed if packs else _score_rows
        for place, followed in zip(some, score(model, cache, pictures, given), strict=True):
            scores[place] = followed
    return scores


def _chunks(places: Sequence[int], answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Some answers at a time, of about ``PACKED`` tokens together."""
    some: list[int] = []
    for place in places:
        some.append(place)
        if sum(len(answers[i]) for i in some) >= PACKED:
            yield some
            some = []
    if some:
        yield some


@torch.inference_mode()
def _score_packed(
    model: FlamingoForConditionalGeneration, cache: Cache, _: int, answers: Sequence[Sequence[int]]
) -> list[float]:
    """In one row, under a mask, behind the prompt's own keys and values, which are read once for all."""
    device, read = model.device, cache.get_seq_length()
    given = [token for answer in answers for token in answer[:-1]]
    wanted = torch.tensor([token for answer in answers for token in answer[1:]], device=device)
    rows = torch.tensor([i for i, answer in enumerate(answers) for _ in answer[1:]], device=device)
    places = torch.tensor([place for answer in answers for place in range(len(answer) - 1)], device=device)
    own = (rows[:, None] == rows[None, :]) & (places[:, None] >= places[None, :])
    sees = torch.cat((own.new_ones(len(given), read), own), dim=1)
    mask = torch.zeros(sees.shape, dtype=model.dtype, device=device)
    mask = mask.masked_fill(~sees, torch.finfo(mask.dtype).min)[None, None]
    try:
        logits = model(
            input_ids=torch.tensor([given], device=device),
            attention_mask=mask,
            position_ids=read + places[None],
            past_key_values=cache,
            use_cache=True,
        ).logits[0]
    finally:
        cache.crop(read - cache.get_seq_length())
    scores = logits.float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    return scores.new_zeros(len(answers)).index_add(0, rows, scores).tolist()


@torch.inference_mode()
def _score_rows(
    model: FlamingoForConditionalGeneration, cache: Cache, pictures: int, answers: Sequence[Sequence[int]]
) -> list[float]:
    """With a row for each answer, and the prompt's keys and values copied for each."""
    device, read, longest = model.device, cache.get_seq_length(), max(map(len, answers)) - 1
    filled = torch.tensor([[*answer, *[0] * (longest + 1 - len(answer))] for answer in answers], device=device)
    said = torch.tensor([[place < len(answer) - 1 for place in range(longest)] for answer in answers], device=device)
    copied = copy_prefix(cache, read, pictures, model.config.resampler_latents, read + longest)
    copied.batch_repeat_interleave(len(answers))
    logits = model(
        input_ids=filled[:, :-1],
        attention_mask=torch.cat((said.new_ones(len(answers), read), said), dim=1).long(),
        past_key_values=copied,
        use_cache=True,
    ).logits
    scores = logits.float().log_softmax(-1).gather(2, filled[:, 1:, None])[..., 0]
    return scores.where(said, 0).sum(1).tolist()
