"""What lessons draw from: named pictures, the tower's classes and composed scenes, by the rows of their features."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from training.data import questions
from training.data.imagenet import ImageNetClass
from training.data.names import indefinite, with_article
from training.data.scenes import Thing
from training.data.shapes import SHAPE_OF

from .sight import Truth, truth_of

VALIDATION_SHARE = 50  # one object and one scene in so many is only looked at
SHAPES_HELD = 5  # and of one name in so many the shape is never asked in training


@dataclass(frozen=True)
class Shown:
    """A picture of a lesson.

    Attributes:
        source: ``"picture"`` and ``"scene"`` are rows of a feature cache; ``"photo"`` is a class of the tower, of which
            a pseudo-photograph is made.
        row: the row, or the class.
        name: what it shows, with its article, where that is one thing; "" elsewhere.
    """

    source: Literal["picture", "photo", "scene"]
    row: int
    name: str = ""


@dataclass
class Pools:
    """Pictures that lessons may show.

    Attributes:
        names: ways to name each picture, with an article, by its row.
        pictures: rows that may be drawn.
        styles: rows by object and drawing style, of objects with two styles or more.
        shapes: rows by the plain shape that the drawn thing has; those of validation are trained on by name.
        class_names: ways to name each class; classes without a name are never drawn.
        families: classes by the everyday word above them, of words with three classes or more.
        things: what is in each scene, by its row.
        truth: about every scene, by its row.
        scenes: rows that may be drawn.
        classes: that have a name.
        alike: scenes whose things are all alike.
        pairs: scenes of two things of which one is clearly left of, right of, above or below the other.
    """

    names: Sequence[Sequence[str]]
    pictures: np.ndarray
    styles: dict[str, dict[str, list[int]]]
    shapes: dict[str, list[int]]
    class_names: Sequence[Sequence[str]]
    families: dict[str, list[int]]
    things: Sequence[tuple[Thing, ...]]
    truth: Truth
    scenes: np.ndarray
    classes: np.ndarray = field(init=False)
    alike: np.ndarray = field(init=False)
    pairs: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.classes = np.array([i for i, names in enumerate(self.class_names) if names])
        self.alike = np.array([i for i in self.scenes if len({thing.object for thing in self.things[i]}) == 1])
        self.pairs = np.array([i for i in self.scenes if questions.apart(self.things[i])])

    def picture(self, row: int, rng: np.random.Generator) -> Shown:
        """A drawing by its row."""
        return Shown("picture", int(row), pick(self.names[row], rng))

    def photo(self, index: int, rng: np.random.Generator) -> Shown:
        """A pseudo-photograph by its class."""
        return Shown("photo", int(index), pick(self.class_names[index], rng))

    def names_of(self, shown: Shown) -> Sequence[str]:
        """Every way to name a drawing or a pseudo-photograph."""
        return (self.class_names if shown.source == "photo" else self.names)[shown.row]

    def any_picture(self, rng: np.random.Generator) -> Shown:
        return self.picture(rng.choice(self.pictures), rng)

    def any_photo(self, rng: np.random.Generator) -> Shown:
        return self.photo(rng.choice(self.classes), rng)


def make_pools(
    rows: Sequence[dict[str, Any]],
    classes: Sequence[ImageNetClass],
    things: Sequence[tuple[Thing, ...]],
    side: int,
) -> tuple[Pools, Pools]:
    """Pools to train on and to validate on, which have no object with several styles and no scene in common.

    Args:
        rows: of the index of pictures that may be trained on.
        classes: of the tower.
        things: of every scene.
        side: of the map of patches of a picture.
    """
    names = [[with_article(row["article"], row["name"])] for row in rows]
    class_names = [names_of_class(item) for item in classes]
    families: dict[str, list[int]] = defaultdict(list)
    for item in classes:
        if item.coarse and not item.heldout:
            families[item.coarse].append(item.index)
    families = {word: members for word, members in families.items() if len(members) >= 3}
    objects = sorted({row["object"] for row in rows})
    held = set(objects[::VALIDATION_SHARE])
    truth = truth_of(things, side)
    pools = []
    for validation in (False, True):
        drawn = [i for i, row in enumerate(rows) if (row["object"] in held) == validation]
        styles: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i in drawn:
            styles[rows[i]["object"]][rows[i]["style"]].append(i)
        several = {key: dict(value) for key, value in styles.items() if len(value) > 1}
        shapes: dict[str, list[int]] = defaultdict(list)
        for place, (name, shape) in enumerate(SHAPE_OF.items()):
            if (place % SHAPES_HELD == 0) == validation:
                shapes[shape] += [i for i, row in enumerate(rows) if row["name"] == name]
        scenes = np.array([i for i in range(len(things)) if (i % VALIDATION_SHARE == 0) == validation])
        pools.append(Pools(names, np.array(drawn), several, shapes, class_names, families, things, truth, scenes))
    return pools[0], pools[1]


def names_of_class(item: ImageNetClass) -> list[str]:
    """Ways to name a class: its name and, as often, the everyday word above it.

    A tower that is unsure between neighbours is unsure about the name and sure of the word above them, so a model
    trained on both says "a dog" where it cannot tell the breed. Objects held out for evaluation get no name, and so are
    never drawn.
    """
    if item.heldout:
        return []
    names = [with_article(item.article, item.name)]
    if item.coarse and item.coarse not in item.name:
        names.append(with_article(indefinite(item.coarse), item.coarse))
    return names


def pick(names: Sequence[str], rng: np.random.Generator) -> str:
    """One of several names, each as often as the others."""
    return names[int(rng.random() * len(names))] if len(names) > 1 else names[0]
