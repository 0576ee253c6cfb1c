"""Held-out objects in many views, for tasks that need more pictures of a thing than there are drawings."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from training.data import augment
from training.data.build import build
from training.data.drawn import drawn_once
from training.data.heldout import heldout_part
from training.data.packages import Progress

VIEWS = 16


@dataclass(frozen=True)
class Drawings:
    """One object in one drawing style.

    Attributes:
        originals: files of the data set, at least one.
        views: `VIEWS` files, RGB: the originals in turn, mirrored, turned, scaled, moved, on other backgrounds.
    """

    originals: tuple[Path, ...]
    views: tuple[Path, ...]


def heldout_views(which: Literal["dev", "test"], progress: Progress | None = None) -> dict[str, dict[str, Drawings]]:
    """Every object of an evaluation set that was drawn in two styles or more, by object and style.

    The views are drawn once under ``home()/data/binding-dev`` or ``.../binding-test``.

    Args:
        which: the two sets have no object in common.
        progress: called as ``progress(what, done, total)``.

    Raises:
        FetchError: the data set "default" cannot be built, or the disk is full.
    """
    source = build("default", progress)
    objects: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in heldout_rows(source, which):
        objects.setdefault(row["object"], {}).setdefault(row["style"], []).append(row)
    groups = [
        (key, style, rows)
        for key, styles in sorted(objects.items())
        if len(styles) > 1
        for style, rows in sorted(styles.items())
    ]

    def draw(work: Path) -> Iterator[dict[str, Any]]:
        for done, (key, style, rows) in enumerate(groups):
            files = [f"{rows[i % len(rows)]['id']}-{i:02d}.jpg" for i in range(VIEWS)]
            for i, file in enumerate(files):
                with Image.open(source / rows[i % len(rows)]["file"]) as cutout:
                    augment.place(cutout, np.random.default_rng([*file.encode()])).save(work / file, quality=92)
            yield {"object": key, "style": style, "originals": [row["file"] for row in rows], "views": files}
            if progress:
                progress("drawing views", done + 1, len(groups))

    folder, drawn = drawn_once(f"binding-{which}", source, [augment, sys.modules[__name__]], draw)
    found: dict[str, dict[str, Drawings]] = {}
    for row in drawn:
        originals = tuple(source / file for file in row["originals"])
        views = tuple(folder / file for file in row["views"])
        found.setdefault(row["object"], {})[row["style"]] = Drawings(originals, views)
    return found


def heldout_rows(source: Path, which: Literal["dev", "test"]) -> list[dict[str, Any]]:
    """Rows of the built data set "default" that show the held-out objects of an evaluation set."""
    with (source / "index.jsonl").open(encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row["heldout"] and heldout_part(row["object"]) == which]
