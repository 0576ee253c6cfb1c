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
    if len({thing.colour for thing in things}) < len(things):
        return None
    thing = things[int(rng.integers(len(things)))] if len(things) > 1 else things[0]
    if not _is_in_a_quadrant(thing):
        return None
    if len(things) > 1:
        one = f"the {thing.colour} one"
        question = _pick(
            rng, f"Where is {one}?", f"In which corner is {one}?", f"In which part of the picture is {one}?"
        )
    else:
        question = _pick(rng, "Where is it?", "In which corner is it?", "In which part of the picture is the object?")
    return Asked("quadrant", question, _quadrant_of(thing), QUADRANTS)


def _is_in_a_quadrant(thing: Thing) -> bool:
    """Whether it is clearly in one."""
    return min(abs(place - 0.5) for place in thing.centre) >= _CLEAR / 2


def _quadrant_of(thing: Thing) -> str:
    x, y = thing.centre
    return QUADRANTS[int(x > 0.5) + 2 * int(y > 0.5)]


def _two(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[Thing, Thing] | None:
    """Two things of different colour, in random order."""
    if not _is_pair(things):
        return None
    first = int(rng.integers(2))
    return things[first], things[1 - first]


def _is_pair(things: tuple[Thing, ...]) -> bool:
    return len(things) == 2 and things[0].colour != things[1].colour


_COMPARED: dict[Kind, tuple[str, str, str]] = {
    "left_right": ("left", "right", "left or right of"),
    "above_below": ("above", "below", "above or below"),
    "size": ("bigger", "smaller", "bigger or smaller than"),
}
"""The two answers to a comparison of two things, and how it is asked."""


def _comparison(kind: Kind, one: Thing, other: Thing) -> str | None:
    """How ``one`` compares with ``other``, or ``None`` where that is not clear."""
    if kind == "size":
        clear, first = max(one.size / other.size, other.size / one.size) > 1.4, one.size > other.size
    else:
        axis = 0 if kind == "left_right" else 1
        gap = one.centre[axis] - other.centre[axis]
        clear, first = abs(gap) >= _CLEAR, gap < 0
    return _COMPARED[kind][0 if first else 1] if clear else None


def apart(things: tuple[Thing, ...]) -> bool:
    """Whether a scene is of two things of different colour that are clearly apart on at least one axis."""
    return _is_pair(things) and any(_comparison(kind, *things) for kind in ("left_right", "above_below"))


def _left_right(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    return _compare("left_right", things, rng, "Is the {} one on the left or on the right?")


def _above_below(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    return _compare("above_below", things, rng)


def _size(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    return _compare("size", things, rng)


def _compare(kind: Kind, things: tuple[Thing, ...], rng: np.random.Generator, *others: str) -> Asked | None:
    """A comparison of two things, asked in one way or in ``others``."""
    pair = _two(things, rng)
    answer = _comparison(kind, *pair) if pair else None
    if not pair or not answer:
        return None
    first, second, asked = _COMPARED[kind]
    phrase = f"Is the {{}} one {asked} the {{}} one?"
    phrase = _pick(rng, phrase, *others) if others else phrase
    return Asked(kind, phrase.format(*(thing.colour for thing in pair)), answer, (first, second))


def _some_colour(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[str, bool]:
    """A colour, and whether something has it, as often as not."""
    shown = sorted({thing.colour for thing in things})
    there = bool(rng.random() < 0.5)
    colour = str(rng.choice(shown if there else sorted(set(COLOURS) - set(shown))))
    return colour, there


_PRESENT = (
    "Is there {one} {noun}?",
    "Is there something {colour} in the picture?",
    "Does the picture show {one} {noun}?",
    "Does the image contain {one} {noun}?",
    "Is {one} {noun} present?",
)
_ABSENT = (
    "Is there no {colour} {noun}?",
    "Is there not {one} {noun} in the picture?",
    "Is nothing {colour} in the picture?",
    "Does the image not contain {one} {noun}?",
    "Is no {colour} {noun} present?",
)


def _present(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    question, there = _about_some_colour(_PRESENT, things, rng)
    return Asked("present", question, "yes" if there else "no", ("yes", "no"))


def _absent(things: tuple[Thing, ...], rng: np.random.Generator) -> Asked | None:
    question, there = _about_some_colour(_ABSENT, things, rng)
    return Asked("absent", question, "no" if there else "yes", ("yes", "no"))


def _about_some_colour(
    phrases: tuple[str, ...], things: tuple[Thing, ...], rng: np.random.Generator
) -> tuple[str, bool]:
    colour, there = _some_colour(things, rng)
    noun = _pick(rng, "object", "object", "thing", "shape")
    one = f"{'an' if colour == 'orange' else 'a'} {colour}"
    return _pick(rng, *phrases).format(colour=colour, one=one, noun=noun), there


def facts(things: tuple[Thing, ...], rng: np.random.Generator) -> list[tuple[str, str]]:
    """What is true of a scene, as pairs of a heading and one or two words: ``("Left:", "red")``.

    Only what is clear: of things that are alike number and colour, of others which colour is where and which is bigger,
    and how two compare; and of two colours whether they are there.
    """
    found = []
    for _ in range(2):
        colour, there = _some_colour(things, rng)
        found.append((f"Any {colour}?", "yes" if there else "no"))
    if len({thing.object for thing in things}) == 1:
        found.append(("Number:", NUMBERS[len(things) - 1]))
    colours = [thing.colour for thing in things]
    if len(set(colours)) == 1:
        found.append(("Color:", colours[0]))
    if len(set(colours)) < len(things):
        return found
    for thing in things:
        if _is_in_a_quadrant(thing):
            found.append((f"{thing.colour.capitalize()} at:", _quadrant_of(thing)))
    axes = (("Left:", "Right:"), ("Top:", "Bottom:")) if len(things) > 1 else ()
    for axis, headings in enumerate(axes):
        ordered = sorted(things, key=lambda thing: thing.centre[axis])
        if ordered[1].centre[axis] - ordered[0].centre[axis] >= _CLEAR:
            found.append((headings[0], ordered[0].colour))
        if ordered[-1].centre[axis] - ordered[-2].centre[axis] >= _CLEAR:
            found.append((headings[1], ordered[-1].colour))
    small, large = min(things, key=lambda thing: thing.size), max(things, key=lambda thing: thing.size)
    if len(things) == 2 and _comparison("size", large, small):
        found += [("Bigger:", large.colour), ("Smaller:", small.colour)]
    if pair := _two(things, rng):
        for kind, (*_, asked) in _COMPARED.items():
            if answer := _comparison(kind, *pair):
                found.append((f"{pair[0].colour.capitalize()} {asked} {pair[1].colour}:", answer))
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
