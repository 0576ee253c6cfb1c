"""Two runs of one task, item by item."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assistant.errors import InputError
from training.eval.intervals import bootstrap_interval
from training.eval.report import Prediction
from training.eval.run_folder import PREDICTIONS

REPORT = "report.json"


@dataclass(frozen=True)
class Difference:
    """How two runs differ on what both were asked.

    Attributes:
        a, b: share of right answers.
        difference: ``b - a``, with its paired bootstrap interval over items.
    """

    shots: int
    control: str
    items: int
    a: float
    b: float
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Change:
    """An item that only one of the runs has right."""

    id: str
    shots: int
    seed: int
    question: str
    answer: str
    a: str
    b: str
    better: bool


@dataclass(frozen=True)
class Diff:
    """All differences, and the items of the task itself (no controls) that changed."""

    task: str
    set: str
    models: tuple[str, str]
    differences: list[Difference]
    changes: list[Change]

    def to_tree(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(a: str | Path, b: str | Path) -> Diff:
    """Hold two runs against each other.

    Args:
        a, b: folders of runs, or their ``report.json``.

    Raises:
        InputError: one is no finished run, they are of different tasks or sets, or they share no question.
    """
    (report_a, rows_a), (report_b, rows_b) = _read(a), _read(b)
    for field in ("task", "set"):
        if report_a[field] != report_b[field]:
            raise InputError(f"the runs differ in {field}: {a} is of {report_a[field]}, {b} of {report_b[field]}")
    shared = [key for key in rows_a if key in rows_b]
    if not shared:
        raise InputError(f"{a} and {b} share no item that was asked with as many shots, seed and control")
    cells: dict[tuple[str, int], dict[str, list[tuple[bool, bool]]]] = defaultdict(lambda: defaultdict(list))
    changes = []
    for key in shared:
        one, other = rows_a[key], rows_b[key]
        if (one.question, one.answer) != (other.question, other.answer):
            raise InputError(f"item {one.id} is not the same in {a} and {b}: the task's data changed between them")
        cells[one.control, one.shots][one.id].append((one.right, other.right))
        if one.control == "none" and one.right != other.right:
            said = one.prediction, other.prediction
            changes.append(Change(one.id, one.shots, one.seed, one.question, one.answer, *said, other.right))
    differences = [_difference(*key, by_item) for key, by_item in cells.items()]
    changes.sort(key=lambda change: (change.shots, change.id, change.seed))
    models = report_a["model"]["name"], report_b["model"]["name"]
    return Diff(report_a["task"], report_a["set"], models, differences, changes)


def _difference(control: str, shots: int, by_item: dict[str, list[tuple[bool, bool]]]) -> Difference:
    means = np.array([np.mean(by_item[id], axis=0) for id in sorted(by_item)])  # [items, 2]
    gains = means[:, 1] - means[:, 0]
    share_a, share_b = means.mean(axis=0).tolist()
    return Difference(shots, control, len(means), share_a, share_b, float(gains.mean()), bootstrap_interval(gains))


def _read(place: str | Path) -> tuple[dict[str, Any], dict[tuple[str, int, int, str], Prediction]]:
    folder = Path(place).parent if Path(place).is_file() else Path(place)
    try:
        report = json.loads((folder / REPORT).read_text("utf-8"))
        lines = (folder / PREDICTIONS).read_text("utf-8").split("\n")  # other line separators may stand in answers
        rows = [Prediction(**json.loads(line)) for line in lines if line]
        return {name: report[name] for name in ("task", "set", "model")}, {row.key: row for row in rows}
    except OSError as error:
        name = Path(error.filename).name if error.filename else REPORT
        raise InputError(
            f"{place} is no finished run of assistant eval: {name} cannot be read ({error.strerror})"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{place} is damaged ({error}); run assistant eval again") from None
