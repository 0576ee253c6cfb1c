"""Name what a photograph shows: the photographs of the naming set."""

import json
from collections.abc import Callable
from typing import Literal

from training.data.build import build
from training.data.names import article, sentence, with_article
from training.eval.items import Example, Item, leave_one_out

QUESTION = "What is in the picture?"


def naming(
    which: Literal["dev", "test"], seed: int, progress: Callable[[str, int, int], None] | None = None
) -> list[Item]:
    """The photographs of a set, fetched if need be; demonstrations are other photographs of the set."""
    folder = build("naming", progress) / which
    with (folder / "index.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return leave_one_out(
        [
            Example(
                row["id"],
                (folder / row["file"],),
                QUESTION,
                sentence(with_article(article(row["noun"]), row["noun"])),
                tuple(row["accept"]),
            )
            for row in rows
        ]
    )
