"""Number, colour, place, size and presence in composed scenes of objects and on backgrounds never trained on."""

import math
import sys
from collections import Counter
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
from training.data.questions import KINDS, LAYOUTS_OF, Asked, Kind
from training.data.scenes import Composer, Scene
from training.data.views import heldout_rows
from training.eval.items import Example, Item
from training.eval.selection import stable_rng

EACH = {"dev": 40, "test": 100}
_POOL = 16


def scenes(which: Literal["dev", "test"], seed: int, progress: Progress | None = None) -> list[Item]:
    """Questions of every kind, 40 of each for ``"dev"`` and 100 for ``"test"``, each about a scene of its own.

    Of a kind, no answer is right more often than its share. Demonstrations are 16 other questions of the kind.

    Raises:
        FetchError: the pictures cannot be made.
    """
    source = build("default", progress)
    rows = heldout_rows(source, which)

    def draw(work: Path) -> Iterator[dict[str, Any]]:
        composer = Composer(source, rows, "heldout")
        for done, kind in enumerate(KINDS):
            rng = stable_rng("scenes", which, seed, kind)
            for number, (scene, asked) in enumerate(_balanced(composer, kind, EACH[which], rng)):
                file = f"{kind}-{number:03d}.png"
                scene.picture.save(work / file)
                yield {"file": file, **asdict(asked)}
            if progress:
                progress("composing scenes", done + 1, len(KINDS))

    code = [composing, questions, sys.modules[__name__]]
    folder, drawn = drawn_once(f"scenes-{which}-{seed}", source, code, draw)
    examples = [
        Example(
            Path(row["file"]).stem,
            (folder / row["file"],),
            row["question"],
            row["answer"],
            choices=tuple(row["choices"]),
            kind=row["kind"],
        )
        for row in drawn
    ]
    items = []
    for query in examples:
        others = [example for example in examples if example.kind == query.kind and example is not query]
        chosen = stable_rng("scenes", seed, query.id).choice(len(others), _POOL, replace=False)
        items.append(Item(query, tuple(others[i] for i in chosen)))
    return items


def _balanced(composer: Composer, kind: Kind, count: int, rng: np.random.Generator) -> Iterator[tuple[Scene, Asked]]:
    """So many scenes with a question; no answer is more frequent than its share."""
    given: Counter[str] = Counter()
    layouts = LAYOUTS_OF[kind]
    while given.total() < count:
        scene = composer.compose(layouts[given.total() % len(layouts)], rng)
        asked = questions.ask(kind, scene.things, rng)
        if asked and given[asked.answer] < math.ceil(count / len(asked.choices)):
            given[asked.answer] += 1
            yield scene, asked
