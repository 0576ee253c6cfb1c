"""Progress of fetching, on stderr: bars on a terminal, else one line a stage."""

from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["PartProgress"]

STAGES = {
    "wait": "waiting for another process",
    "download": "downloading",
    "verify": "checking the hash",
    "unpack": "unpacking",
    "convert": "converting",
    "compile": "compiling",
    "ready": "ready",
}


class PartProgress:
    """An `assistant.parts.Progress`, and the context that shows it. A part that was ready before shows nothing."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, str] = {}

    def __enter__(self) -> "PartProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, name: str, stage: str, done: int, total: int | None) -> None:
        if stage == "ready" and name not in self._stages:
            return
        text = f"{name}: {STAGES.get(stage, stage)}"
        if self._stages.get(name) != stage:
            self._stages[name] = stage
            if not self._console.is_terminal:
                click.echo(text, err=True)
            if name in self._tasks:  # a new bar for each stage: a bar cannot go from a known total to an unknown one
                self._bars.remove_task(self._tasks[name])
            self._tasks[name] = self._bars.add_task(text, total=total)
            self._bars.start()  # not before there is something to show; a second start does nothing
        self._bars.update(self._tasks[name], completed=done)
