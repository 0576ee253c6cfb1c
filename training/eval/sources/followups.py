"""Three questions about one scene, one after the other: a question is asked first, second and third."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.data import questions
from training.data import scenes as composing
from training.data.build import build
from training.data.drawn import drawn_once
from training.data.packages import Progress
from training.data.questions import Asked, Kind
from training.data.scenes import Composer, Layout, Scene
from training.data.views import heldout_rows
from training.eval.items import Example, Item
from training.eval.selection import stable_rng

SCENES = {"dev": 40, "test": 80}
_TURNS = 3
_ASKED: dict[Layout, tuple[Kind, ...]] = {
    "one": ("colour", "quadrant", "count"),
    "pair": ("left_right", "above_below", "size"),
}
"""Kinds of question of which none is answered by the question or the answer of another."""


def followups(which: Literal["dev", "test"], seed: int, progress: Progress | None = None) -> list[Item]:
    """Every question of 40 scenes (``"dev"``) or 80 (``"test"``) as the first, second and third turn about its scene.

    The turns before it hold the scene's other questions with their right answers, so the kinds ``"turn 1"`` to
    ``"turn 3"`` ask the very same questions and differ in what went before alone. Objects and backgrounds were never
    trained on. There are no demonstrations.

    Raises:
        FetchError: the pictures cannot be made.
    """
    source = build("default", progress)
    rows = heldout_rows(source, which)

    def draw(work: Path) -> Iterator[dict[str, Any]]:
        composer = Composer(source, rows, "heldout")
        for number in range(SCENES[which]):
            layout = list(_ASKED)[number % len(_ASKED)]
            scene, asked = _scene(composer, layout, stable_rng("followups", which, seed, number))
            file = f"{number:03d}.png"
            scene.picture.save(work / file)
            yield {"file": file, "asked": [asdict(one) for one in asked]}

    code = [composing, questions, sys.modules[__name__]]
    folder, drawn = drawn_once(f"followups-{which}-{seed}", source, code, draw)
    return [
        Item(_turn(folder / row["file"], row["asked"], last, turn))
        for row in drawn
        for last in range(_TURNS)
        for turn in range(_TURNS)
    ]


def _turn(picture: Path, asked: list[dict[str, Any]], last: int, turn: int) -> Example:
    """The question number ``last`` after ``turn`` others."""
    before = [asked[(last - turn + step) % _TURNS] for step in range(turn)]
    query = asked[last]
    return Example(
        f"{picture.stem}-{query['kind']}-{turn + 1}",
        (picture,),
        query["question"],
        query["answer"],
        choices=tuple(query["choices"]),
        kind=f"turn {turn + 1}",
        history=tuple((one["question"], one["answer"]) for one in before),
    )


def _scene(composer: Composer, layout: Layout, rng: np.random.Generator) -> tuple[Scene, list[Asked]]:
    """A scene that all kinds of question of its layout can be asked about, and one of each, in any order."""
    while True:
        scene = composer.compose(layout, rng)
        asked = [questions.ask(_ASKED[layout][i], scene.things, rng) for i in rng.permutation(_TURNS)]
        if all(asked):
            return scene, [one for one in asked if one]
