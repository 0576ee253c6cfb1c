"""Two or three pictures in one question, which asks about one of them by its place."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.data.names import sentence, with_article
from training.data.packages import Progress
from training.data.unseen_style import unseen_style
from training.eval.items import Example, Item
from training.eval.naming import naming
from training.eval.selection import stable_rng
from training.eval.sources.binding import Episode, episodes

QUESTION = "What is in the {place} picture?"
PLACES = {1: ("only",), 2: ("first", "second"), 3: ("first", "second", "last")}
"""What the pictures are called in questions about one, two or three of them."""

_ALONE = "What is in the picture?"
_EACH = {"dev": 24, "test": 60}
_EPISODES = {"dev": 100, "test": 200}
_POOL = 8


def interleaved(
    which: Literal["dev", "test"],
    seed: int,
    of: Literal["photographs", "drawings"] = "drawings",
    progress: Progress | None = None,
) -> list[Item]:
    """Name the first, second or last of two or three pictures.

    Every picture that is asked about is also asked about alone (kind ``"alone"``): what is lost beside that is what the
    place costs. An answer that names another picture of the question is wrong, for no name fits two of them. Pools hold
    8 questions of the same kind about other pictures.

    Args:
        of: ``"drawings"`` are in a style never trained on, of things whose names training teaches; ``"photographs"``
            are those of the naming set.

    Returns:
        Six kinds, with 24 pictures asked about in each for ``"dev"`` and, of drawings, 60 for ``"test"``; of
        photographs there are 33.

    Raises:
        FetchError: the pictures cannot be brought here.
    """
    if of == "photographs":
        pictures = [item.query for item in naming(which, seed, progress)]
    else:
        pictures = [_drawing(row) for row in unseen_style(which, progress)]
    by_kind: dict[str, list[Example]] = {}
    for i in stable_rng("interleaved", which, seed, of).permutation(len(pictures))[: _EACH[which]]:
        for query in _asked_in_every_place(pictures[i], pictures, stable_rng("interleaved", seed, pictures[i].id)):
            by_kind.setdefault(query.kind, []).append(query)
    items = []
    for kind, queries in by_kind.items():
        for query in queries:
            others = [other for other in queries if not set(other.pictures) & set(query.pictures)]
            order = stable_rng("interleaved", seed, query.id, kind).permutation(len(others))
            items.append(Item(query, tuple(others[i] for i in order[:_POOL])))
    return items


def _asked_in_every_place(asked: Example, pictures: list[Example], rng: np.random.Generator) -> Iterator[Example]:
    """The picture alone and in every place among others, none of which an accepted name of another fits."""
    for count, places in PLACES.items():
        for place in places:
            shown = [asked]
            for i in rng.permutation(len(pictures)):
                if len(shown) < count and not any(set(pictures[i].accepted) & set(one.accepted) for one in shown):
                    shown.append(pictures[i])
            yield _placed(asked, [one.pictures[0] for one in shown], place)


def _placed(asked: Example, shown: list[Path], place: str) -> Example:
    """``asked`` about its picture, the first of ``shown``, where it stands in ``place`` and the others around it."""
    others, count = shown[1:], len(shown)
    at = PLACES[count].index(place)
    files = (*others[:at], shown[0], *others[at:])
    kind = "alone" if count == 1 else f"{place} of {count}"
    question = _ALONE if count == 1 else QUESTION.format(place=place)
    return replace(asked, id=f"{asked.id}-{kind}".replace(" ", "-"), pictures=files, question=question, kind=kind)


def interleaved_binding(
    which: Literal["dev", "test"], seed: int, answer: str = "A {name}.", progress: Progress | None = None
) -> list[Item]:
    """Say which made-up name belongs to the first, second or last picture, of objects never trained on.

    The examples are those of ``binding``, one picture each; the question shows every object that they name, in another
    style. Among two names, kinds take turns that are those of ``interleaved``, and so they do among three: 100 items of
    either for ``"dev"``, 200 for ``"test"``.

    Args:
        answer: of the examples; ``{name}`` stands for the made-up name.

    Raises:
        FetchError: the pictures cannot be made.
    """
    items = []
    for ways in (2, 3):
        for number, episode in enumerate(episodes(which, seed, ways, _EPISODES[which], progress)):
            places = ("alone", *PLACES[ways])
            items.append(_bound(episode, places[number % len(places)], answer))
    return items


def _bound(episode: Episode, place: str, answer: str) -> Item:
    name = episode.names[0]
    query = Example(
        f"{len(episode.names)}-{episode.id}", (), "", answer.format(name=name), (name,), episode.choices, group=name
    )
    if place == "alone":
        query = replace(_placed(query, [episode.pictures[0]], "only"), kind=f"alone, {len(episode.names)} names")
    else:
        query = _placed(query, list(episode.pictures), place)
    return Item(query, episode.examples(_ALONE, answer))


def _drawing(row: dict[str, Any]) -> Example:
    answer = sentence(with_article(row["article"], row["name"]))
    return Example(row["id"], (Path(row["file"]),), _ALONE, answer, (row["name"], *row["aliases"]))
