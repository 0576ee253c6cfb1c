"""What runs beside a task, so that a figure can be believed: items with the picture or the labels taken away."""

import contextlib
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from assistant.model.gated_cross_attention import GatedCrossAttentionBlock
from training.eval.items import Example


def swapped(queries: Sequence[Example]) -> list[Example | None]:
    """For every query one whose pictures are shown instead, and whose accepted answers are all others.

    It was asked the same question; failing that it is of the same kind, and failing that any. Among those it stands
    half the list further on, or next after that. ``None`` where no query has as many pictures and another answer.
    """
    wider = (lambda q: (q.question, q.kind), lambda q: q.kind, lambda q: None)
    circles: list[dict[Any, list[int]]] = [defaultdict(list) for _ in wider]
    for i, query in enumerate(queries):
        for circle, key in zip(circles, wider, strict=True):
            circle[key(query)].append(i)
    partners: list[Example | None] = []
    for i, query in enumerate(queries):
        rings = [circle[key(query)] for circle, key in zip(circles, wider, strict=True)]
        starts = [bisect_left(ring, i) + len(ring) // 2 for ring in rings]
        others = (
            queries[ring[(start + step) % len(ring)]]
            for ring, start in zip(rings, starts, strict=True)
            for step in range(len(ring))
        )
        partners.append(next((other for other in others if _can_stand_for(other, query)), None))
    return partners


def _can_stand_for(other: Example, query: Example) -> bool:
    return (
        len(other.pictures) == len(query.pictures)
        and not set(other.pictures) & set(query.pictures)
        and not set(other.accepted) & set(query.accepted)
    )


def without_pictures(query: Example) -> Example:
    """The question alone: no picture, and no marker of one."""

    def plain(text: str) -> str:
        return re.sub(r"\[img\d+\] ?", "", text, flags=re.IGNORECASE)

    history = tuple((plain(asked), answer) for asked, answer in query.history)
    return replace(query, pictures=(), question=plain(query.question), history=history)


def shuffled_labels(demos: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    """The demonstrations with their answers dealt out anew.

    Every order of the answers is as likely as any other: who reads the labels then falls to chance, where swapping all
    of them would turn a right answer of two into a wrong one.
    """
    order = rng.permutation(len(demos))
    return [replace(demo, answer=demos[other].answer) for demo, other in zip(demos, order, strict=True)]


@contextlib.contextmanager
def zero_gates(model: torch.nn.Module) -> Iterator[None]:
    """Close all gates for a while: the language model runs bare."""
    blocks = [m for m in model.modules() if isinstance(m, GatedCrossAttentionBlock)]
    gates = [gate for block in blocks for gate in (block.attention_gate, block.feed_forward_gate)]
    before = [gate.detach().clone() for gate in gates]
    try:
        with torch.no_grad():
            for gate in gates:
                gate.zero_()
        yield
    finally:
        with torch.no_grad():
            for gate, value in zip(gates, before, strict=True):
                gate.copy_(value)
