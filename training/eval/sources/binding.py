"""Made-up names for objects never trained on: the examples name them, and the query shows one in another style."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.made_up import different_names, evaluation_names
from training.data.packages import Progress
from training.data.views import Drawings, heldout_views
from training.eval.items import Example, Item
from training.eval.selection import stable_rng

ITEMS = {"dev": 200, "test": 400}


@dataclass(frozen=True)
class Episode:
    """Objects with names, examples of them in one style and a picture of each in another.

    Attributes:
        names: of the objects; the first is the one that the episode is about.
        pictures: one of each object, in their order, in the style ``asked``.
        views: `VIEWS` of each object, in their order, in the style ``shown``.
    """

    id: str
    names: tuple[str, ...]
    pictures: tuple[Path, ...]
    views: tuple[tuple[Path, ...], ...]
    shown: str
    asked: str

    def examples(self, question: str, answer: str) -> tuple[Example, ...]:
        """All views of all objects, each with the name of its object; ``{name}`` stands for it in ``answer``."""
        return tuple(
            Example(file.stem, (file,), question, answer.format(name=name), (name,), self.choices, group=name)
            for name, files in zip(self.names, self.views, strict=True)
            for file in files
        )

    @property
    def choices(self) -> tuple[str, ...]:
        """The names in an order that does not tell which is asked for."""
        return tuple(sorted(self.names))


def binding(
    which: Literal["dev", "test"],
    seed: int,
    ways: int = 2,
    question: str = "What is this?",
    answer: str = "A {name}.",
    progress: Progress | None = None,
) -> list[Item]:
    """Name an object by the examples.

    Args:
        ways: how many objects the examples name.
        question: of the examples and of the query.
        answer: of the examples; ``{name}`` stands for the made-up name.

    Returns:
        200 items for ``"dev"`` and 400 for ``"test"``, every object asked about as often as every other. A pool holds
        16 examples of every name, all in one style; the query is in another. The kind says the two styles.

    Raises:
        FetchError: the pictures cannot be made.
        ValueError: there are too few objects for so many ways.
    """
    items = []
    for episode in episodes(which, seed, ways, ITEMS[which], progress):
        name, picture = episode.names[0], episode.pictures[0]
        query = Example(
            episode.id,
            (picture,),
            question,
            answer.format(name=name),
            (name,),
            episode.choices,
            kind=f"{episode.shown} to {episode.asked}",
        )
        items.append(Item(query, episode.examples(question, answer)))
    return items


def episodes(
    which: Literal["dev", "test"], seed: int, ways: int, count: int, progress: Progress | None = None
) -> list[Episode]:
    """So many episodes such as `binding` asks about; the other arguments and the errors are as there."""
    objects = heldout_views(which, progress)
    drawn = []
    order: list[str] = []
    for number in range(count):
        rng = stable_rng("binding", which, seed, ways, number)
        if not order:
            order = [str(key) for key in rng.permutation(sorted(objects))]
        drawn.append(_episode(f"{which}-{number:03d}", order.pop(), objects, ways, which, rng))
    return drawn


def _episode(
    id: str,
    asked_for: str,
    objects: dict[str, dict[str, Drawings]],
    ways: int,
    which: Literal["dev", "test"],
    rng: np.random.Generator,
) -> Episode:
    """All objects of an episode are there in both of its styles, so neither style says which one is meant."""
    pairs = [(a, b) for a in objects[asked_for] for b in objects[asked_for] if a != b]
    fit = {pair: [k for k in objects if k != asked_for and {*pair} <= set(objects[k])] for pair in pairs}
    pairs = [pair for pair in pairs if len(fit[pair]) >= ways - 1]
    if not pairs:
        raise ValueError(f"there are not {ways} objects in the styles of {asked_for!r}; ask for fewer ways")
    shown, asked = pairs[int(rng.integers(len(pairs)))]
    keys = [asked_for, *rng.choice(fit[shown, asked], ways - 1, replace=False)]
    originals = [objects[key][asked].originals for key in keys]
    return Episode(
        id,
        tuple(different_names(evaluation_names(which), ways, rng)),
        tuple(files[int(rng.integers(len(files)))] for files in originals),
        tuple(objects[key][shown].views for key in keys),
        shown,
        asked,
    )
