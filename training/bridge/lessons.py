"""What the bridge is taught: short dialogues about pictures, drawn anew at every step.

Kinds of lessons, each a function of pools and a random generator:
    naming, photo_naming   what a drawing or a pseudo-photograph shows
    scene                  up to four questions about one composed scene, in turn
    relation               up to four questions where the two things of a scene are and which is bigger
    fact                   up to five facts about a scene, each after a word or two: a third of a question's tokens
    shape                  up to four questions about the outline of a thing that is round, square or three-cornered
    check                  is this a ...? The right name, or another one
    binding                made-up names, given by examples, for things shown again in another style
    family                 the same for kinds of things: every example is another breed, model or species
    rule                   a question that means nothing; the examples say what of the picture is wanted
    format                 a name as one word, a sentence, JSON or in upper case, as in the examples
    ordinal                several pictures at once, asked about by their number
A lesson is rendered in the language model's chat format or, four times shorter, as plain text.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from training.data import questions
from training.data.made_up import made_up_name
from training.data.names import sentence, with_article
from training.data.scenes import COLOURS, Thing
from training.data.shapes import SHAPES

from .pools import Pools, Shown

LessonKind = Literal[
    "naming",
    "photo_naming",
    "scene",
    "fact",
    "shape",
    "check",
    "binding",
    "family",
    "rule",
    "format",
    "ordinal",
    "relation",
]
LESSON_KINDS: tuple[LessonKind, ...] = get_args(LessonKind)


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        shown: pictures that stand before the question.
        learn: whether the answer is to be learned. The first examples of an episode say what nobody can know.
    """

    shown: tuple[Shown, ...]
    question: str
    answer: str
    learn: bool = True


Lesson = list[Turn]

NAMING_QUESTIONS = (
    "What is in the picture?",
    "What is in the image?",
    "What is this?",
    "What do you see?",
    "What does the picture show?",
    "What is shown here?",
    "What can you see in this picture?",
    "What is in this photo?",
    "Name what is in the picture.",
    "Describe the picture.",
)


def draw_lesson(kind: LessonKind, pools: Pools, rng: np.random.Generator) -> Lesson:
    """One lesson of a kind, the same for the same state of ``rng``."""
    return _MAKERS[kind](pools, rng)


