"""Items from a JSONL file: one question a line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from assistant.errors import InputError
from training.config import from_tree
from training.eval.items import Example, Item, leave_one_out, with_pool


@dataclass(frozen=True)
class _Row:
    """A line of the file; see :func:`jsonl`."""

    question: str
    answer: str
    id: str | None = None
    picture: str | None = None
    pictures: list[str] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    kind: str = ""
    group: str = ""
    history: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.picture is not None and self.pictures:
            raise ValueError("give picture or pictures, not both")
        if not self.answer.strip():
            raise ValueError("answer is empty")
        if any(len(turn) != 2 for turn in self.history):
            raise ValueError("history must be a list of [question, answer]")


def jsonl(which: Literal["dev", "test"], seed: int, file: str, pool: str | None = None) -> list[Item]:
    """The questions of a file.

    A line holds ``question``, ``answer`` and ``picture`` (or ``pictures``, a list), relative to the JSONL file; and if
    wanted ``id``, ``accept``, ``choices``, ``kind``, ``group`` and ``history``, as :class:`Example` has them.

    Args:
        file: the file; ``{set}`` in it becomes ``dev`` or ``test``.
        pool: a file of demonstrations, also with ``{set}`` if wanted; without it they are the other questions.

    Raises:
        InputError: a file or a picture is missing, or a line is not as it should be; the line is named.
    """
    queries = _read(Path(file.replace("{set}", which)))
    return with_pool(queries, _read(Path(pool.replace("{set}", which)))) if pool else leave_one_out(queries)


def _read(file: Path) -> list[Example]:
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    examples: dict[str, Example] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            tree = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: no valid JSON ({error})") from None
        example = _example(from_tree(_Row, tree, where), str(number), file.parent, where)
        if example.id in examples:
            raise InputError(f"{where}: id {example.id} is taken by an earlier line")
        examples[example.id] = example
    if not examples:
        raise InputError(f"{file}: holds no question")
    return list(examples.values())


def _example(row: _Row, number: str, folder: Path, where: str) -> Example:
    names = row.pictures if row.picture is None else [row.picture]
    pictures = tuple(folder / name for name in names)
    for picture in pictures:
        if not picture.is_file():
            raise InputError(f"{where}: there is no picture {picture}")
    history = tuple((asked, answered) for asked, answered in row.history)
    return Example(
        row.id or number,
        pictures,
        row.question,
        row.answer,
        accept=tuple(row.accept),
        choices=tuple(row.choices),
        kind=row.kind,
        group=row.group,
        history=history,
    )
