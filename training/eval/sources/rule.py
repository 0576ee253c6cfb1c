"""What to say about a picture is for the examples to show: its name, colour, number or side, or yes or no to a word."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.data import scenes as composing
from training.data import unseen_style as style
from training.data.augment import SIZE
from training.data.build import build
from training.data.drawn import drawn_once
from training.data.packages import Progress
from training.data.questions import NUMBERS
from training.data.scenes import COLOURS, Composer, Scene
from training.eval.items import Example, Item
from training.eval.selection import stable_rng

RULES = ("name", "colour", "count", "position", "yes/no")
EACH = {"dev": 40, "test": 80}
SCENES = {"dev": 96, "test": 192}
_NUMBER = 3  # most things in a picture
_POOL = 16
_SKETCH = 32  # pixels


def rule(
    which: Literal["dev", "test"], seed: int, question: str = "{Colour}?", progress: Progress | None = None
) -> list[Item]:
    """Answer as the examples do.

    Every picture shows one to three of the same thing in one colour, all left or all right of the middle, so every rule
    could be meant. The question holds a colour, which is right half of the time; only under the rule "yes/no" does it
    matter. The things are drawn in a style never trained on, on backgrounds never trained on; their names were learned
    from other styles. The kind is the rule: 40 items of each for ``"dev"``, 80 for ``"test"``, with pools of 16.

    Args:
        question: of the examples and of the query; ``{Colour}`` or ``{colour}`` stands for the colour.

    Raises:
        FetchError: the pictures cannot be made.
    """
    source = build("default", progress)
    rows = style.unseen_style(which, progress)

    def draw(work: Path) -> Iterator[dict[str, Any]]:
        scenes = _one_sided(source, rows, SCENES[which], stable_rng("rule", which, seed))
        for number, (row, scene) in enumerate(scenes):
            file = f"{number:03d}.png"
            scene.picture.save(work / file)
            left = scene.things[0].centre[0] < 0.5
            truth = {"name": row["name"], "aliases": row["aliases"], "colour": scene.things[0].colour}
            yield {"file": file, **truth, "number": len(scene.things), "side": "left" if left else "right"}
            if progress:
                progress("composing scenes", number + 1, SCENES[which])

    folder, drawn = drawn_once(f"rule-{which}-{seed}", source, [composing, style, sys.modules[__name__]], draw)
    items = []
    for number in range(EACH[which] * len(RULES)):
        rng = stable_rng("rule", which, seed, "item", number)
        chosen = _different([drawn[i] for i in rng.permutation(len(drawn))], _POOL + 1)
        meant = RULES[number % len(RULES)]
        examples = [_asked(meant, row, f"{number:03d}-{i}", folder, question, rng) for i, row in enumerate(chosen)]
        items.append(Item(examples[0], tuple(examples[1:])))
    return items


def _different(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first so many rows, no two about the same thing."""
    by_name: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_name.setdefault(row["name"], row)
    return list(by_name.values())[:count]


def _asked(rule: str, row: dict[str, Any], id: str, folder: Path, question: str, rng: np.random.Generator) -> Example:
    true = bool(rng.random() < 0.5)
    colour = row["colour"] if true else str(rng.choice(sorted(set(COLOURS) - {row["colour"]})))
    accept: dict[str, tuple[str, ...]] = {
        "name": (row["name"], f"{row['name']}s", *row["aliases"]),
        "position": (row["side"], f"on the {row['side']}"),
    }
    answers: dict[str, tuple[str, tuple[str, ...]]] = {
        "name": (row["name"], ()),
        "colour": (row["colour"], tuple(COLOURS)),
        "count": (NUMBERS[row["number"] - 1], NUMBERS[:_NUMBER]),
        "position": (row["side"], ("left", "right")),
        "yes/no": ("yes" if true else "no", ("yes", "no")),
    }
    answer, choices = answers[rule]
    asked = question.format(colour=colour, Colour=colour.capitalize())
    return Example(id, (folder / row["file"],), asked, answer, accept.get(rule, ()), choices, kind=rule)


def _one_sided(
    source: Path, rows: Sequence[dict[str, Any]], count: int, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Any], Scene]]:
    """Scenes of one to three of a thing, all clearly left or all clearly right; as many of each number and side."""
    sketches, composers = ([Composer(source, [row], "heldout", size) for row in rows] for size in (_SKETCH, SIZE))
    given: Counter[tuple[int, bool]] = Counter()
    while given.total() < count:
        chosen, scene_seed = int(rng.integers(len(rows))), int(rng.integers(2**32))
        # Few scenes fit. Where things stand does not depend on the size of the picture, so a small one tells.
        sketch = sketches[chosen].compose("copies", np.random.default_rng(scene_seed))
        sides = {thing.centre[0] < 0.5 for thing in sketch.things}
        clear = len(sides) == 1 and min(abs(thing.centre[0] - 0.5) for thing in sketch.things) > 0.07
        case = len(sketch.things), next(iter(sides))
        if clear and case[0] <= _NUMBER and given[case] < count / (2 * _NUMBER):
            given[case] += 1
            yield rows[chosen], composers[chosen].compose("copies", np.random.default_rng(scene_seed))
