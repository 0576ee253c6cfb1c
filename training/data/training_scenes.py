"""Composed scenes to train on, kept on disk."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from training.data import augment, scenes
from training.data.build import build
from training.data.drawn import drawn_once
from training.data.packages import Progress
from training.data.scenes import Composer, Layout, Thing

_TURN: tuple[Layout, ...] = ("one", "copies", "pair", "one", "copies", "pair", "several", "pair")


def training_scenes(count: int, progress: Progress | None = None) -> list[tuple[Path, tuple[Thing, ...]]]:
    """Pictures of composed scenes and what is in each, drawn once under ``home()/data/scenes-COUNT``.

    No held-out object and no background of the evaluation scenes is in any of them.

    Args:
        count: how many; the first ones of a larger set are those of a smaller one.
        progress: called as ``progress(what, done, total)``.

    Raises:
        FetchError: the data set "default" cannot be built, or the disk is full.
    """
    source = build("default", progress)
    with (source / "index.jsonl").open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if not row["heldout"]]

    def draw(work: Path) -> Iterator[dict[str, Any]]:
        composer = Composer(source, rows)
        for i in range(count):
            scene = composer.compose(_TURN[i % len(_TURN)], np.random.default_rng([1, i]))
            file = f"{i:05d}.jpg"
            scene.picture.save(work / file, quality=90)
            yield {"file": file, "things": [asdict(thing) for thing in scene.things]}
            if progress and (i + 1) % 100 == 0:
                progress("drawing scenes", i + 1, count)

    folder, drawn = drawn_once(f"scenes-{count}", source, [augment, scenes, sys.modules[__name__]], draw)
    return [(folder / row["file"], tuple(Thing(**thing) for thing in row["things"])) for row in drawn]
