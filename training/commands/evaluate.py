"""`assistant eval`: measure a model, and hold two measurements against each other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from training.eval.diff import Diff
    from training.eval.items import Item
    from training.eval.report import Report
    from training.eval.task import Task


class Tasks(click.Group):
    """A group whose commands are the tasks, those that come with the package and any YAML file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from training.eval.task import task_names

        return [*task_names(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from training.eval.task import load_task

        return super().get_command(ctx, cmd_name) or _command(load_task(cmd_name))


@click.group(name="eval", cls=Tasks, subcommand_metavar="TASK [OPTIONS] | diff A B")
def evaluate() -> None:
    """Measure a model on pictures that were never trained on.

    TASK is one of those below, or a YAML file that describes another.
    """


class Shots(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not isinstance(value, str):
            return value
        try:
            shots = tuple(int(number) for number in value.split(","))
        except ValueError:
            shots = ()
        if not shots or min(shots) < 0:
            self.fail(f"{value!r} must be numbers of examples, 0 or more, as in 0,1,2,4", param, ctx)
        return tuple(dict.fromkeys(shots))


def _command(task: "Task") -> click.Command:
    """The command that runs a task."""
    from training.eval.task import Select

    def run(**options: Any) -> None:
        _run(task, **options)

    shots = ",".join(map(str, task.shots))
    meaning = "examples" if task.shots_mean == "total" else "examples of every answer"
    controls = ", ".join(task.controls) or "none"
    positive = click.IntRange(min=1)
    params: list[click.Parameter] = [
        click.Option(["--set", "which"], type=click.Choice(["dev", "test"]), default="dev", show_default=True),
        click.Option(["--shots"], type=Shots(), help=f"Numbers of {meaning} in the prompt.  [default: {shots}]"),
        click.Option(["--select"], type=click.Choice(get_args(Select)), default=task.select, show_default=True),
        click.Option(["--seeds"], type=positive, help="Draws of examples that are averaged.  [default: 1]"),
        click.Option(["--limit"], type=positive, help="Ask only so many items, spread over the set."),
        click.Option(["--model"], default="default", show_default=True),
        click.Option(["--out"], type=click.Path(file_okay=False), help="Folder of the run; one cut off goes on there."),
        click.Option(["--batch-size"], type=positive, help="Prompts answered at once.  [default: 16]"),
        click.Option(["--controls/--no-controls"], default=True, help=f"Run the controls beside it ({controls})."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report as JSON."),
    ]
    return click.Command(task.name, params=params, callback=run, help=task.about or f"Run {task.name}.")


def _run(task: "Task", which: str, model: str, out: str | None, controls: bool, as_json: bool, **changes: Any) -> None:
    from assistant import Assistant
    from training.eval.run import Settings, evaluate, spread
    from training.eval.sources import load_items

    from .progress import bars

    settings = Settings.of(task, which, controls=None if controls else (), **changes)
    folder = Path(out or f"runs/eval/{task.name}-{which}")
    with bars() as progress:
        items = load_items(task.source, which, task.seed, task.source_args, progress)
        assistant = Assistant.from_pretrained(model)
        report = evaluate(assistant, task, items, settings, folder=folder, progress=progress)
    save(report, spread(items, settings.limit), folder)
    if as_json:
        click.echo(_as_json(report))
    else:
        _print(report)
        click.echo(f"{folder}: report.json, predictions.jsonl, accuracy.png, gallery.html")


def save(report: "Report", asked: "Sequence[Item]", folder: Path) -> None:
    """Write ``report.json``, ``accuracy.png`` and ``gallery.html`` of what was asked."""
    from training.eval.gallery import save_gallery
    from training.eval.plot import save_plot

    (folder / "report.json").write_text(_as_json(report) + "\n", encoding="utf-8")
    save_plot(report, folder / "accuracy.png")
    save_gallery(report, asked, folder / "gallery.html")


def _as_json(report: "Report") -> str:
    return json.dumps(report.to_tree(), indent=2, ensure_ascii=False)


def _print(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    from training.eval.report import ALL

    def interval(ends: tuple[float, float] | None) -> str:
        return f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}" if ends else ""

    console = Console()
    table = Table("shots", "control", "right", "accuracy", "95 %", "Wilson", "chance")
    shots = sorted({row.shots for row in report.accuracy})
    by_kind: dict[tuple[str, str], dict[int, str]] = {}
    for row in report.accuracy:
        control = "" if row.control == "none" else row.control
        share = f"{100 * row.accuracy:.1f} %"
        if row.kind != ALL:
            by_kind.setdefault((row.kind, control), {})[row.shots] = share
        else:
            counts = str(row.shots), control, f"{row.right} of {row.asked}", share
            table.add_row(*counts, interval(row.interval), interval(row.wilson), f"{100 * row.chance:.1f} %")
    console.print(table)
    if by_kind:
        kinds = Table("kind", "control", *(f"{count} shots" for count in shots))
        for (kind, control), shares in sorted(by_kind.items()):
            kinds.add_row(kind, control, *(shares.get(count, "") for count in shots))
        console.print(kinds)


@evaluate.command()
@click.argument("a", type=click.Path(exists=True))
@click.argument("b", type=click.Path(exists=True))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def diff(a: str, b: str, as_json: bool) -> None:
    """Hold the run in folder B against the one in folder A, item by item."""
    from training.eval.diff import compare

    found = compare(a, b)
    if as_json:
        click.echo(json.dumps(found.to_tree(), indent=2, ensure_ascii=False))
    else:
        _print_diff(found)


def _print_diff(found: "Diff") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table("shots", "control", "items", "A", "B", "B - A", "95 % interval", title=f"{found.task}, {found.set}")
    for row in found.differences:
        low, high = row.interval
        figures = f"{100 * row.a:.1f} %", f"{100 * row.b:.1f} %", f"{100 * row.difference:+.1f}"
        control = "" if row.control == "none" else row.control
        table.add_row(str(row.shots), control, str(row.items), *figures, f"{100 * low:+.1f} to {100 * high:+.1f}")
    console.print(table)
    changes = Table("item", "shots", "wanted", "A", "B", "", title=f"{len(found.changes)} answers changed")
    for change in found.changes:
        words = (change.id, str(change.shots), change.answer, change.a, change.b)
        changes.add_row(*map(escape, words), "better" if change.better else "worse")
    if found.changes:
        console.print(changes)
