"""Emoji in a drawing style that no training picture has, of things whose names training teaches."""

import json
import re
from collections import defaultdict
from typing import Any, Literal

from training.data.build import build
from training.data.emoji import emoji_sources
from training.data.heldout import heldout_part
from training.data.packages import PACKAGES, Progress, fetch_package
from training.data.scenes import fits

_PACKAGE = "emoji-datasource-twitter"
_SHOWN = 4  # training pictures of a thing, so that its name can have been learned
_PEOPLE = re.compile("twitter-(1f46[6-9]|1f9d1)")  # told apart by their dress, which a scene paints over


def unseen_style(which: Literal["dev", "test"], progress: Progress | None = None) -> list[dict[str, Any]]:
    """Twitter's emoji of things that four or more pictures of the training set "default" show in other styles.

    People are left out.

    Args:
        which: the two sets have no object in common.
        progress: called as ``progress(what, done, total)``.

    Returns:
        One row an object, sorted by it, with the keys id, file (a whole path), name, article, object, alpha and
        aliases: every other name that training gives the thing. All are cut-outs that can stand in a scene.

    Raises:
        FetchError: a package cannot be brought here.
    """
    names: dict[str, list[str]] = defaultdict(list)
    aliases: dict[str, set[str]] = defaultdict(set)
    with (build("default", progress) / "index.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not row["heldout"]:
                names[row["object"]].append(row["name"])
                aliases[row["object"]].update(row["aliases"])
    emojibase, package = (fetch_package(name, progress=progress) for name in ("emojibase-data", _PACKAGE))
    rows: dict[str, dict[str, Any]] = {}
    for source in emoji_sources(
        emojibase,
        package / "package/img/twitter/64",
        source="twitter",
        style="twitter-flat",
        licence=PACKAGES[_PACKAGE].licence,
    ):
        key = source.object
        row = {"id": source.id, "file": str(source.path), "name": source.name, "article": source.article}
        row |= {"object": key, "alpha": True, "aliases": sorted({*names[key], *aliases[key]} - {source.name})}
        if _PEOPLE.match(source.id):
            continue
        # A "tiger face" may be called a face or a tiger; only plain names are asked for.
        if source.name == key and len(names[key]) >= _SHOWN and heldout_part(key) == which and fits(row):
            rows.setdefault(key, row)
    return [rows[key] for key in sorted(rows)]
