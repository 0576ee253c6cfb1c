"""One word, a sentence, JSON or upper case: the answers of the examples say which form is wanted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from training.data.packages import Progress
from training.data.unseen_style import unseen_style
from training.eval.items import Example, Item
from training.eval.selection import stable_rng

EACH = {"dev": 40, "test": 80}
_POOL = 16

FORMS: dict[str, Callable[[str, str], str]] = {
    "word": lambda name, article: name,
    "sentence": lambda name, article: f"This is {article} {name}.",
    "json": lambda name, article: json.dumps({"name": name}),
    "upper": lambda name, article: name.upper(),
}
"""What an answer looks like, of a name and its article."""


def format(
    which: Literal["dev", "test"], seed: int, question: str = "What is this?", progress: Progress | None = None
) -> list[Item]:
    """Name a drawing in the form of the examples; the metric ``format`` looks at the form alone.

    The drawings are in a style never trained on, of things whose names, of one word, training teaches; ``accept`` holds
    these names, so the metric ``contains`` scores the same task by what is said. The kind is the form: 40 items of each
    for ``"dev"``, 80 for ``"test"``, with pools of 16.

    Args:
        question: of the examples and of the query.

    Raises:
        FetchError: a package cannot be brought here.
    """
    rows = [row for row in unseen_style(which, progress) if row["name"].isalpha() and row["article"] in ("a", "an")]
    items = []
    for number in range(EACH[which] * len(FORMS)):
        form = list(FORMS)[number % len(FORMS)]
        order = stable_rng("format", which, seed, number).permutation(len(rows))[: _POOL + 1]
        query, *pool = [_example(f"{number:03d}-{i}", rows[row], form, question) for i, row in enumerate(order)]
        items.append(Item(query, tuple(pool)))
    return items


def _example(id: str, row: dict[str, Any], form: str, question: str) -> Example:
    answer = FORMS[form](row["name"], row["article"])
    return Example(id, (Path(row["file"]),), question, answer, (row["name"], *row["aliases"]), kind=form)
