"""Every task of the ruler in one go, with controls where they tell something.

Prints a line for each task, number of shots, control and kind; ``benchmarks/results/ruler-SET.json`` gets them too.
Answers, plots and galleries of every task are kept in ``--out``; a run that was cut off goes on there.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant import Assistant
from training.commands.evaluate import save
from training.commands.progress import bars
from training.eval.items import Example
from training.eval.question_only import question_only
from training.eval.report import ALL
from training.eval.run import Settings, evaluate, spread
from training.eval.sources import load_items
from training.eval.sources.easyvqa import training_questions
from training.eval.task import Task, load_task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A task with what of it is run; ``None`` is the task's own setting."""

    task: str
    shots: tuple[int, ...] | None = None
    limit: int | None = None
    select: str | None = None
    controls: tuple[str, ...] | None = None


ENTRIES = (
    Entry("naming"),
    Entry("scenes"),
    Entry("followups"),
    Entry("easyvqa", (0,), 1500),
    Entry("binding", (0, 4, 8, 16), 200, controls=()),
    Entry("binding", (2,), 200, controls=("no_image", "swapped", "shuffled_labels")),
    Entry("binding5", (4,), 200, controls=("shuffled_labels",)),
    Entry("categories", (0, 4), controls=()),
    Entry("categories", (2,), controls=("shuffled_labels",)),
    Entry("categories_total", (4, 6), select="random", controls=()),
    Entry("categories_total", (4, 6), select="similar", controls=()),
    Entry("rule", (0,), 200, controls=()),
    Entry("rule", (4,), 200, controls=("shuffled_labels",)),
    Entry("format", (0, 2), 200, controls=()),
    Entry("interleaved"),
    Entry("interleaved_photographs"),
    Entry("interleaved_binding", (2,), 200, controls=("swapped",)),
)
"""No number of shots of a task stands twice; limits keep the prompts with many pictures in bounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", dest="which", choices=["dev", "test"], default="dev")
    parser.add_argument("--model", default="default")
    parser.add_argument("--tasks", help="only these, with commas between them")
    parser.add_argument("--limit", type=int, help="at most so many items of each task")
    parser.add_argument("--out", type=Path, help="default: runs/ruler-SET")
    arguments = parser.parse_args()
    wanted = arguments.tasks.split(",") if arguments.tasks else [entry.task for entry in ENTRIES]
    out = arguments.out or Path(f"runs/ruler-{arguments.which}")
    assistant = Assistant.from_pretrained(arguments.model)
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(ENTRIES):
        if entry.task in wanted:
            limit = min(filter(None, (entry.limit, arguments.limit)), default=None)
            rows += measure(assistant, entry, arguments.which, limit, out / f"{number:02d}-{entry.task}")
            show(rows[-1]["task"], [row for row in rows if row["run"] == rows[-1]["run"]])
    if not arguments.tasks and not arguments.limit:
        target = HERE / "results" / f"ruler-{arguments.which}.json"
        lines = ",\n".join(json.dumps(row) for row in rows)
        target.write_text(f'{{"model": {json.dumps(arguments.model)}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def measure(assistant: Assistant, entry: Entry, which: str, limit: int | None, folder: Path) -> list[dict[str, Any]]:
    """Run one entry, and put what questions alone give beside tasks that have no examples."""
    task = load_task(entry.task)
    settings = Settings.of(task, which, shots=entry.shots, limit=limit, select=entry.select, controls=entry.controls)
    with bars() as progress:
        items = load_items(task.source, which, task.seed, task.source_args, progress)
        report = evaluate(assistant, task, items, settings, folder=folder, progress=progress)
        asked = spread(items, limit)
        blind = without_looking(task, [item.query for item in asked], progress)
    save(report, asked, folder)
    return [
        {
            "task": task.name,
            "run": folder.name,
            "select": settings.select,
            "question_only": blind.get(row["kind"]) if row["control"] == "none" else None,
            **row,
        }
        for row in report.to_tree()["accuracy"]
    ]


def without_looking(task: Task, asked: list[Example], progress: Any) -> dict[str, float]:
    """Accuracy by kind of the best answers that never look, learned from easy-VQA's training split or from dev.

    For dev itself that is more than anybody could get, for it has seen the answers.
    """
    if task.name == "easyvqa":
        learnt = training_questions(progress)[1]
    elif task.name == "scenes":
        learnt = [item.query for item in load_items(task.source, "dev", task.seed, task.source_args, progress)]
    else:
        return {}
    blind = question_only(learnt, asked)
    return {ALL: round(blind.question_only, 4)} | {kind: round(share, 4) for kind, share in blind.by_kind.items()}


def show(task: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        low, high = row["interval"]
        line = f"{task} {row['select']} {row['shots']} shots {row['control']} {row['kind']}: "
        line += f"{row['right']} of {row['asked']}, {100 * row['accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f}), "
        line += f"chance {100 * row['chance']:.1f} %"
        if row["question_only"] is not None:
            line += f", questions alone {100 * row['question_only']:.1f} %"
        print(line, flush=True)


if __name__ == "__main__":
    main()
