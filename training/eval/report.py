"""What a run found: accuracy by shots, control and kind, with intervals and chance."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.eval.intervals import bootstrap_interval, wilson_interval
from training.eval.items import Example, Item

ALL = "all"
"""Stands for every kind of question together."""


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Attributes:
        id, kind, question, answer: of the item, with the answer that was wanted.
        shots, seed, control: how it was asked; the control ``"none"`` is the task itself.
        prediction: what the model said.
        right: whether the task's metric takes it.
        demos: ids of the demonstrations, in order.
        pictures: files that were shown with the question.
    """

    id: str
    kind: str
    shots: int
    seed: int
    control: str
    question: str
    answer: str
    prediction: str
    right: bool
    demos: list[str]
    pictures: list[str]

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What tells it from all others of its run."""
        return self.id, self.shots, self.seed, self.control

    def to_line(self) -> str:
        """A line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers of one kind of question under one control.

    Attributes:
        items, asked: number of items, and of answers, which are more where several seeds were drawn.
        interval: 95 %, bootstrap over items.
        wilson: 95 %, Wilson's score interval; where every item was asked once.
        chance: see :func:`chance`.
    """

    shots: int
    control: str
    kind: str
    items: int
    asked: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    wilson: tuple[float, float] | None
    chance: float


@dataclass(frozen=True)
class Report:
    """A run.

    Attributes:
        about: task, settings, and fingerprints of the model and of the items.
        accuracy: a row for each control, number of shots and kind; the kind ``"all"`` holds all of them.
        predictions: all answers.
        seconds: that this run took; less than the whole where it went on from an earlier one.
    """

    about: dict[str, Any]
    accuracy: list[Accuracy]
    predictions: list[Prediction]
    seconds: float

    def find(self, shots: int, control: str = "none", kind: str = ALL) -> Accuracy:
        """The row of these.

        Raises:
            KeyError: nothing of the sort was asked.
        """
        for row in self.accuracy:
            if (row.shots, row.control, row.kind) == (shots, control, kind):
                return row
        raise KeyError((shots, control, kind))

    def to_tree(self) -> dict[str, Any]:
        """For JSON; the predictions have a file of their own."""
        about = self.about
        return {
            "task": about["task"]["name"],
            "set": about["settings"]["set"],
            "model": about["model"],
            "settings": {**about["settings"], "task": about["task"]},
            "items": about["items"],
            "accuracy": [_rounded(asdict(row)) for row in self.accuracy],
            "seconds": self.seconds,
        }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def accuracy(predictions: Sequence[Prediction], items: Iterable[Item]) -> list[Accuracy]:
    """A row for each control and number of shots: all kinds together, then each of them where there are several."""
    queries = {item.query.id: item.query for item in items}
    cells: dict[tuple[str, int, str], list[Prediction]] = defaultdict(list)
    several = len({query.kind for query in queries.values()}) > 1
    for row in predictions:
        cells[row.control, row.shots, ALL].append(row)
        if several:
            cells[row.control, row.shots, row.kind].append(row)
    return [_cell(control, shots, kind, rows, queries) for (control, shots, kind), rows in cells.items()]


def _cell(control: str, shots: int, kind: str, rows: list[Prediction], queries: dict[str, Example]) -> Accuracy:
    by_item: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_item[row.id].append(row.right)
    means = np.array([np.mean(by_item[id]) for id in sorted(by_item)])
    right = sum(row.right for row in rows)
    once = len(rows) == len(by_item)
    return Accuracy(
        shots,
        control,
        kind,
        items=len(by_item),
        asked=len(rows),
        right=right,
        accuracy=float(means.mean()),
        interval=bootstrap_interval(means),
        wilson=wilson_interval(right, len(rows)) if once else None,
        chance=chance([queries[id] for id in by_item]),
    )


def chance(queries: Sequence[Example]) -> float:
    """What guessing gets: one of the choices; where there are none, always the most frequent answer of the kind."""
    open_ended: dict[str, Counter[str]] = defaultdict(Counter)
    for query in queries:
        if not query.choices:
            open_ended[query.kind][query.answer] += 1
    guessed = [1 / len(query.choices) for query in queries if query.choices]
    majority = [max(counts.values()) for counts in open_ended.values()]
    return (sum(guessed) + sum(majority)) / len(queries)
