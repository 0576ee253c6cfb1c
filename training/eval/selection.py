"""Which examples of a pool stand before a question. The same seed text gives the same ones."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from assistant.errors import InputError
from training.eval.items import Example, Item
from training.eval.task import Select

Similarity = Callable[[Example, Example], float]


def stable_rng(*words: object) -> np.random.Generator:
    """A generator that depends on the words alone, on every machine and in every process."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def choose(
    item: Item,
    shots: int,
    select: Select,
    per_answer: bool,
    rng: np.random.Generator,
    similarity: Similarity | None = None,
) -> list[Example]:
    """Demonstrations for an item, in the order in which they are shown.

    Args:
        shots: how many in total or, with ``per_answer``, of every group of the pool.
        select: ``"random"``; ``"balanced"``, equal numbers of every group (one more of some where they do not divide),
            shuffled; ``"similar"``, those most like the query, the most similar one last.
        similarity: of an example to the query, for ``"similar"``.

    Raises:
        InputError: the pool is too small.
    """
    if shots == 0:
        return []
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in item.pool:
        groups[example.balance].append(example)
    if per_answer:
        short = {name: len(members) for name, members in groups.items() if len(members) < shots}
        if short or not groups:
            name, there = next(iter(short.items()), ("any answer", 0))
            raise InputError(
                f"item {item.query.id} has {there} examples of {name!r}, and {shots} an answer were asked for"
            )
    elif shots > len(item.pool):
        raise InputError(f"item {item.query.id} has {len(item.pool)} examples to show, and {shots} were asked for")
    if select == "similar":
        assert similarity is not None
        close = {id(example): similarity(example, item.query) for example in item.pool}
        ranked = sorted(item.pool, key=lambda example: close[id(example)], reverse=True)
        chosen = _first_of_each(ranked, shots) if per_answer else ranked[:shots]
        return chosen[::-1]
    pool = [item.pool[i] for i in rng.permutation(len(item.pool))]
    if per_answer:
        chosen = _first_of_each(pool, shots)
    elif select == "balanced":
        chosen = _in_turn(pool, shots)
    else:
        chosen = pool[:shots]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _first_of_each(pool: Sequence[Example], each: int) -> list[Example]:
    """The first ``each`` of every group, in the order of the pool."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for example in pool:
        if seen[example.balance] < each:
            seen[example.balance] += 1
            chosen.append(example)
    return chosen


def _in_turn(pool: Sequence[Example], total: int) -> list[Example]:
    """The first of every group, then the second of every group, and so on, until there are ``total``."""
    seen: dict[str, int] = defaultdict(int)
    rounds = []
    for place, example in enumerate(pool):
        rounds.append((seen[example.balance], place, example))
        seen[example.balance] += 1
    return [example for _, _, example in sorted(rounds, key=lambda r: r[:2])[:total]]
