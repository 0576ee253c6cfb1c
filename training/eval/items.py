"""What a task asks: examples, and items with the pool that their demonstrations come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A question about pictures with its answer: a demonstration, or what is asked.

    Attributes:
        id: names it within its task and set.
        pictures: files, in order; usually one.
        question: may hold ``[img1]`` markers, see :func:`prompts.user_message`.
        answer: as a demonstration gives it, such as "A lion." or "dax".
        accept: what counts as right; empty means the answer alone.
        choices: every answer that could have been: for chance, ``one_of`` and the baselines.
        kind: sub-task, for the breakdown ("count", "colour", ...).
        group: what the selection of demonstrations balances over; empty means the answer.
        history: earlier (question, answer) turns about the same pictures; the pictures enter with the first of them.
    """

    id: str
    pictures: tuple[Path, ...]
    question: str
    answer: str
    accept: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    kind: str = ""
    group: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that counts as right."""
        return self.accept or (self.answer,)

    @property
    def balance(self) -> str:
        """The group that it belongs to when demonstrations are balanced."""
        return self.group or self.answer


@dataclass(frozen=True)
class Item:
    """What is asked, with the pool its demonstrations come from, which never holds the query's pictures."""

    query: Example
    pool: tuple[Example, ...] = ()


def with_pool(queries: Sequence[Example], pool: Sequence[Example]) -> list[Item]:
    """Every query with the examples of a pool that show none of its pictures."""
    whole = tuple(pool)
    items = []
    for query in queries:
        shown = set(query.pictures)
        clash = any(shown.intersection(other.pictures) for other in whole)
        items.append(Item(query, tuple(o for o in whole if not shown.intersection(o.pictures)) if clash else whole))
    return items


def leave_one_out(examples: Sequence[Example]) -> list[Item]:
    """Every example as a query whose pool is all others that show none of its pictures."""
    pools = with_pool(examples, examples)
    return [Item(item.query, tuple(other for other in item.pool if other is not item.query)) for item in pools]
