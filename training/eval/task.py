"""A task of the ruler: a YAML file that says where its items come from and how answers are scored."""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from assistant.errors import ConfigError
from training.config import load_config

Metric = Literal["contains", "exact", "one_of", "format"]
Select = Literal["random", "similar", "balanced"]
Control = Literal["no_image", "swapped", "shuffled_labels", "zero_gates"]
CONTROLS: tuple[Control, ...] = get_args(Control)
FOLDER = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Task:
    """What is asked, and how.

    Attributes:
        name: of the task.
        source: a name in ``training.eval.sources.SOURCES``; it gives the items of a set.
        about: one line for the list of tasks.
        source_args: keyword arguments of the source.
        metric: how an answer is scored, see ``training.eval.metrics``.
        shots: numbers of demonstrations that are tried unless others are asked for.
        shots_mean: ``"total"``, or ``"per_answer"``: so many of every group of the pool, shuffled.
        select: how demonstrations are chosen from the pool unless told otherwise.
        max_new_tokens: most tokens of an answer.
        system: text of a system message, if there is to be one.
        controls: what runs beside the task unless told otherwise.
        zero_shot: what 0 shots mean, for readers of the report.
        seed: of the source.
    """

    name: str
    source: str
    about: str = ""
    source_args: dict[str, Any] = field(default_factory=dict)
    metric: Metric = "contains"
    shots: list[int] = field(default_factory=lambda: [0])
    shots_mean: Literal["total", "per_answer"] = "total"
    select: Select = "random"
    max_new_tokens: int = 24
    system: str | None = None
    controls: list[Control] = field(default_factory=list)
    zero_shot: str = "the plain question"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shots or any(isinstance(k, bool) or k < 0 for k in self.shots):
            raise ValueError(f"shots must be numbers of demonstrations, 0 or more, got {self.shots}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


def task_names() -> list[str]:
    """The tasks that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_task(name: str) -> Task:
    """Read a task by its name, or from a YAML file by its path.

    Files that ``source_args`` of a ``jsonl`` source name are relative to the folder of the YAML file.

    Raises:
        ConfigError: there is no such task (the nearest known one is named), or its file is wrong.
    """
    if name in task_names():
        return load_config(Task, FOLDER / f"{name}.yaml")
    if Path(name).suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(name, task_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(task_names())}, or give a YAML file"
        raise ConfigError(f"there is no task {name!r}; {hint}")
    task = load_config(Task, name)
    if task.source != "jsonl":
        return task
    files = {key: str(Path(name).parent / value) for key, value in task.source_args.items() if isinstance(value, str)}
    return replace(task, source_args={**task.source_args, **files})