def _one_of(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def _naming(pools: Pools, rng: np.random.Generator) -> Lesson:
    shown = pools.any_picture(rng)
    return [Turn((shown,), _one_of(rng, *NAMING_QUESTIONS), sentence(shown.name))]


def _photo_naming(pools: Pools, rng: np.random.Generator) -> Lesson:
    shown = pools.any_photo(rng)
    return [Turn((shown,), _one_of(rng, *NAMING_QUESTIONS), sentence(shown.name))]


def _scene(pools: Pools, rng: np.random.Generator) -> Lesson:
    row = int(rng.choice(pools.scenes))
    things = pools.things[row]
    turns: Lesson = []
    kinds = [str(kind) for kind in rng.permutation([*questions.KINDS, "name"])]
    for kind in kinds:
        if kind == "name" and len({thing.object for thing in things}) == 1:
            question = _one_of(rng, "What is it?", *NAMING_QUESTIONS)
            answer = sentence(with_article(things[0].article, things[0].name))
        elif kind != "name" and (asked := questions.ask(kind, things, rng)):  # type: ignore[arg-type]
            question, answer = asked.question, sentence(asked.answer)
        else:
            continue
        turns.append(Turn(() if turns else (Shown("scene", row),), question, answer))
        if len(turns) == _QUESTIONS:
            break
    return _typed(turns, rng)


_QUESTIONS = 4  # about one picture


def _relation(pools: Pools, rng: np.random.Generator) -> Lesson:
    row = int(rng.choice(pools.pairs))
    turns: Lesson = []
    for kind in rng.permutation(_RELATIONS):
        asked = questions.ask(kind, pools.things[row], rng)
        if asked and asked.question not in {turn.question for turn in turns} and len(turns) < _QUESTIONS:
            turns.append(Turn(() if turns else (Shown("scene", row),), asked.question, sentence(asked.answer)))
    return _typed(turns, rng)


_RELATIONS: tuple[questions.Kind, ...] = ("quadrant", "left_right", "left_right", "above_below", "above_below", "size")


def _typed(turns: Lesson, rng: np.random.Generator) -> Lesson:
    """Now and then as people type: all questions in small letters."""
    if rng.random() < 0.75:
        return turns
    return [Turn(turn.shown, turn.question.lower(), turn.answer, turn.learn) for turn in turns]


def _shape(pools: Pools, rng: np.random.Generator) -> Lesson:
    shape = str(rng.choice(sorted(pools.shapes)))
    shown = pools.picture(rng.choice(pools.shapes[shape]), rng)
    turns: Lesson = []
    for _ in range(_QUESTIONS):
        asked = str(rng.choice([shape, *sorted(set(SHAPES) - {shape})], p=[0.5, 0.25, 0.25]))
        there, kind = asked == shape, rng.random()
        if kind < 0.4:
            question = _one_of(
                rng,
                "What shape is it?",
                "What shape is this?",
                "What shape is in the picture?",
                "What shape does the picture show?",
                "Which shape is present?",
            )
            answer = shape
        elif kind < 0.7:
            question = _one_of(
                rng,
                f"Is there a {asked}?",
                f"Is it a {asked}?",
                f"Does the picture show a {asked}?",
                f"Is a {asked} present?",
            )
            answer = "yes" if there else "no"
        else:
            question = _one_of(
                rng,
                f"Is there not a {asked}?",
                f"Is there no {asked} in the picture?",
                f"Does the image not contain a {asked}?",
                f"Is no {asked} present?",
            )
            answer = "no" if there else "yes"
        turns.append(Turn(() if turns else (shown,), question, sentence(answer)))
    return _typed(turns, rng)


def _check(pools: Pools, rng: np.random.Generator) -> Lesson:
    shown, other = (pools.any_photo(rng) if rng.random() < 0.5 else pools.any_picture(rng) for _ in range(2))
    words = {word for name in pools.names_of(shown) for word in _bare(name).split()}
    asked = [shown.name] if words & set(_bare(other.name).split()) else [shown.name, other.name]
    turns: Lesson = []
    for position in rng.permutation(len(asked)):
        question = _one_of(
            rng, "Is this {name}?", "Is it {name}?", "Is there {name} in the picture?", "Do you see {name}?"
        )
        answer = "no" if position else "yes"
        turns.append(Turn(() if turns else (shown,), question.format(name=asked[position]), sentence(answer)))
    return _typed(turns, rng)


def _fact(pools: Pools, rng: np.random.Generator) -> Lesson:
    row = int(rng.choice(pools.scenes))
    facts = questions.facts(pools.things[row], rng)
    chosen = rng.permutation(len(facts))[:_FACTS]
    return [Turn(() if place else (Shown("scene", row),), *facts[i]) for place, i in enumerate(chosen)]


_FACTS = 5  # about one picture


def _episode(
    examples: list[list[Shown]], queries: list[Shown], question: str, template: str, rng: np.random.Generator
) -> Lesson:
    """Examples of several things under made-up names in random order, then one query of each in random order.

    Args:
        examples: pictures of each thing.
        queries: one more picture of each.
        template: of the answers; ``{name}`` stands for the name.
    """
    names: list[str] = []
    while len(names) < len(examples):
        name = made_up_name(rng)
        if name[0] not in {other[0] for other in names}:
            names.append(name)
    pairs = [(i, shown) for i, some in enumerate(examples) for shown in some]
    turns, known = [], set()
    for position in rng.permutation(len(pairs)):
        thing, shown = pairs[position]
        turns.append(Turn((shown,), question, template.format(name=names[thing]), learn=thing in known))
        known.add(thing)
    for thing in rng.permutation(len(queries)):
        turns.append(Turn((queries[thing],), question, template.format(name=names[thing])))
    return turns


_WAYS = ((2, 0.6), (3, 0.2), (5, 0.2))
_ANSWERS = ("A {name}.", "A {name}.", "This is a {name}.", "{name}")
_BINDING_QUESTIONS = ("What is this?", "What is this?", "What is in the picture?", "Name it.", "What do you see?")


def _binding(pools: Pools, rng: np.random.Generator) -> Lesson:
    ways, each = _ways_and_examples(rng)
    if rng.random() < 0.25:  # classes of the tower, for photographs
        classes = rng.choice(pools.classes, ways, replace=False)
        examples = [[pools.photo(c, rng) for _ in range(each)] for c in classes]
        queries = [pools.photo(c, rng) for c in classes]
    else:
        objects = [str(key) for key in rng.choice(sorted(pools.styles), ways, replace=False)]
        examples, queries = [], []
        for key in objects:
            styles = [str(style) for style in rng.permutation(sorted(pools.styles[key]))]
            asked, shown = (pools.styles[key][style] for style in styles[:2])
            examples.append([pools.picture(rng.choice(shown), rng) for _ in range(each)])
            queries.append(pools.picture(rng.choice(asked), rng))
    return _episode(examples, queries, _one_of(rng, *_BINDING_QUESTIONS), _one_of(rng, *_ANSWERS), rng)


def _family(pools: Pools, rng: np.random.Generator) -> Lesson:
    ways, each = _ways_and_examples(rng)
    words = [str(word) for word in rng.choice(sorted(pools.families), ways, replace=False)]
    examples, queries = [], []
    for word in words:
        members = rng.choice(pools.families[word], each + 1, replace=each + 1 > len(pools.families[word]))
        shown = [pools.photo(c, rng) for c in members]
        examples.append(shown[:-1])
        queries.append(shown[-1])
    return _episode(examples, queries, _one_of(rng, *_BINDING_QUESTIONS), _one_of(rng, *_ANSWERS), rng)


def _ways_and_examples(rng: np.random.Generator) -> tuple[int, int]:
    """How many things an episode names, and how many examples of each it gives: at most sixteen in all."""
    ways = int(rng.choice([way for way, _ in _WAYS], p=[share for _, share in _WAYS]))
    most = {2: 8, 3: 4, 5: 3}[ways]
    return ways, min(most, 1 + int(rng.geometric(0.45)) - int(rng.random() < 0.4))


def _rule(pools: Pools, rng: np.random.Generator) -> Lesson:
    rule = str(rng.choice(_RULES))
    template = _one_of(rng, "{Colour}?", "{Colour}?", "{colour}", "Is it {colour}?", "And this?", "?")
    if rule == "yes/no" and "olour" not in template:
        template = "{Colour}?"
    turns: Lesson = []
    wanted = int(rng.integers(3, 7))
    while len(turns) < wanted:
        row = int(rng.choice(pools.alike))
        turn = _ruled(rule, pools.things[row], row, template, rng)
        if turn:
            turns.append(turn)
    return [Turn(t.shown, t.question, t.answer, learn=i > 0) for i, t in enumerate(turns)]


_RULES = ("name", "colour", "count", "position", "yes/no")


def _ruled(rule: str, things: tuple[Thing, ...], row: int, template: str, rng: np.random.Generator) -> Turn | None:
    """A turn under a rule, or ``None`` where things stand on both sides and the rule asks for one."""
    colour = things[0].colour
    true = bool(rng.random() < 0.5)
    asked = colour if true else str(rng.choice(sorted(set(COLOURS) - {colour})))
    sides = {thing.centre[0] < 0.5 for thing in things}
    if rule == "position" and (len(sides) > 1 or min(abs(thing.centre[0] - 0.5) for thing in things) < 0.05):
        return None
    answer = {
        "name": things[0].name,
        "colour": colour,
        "count": questions.NUMBERS[len(things) - 1],
        "position": "left" if True in sides else "right",
        "yes/no": "yes" if true else "no",
    }[rule]
    return Turn((Shown("scene", row),), template.format(colour=asked, Colour=asked.capitalize()), answer)


def _bare(name: str) -> str:
    """A name without its article."""
    first, _, rest = name.partition(" ")
    return rest if first in ("a", "an", "some") and rest else name


FORMATS: dict[str, tuple[Callable[[str], str], ...]] = {
    "word": (lambda name: _bare(name).split(" ")[-1], lambda name: _bare(name).split(" ")[-1].capitalize()),
    "sentence": (
        lambda name: f"The picture shows {name}.",
        lambda name: f"I can see {name} in the picture.",
        lambda name: f"There is {name} here.",
    ),
    "json": (
        lambda name: json.dumps({"object": _bare(name)}),
        lambda name: json.dumps({"name": _bare(name)}),
        lambda name: json.dumps({"answer": _bare(name)}),
    ),
    "upper": (lambda name: _bare(name).upper(), lambda name: f"{name}.".upper()),
}


def _format(pools: Pools, rng: np.random.Generator) -> Lesson:
    written = FORMATS[str(rng.choice(list(FORMATS)))]
    write = written[int(rng.integers(len(written)))]
    question = _one_of(rng, *NAMING_QUESTIONS)
    photo = rng.random() < 0.5
    turns = []
    for i in range(int(rng.integers(2, 5))):
        shown = pools.any_photo(rng) if photo else pools.any_picture(rng)
        turns.append(Turn((shown,), question, write(shown.name), learn=i > 0))
    return turns


_ORDINALS = ("first", "second", "third")


def _ordinal(pools: Pools, rng: np.random.Generator) -> Lesson:
    number = int(rng.integers(2, 4))
    shown = tuple(pools.any_photo(rng) if rng.random() < 0.5 else pools.any_picture(rng) for _ in range(number))
    turns: Lesson = []
    for i in rng.permutation(number):
        word = "last" if i == number - 1 and rng.random() < 0.5 else _ORDINALS[i]
        question = _one_of(
            rng,
            f"What is in the {word} picture?",
            f"What is in the {word} image?",
            f"What does the {word} picture show?",
            f"What is in the {word} one?",
        )
        turns.append(Turn(() if turns else shown, question, sentence(shown[i].name)))
    return turns


_MAKERS: dict[LessonKind, Callable[[Pools, np.random.Generator], Lesson]] = {
    "naming": _naming,
    "photo_naming": _photo_naming,
    "scene": _scene,
    "relation": _relation,
    "fact": _fact,
    "shape": _shape,
    "check": _check,
    "binding": _binding,
    "family": _family,
    "rule": _rule,
    "format": _format,
    "ordinal": _ordinal,
}
