"""`assistant eval`: measure a model."""

import json
from functools import partial
from pathlib import Path

import click


@click.group(name="eval")
def evaluate() -> None:
    """Measure a model on pictures that were never trained on."""


@evaluate.command()
@click.option("--set", "which", type=click.Choice(["dev", "test"]), default="dev", show_default=True)
@click.option("--model", default="default", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Write all answers to this JSON file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def naming(which: str, model: str, out: str | None, as_json: bool) -> None:
    """Name what photographs show; beside it the same run with swapped pictures and with closed gates."""
    from rich.console import Console
    from rich.table import Table

    from assistant import Assistant
    from training.eval.naming import CONTROLS, load_items, name_pictures, report

    from .progress import bars

    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    with bars() as progress:
        items = load_items(which, progress)
        assistant = Assistant.from_pretrained(model)
        results = {
            control: name_pictures(assistant, items, control, partial(progress, f"{control} pictures"))
            for control in CONTROLS
        }
    summary = report(results, which, model)
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
        return
    table = Table("photograph", "right", "answer", "answer with another picture")
    for right, other in zip(results["right"], results["swapped"], strict=True):
        table.add_row(right.noun, "yes" if right.right else "", right.answer, f"{other.answer} ({other.shown})")
    Console().print(table)
    for control, row in summary["accuracy"].items():
        low, high = (100 * share for share in row["interval"])
        click.echo(
            f"{control:10} {row['right']:3} of {row['of']}  {100 * row['share']:.1f} %  ({low:.1f} to {high:.1f})"
        )
