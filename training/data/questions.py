"""Questions about composed scenes, with answers that are true by construction.

Where the right answers of a kind are few, each is as frequent as the others, so that nobody can do well without
looking.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from training.data.scenes import COLOURS, Layout, Thing

Kind = Literal["count", "colour", "quadrant", "left_right", "above_below", "present", "absent", "size"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NUMBERS = ("one", "two", "three", "four", "five")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

LAYOUTS_OF: dict[Kind, tuple[Layout, ...]] = {
    "count": ("copies",),
    "colour": ("one",),
    "quadrant": ("one",),
    "left_right": ("pair",),
    "above_below": ("pair",),
    "present": ("one", "pair", "several"),
    "absent": ("one", "pair", "several"),
    "size": ("pair",),
}
"""Which scenes a kind of question can be asked about; not every such scene allows it."""

_CLEAR = 0.12  # how far apart, as a share of the picture, things must be for one to be left of the other


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and all answers it might have had; answers in lower case without a full stop."""

    kind: Kind
    question: str
    answer: str
    choices: tuple[str, ...]


def ask(kind: Kind, things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    """A question of a kind about the things of a scene, or ``None`` where the scene has no clear answer to one."""
    return _MAKERS[kind](things, rng)


def _pick(rng: np.random.Generator, *phrases: str) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _count(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    if len({thing.object for thing in things}) > 1:
        return None
    question = _pick(rng, "How many things are there?", "How many are there?", "How many objects are in the picture?")
    return Asked("count", question, NUMBERS[len(things) - 1], NUMBERS)


def _colour(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    if len({thing.colour for thing in things}) > 1:
        return None
    question = _pick(
        rng,
        "What color is it?",
        "What colour is it?",
        "What color is the object?",
        "What color is the shape?",
        "What is the color of the object?",
        "Which color is this?",
    )
    return Asked("colour", question, things[0].colour, tuple(COLOURS))


def _quadrant(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    x, y = things[0].centre
    if len(things) > 1 or min(abs(x - 0.5), abs(y - 0.5)) < _CLEAR / 2:
        return None
    question = _pick(rng, "Where is it?", "In which corner is it?", "In which part of the picture is the object?")
    return Asked("quadrant", question, QUADRANTS[int(x > 0.5) + 2 * int(y > 0.5)], QUADRANTS)


def _two(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[Thing, Thing] | None:
    """Two things of different colour, in random order."""
    if len(things) != 2 or things[0].colour == things[1].colour:
        return None
    first = int(rng.integers(2))
    return things[first], things[1 - first]


def _left_right(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    pair = _two(things, rng)
    if pair is None or abs(pair[0].centre[0] - pair[1].centre[0]) < _CLEAR:
        return None
    one, other = pair
    question = _pick(
        rng,
        f"Is the {one.colour} one left or right of the {other.colour} one?",
        f"Is the {one.colour} one on the left or on the right?",
    )
    return Asked("left_right", question, "left" if one.centre[0] < other.centre[0] else "right", ("left", "right"))


def _above_below(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    pair = _two(things, rng)
    if pair is None or abs(pair[0].centre[1] - pair[1].centre[1]) < _CLEAR:
        return None
    one, other = pair
    question = f"Is the {one.colour} one above or below the {other.colour} one?"
    return Asked("above_below", question, "above" if one.centre[1] < other.centre[1] else "below", ("above", "below"))


def _some_colour(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[str, str, bool]:
    """A colour, the same with its article, and whether something has it, as often as not."""
    shown = sorted({thing.colour for thing in things})
    there = bool(rng.random() < 0.5)
    colour = str(rng.choice(shown if there else sorted(set(COLOURS) - set(shown))))
    return colour, f"{'an' if colour == 'orange' else 'a'} {colour}", there


def _present(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    colour, one, there = _some_colour(things, rng)
    noun = _pick(rng, "object", "object", "thing", "shape")
    question = _pick(
        rng,
        f"Is there {one} {noun}?",
        f"Is there something {colour} in the picture?",
        f"Does the picture show {one} {noun}?",
        f"Does the image contain {one} {noun}?",
        f"Is {one} {noun} present?",
    )
    return Asked("present", question, "yes" if there else "no", ("yes", "no"))


def _absent(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    colour, one, there = _some_colour(things, rng)
    noun = _pick(rng, "object", "object", "thing", "shape")
    question = _pick(
        rng,
        f"Is there no {colour} {noun}?",
        f"Is there not {one} {noun} in the picture?",
        f"Is nothing {colour} in the picture?",
        f"Does the image not contain {one} {noun}?",
        f"Is no {colour} {noun} present?",
    )
    return Asked("absent", question, "no" if there else "yes", ("yes", "no"))


def _size(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    pair = _two(things, rng)
    if pair is None or not max(pair[0].size / pair[1].size, pair[1].size / pair[0].size) > 1.4:
        return None
    one, other = pair
    question = f"Is the {one.colour} one bigger or smaller than the {other.colour} one?"
    return Asked("size", question, "bigger" if one.size > other.size else "smaller", ("bigger", "smaller"))


def facts(things: tuple[Thing, ...], rng: np.random.Generator) -> list[tuple[str, str]]:
    """What is true of a scene, as pairs of a heading and one or two words: ``("Left:", "red")``.

    Only what is clear: of things that are alike number and colour, of others which colour is where and which is bigger;
    and of two colours whether they are there.
    """
    found = []
    for _ in range(2):
        colour, _, there = _some_colour(things, rng)
        found.append((f"Any {colour}?", "yes" if there else "no"))
    if len({thing.object for thing in things}) == 1:
        found.append(("Number:", NUMBERS[len(things) - 1]))
    colours = [thing.colour for thing in things]
    if len(set(colours)) == 1:
        found.append(("Color:", colours[0]))
    if len(set(colours)) < len(things):
        return found
    for thing in things:
        x, y = thing.centre
        if min(abs(x - 0.5), abs(y - 0.5)) >= _CLEAR / 2:
            found.append((f"{thing.colour.capitalize()} at:", QUADRANTS[int(x > 0.5) + 2 * int(y > 0.5)]))
    for axis, headings in enumerate((("Left:", "Right:"), ("Top:", "Bottom:"))):
        ordered = sorted(things, key=lambda thing: thing.centre[axis])
        if len(things) > 1 and ordered[1].centre[axis] - ordered[0].centre[axis] >= _CLEAR:
            found.append((headings[0], ordered[0].colour))
        if len(things) > 1 and ordered[-1].centre[axis] - ordered[-2].centre[axis] >= _CLEAR:
            found.append((headings[1], ordered[-1].colour))
    small, large = min(things, key=lambda thing: thing.size), max(things, key=lambda thing: thing.size)
    if len(things) == 2 and large.size > 1.4 * small.size:
        found += [("Bigger:", large.colour), ("Smaller:", small.colour)]
    return found


_MAKERS: dict[Kind, Callable[[tuple[Thing, ...], np.random.Generator], Asked | None]] = {
    "count": _count,
    "colour": _colour,
    "quadrant": _quadrant,
    "left_right": _left_right,
    "above_below": _above_below,
    "present": _present,
    "absent": _absent,
    "size": _size,
}
