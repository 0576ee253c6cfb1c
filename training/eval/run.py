"""Run a task: every item, at every number of shots, with its controls beside it."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant import Assistant
from assistant.errors import InputError
from prompts import Message
from training.eval.answering import Pictures, Similarity, answer, prompt
from training.eval.controls import shuffled_labels, swapped, without_pictures, zero_gates
from training.eval.items import Example, Item
from training.eval.metrics import METRICS
from training.eval.report import Prediction, Report, accuracy
from training.eval.run_folder import Predictions, describe, portable
from training.eval.selection import choose, stable_rng
from training.eval.task import Control, Select, Task

Progress = Callable[..., None]


@dataclass(frozen=True)
class Settings:
    """What a run asks, beside its task.

    Attributes:
        set: ``"dev"`` or ``"test"``.
        shots: numbers of demonstrations.
        select: how they are chosen.
        controls: what runs beside the task.
        seeds: draws of demonstrations that are averaged; without demonstrations there is only one.
        limit: at most so many items, drawn from the set.
        batch_size: prompts that are answered at once.
    """

    set: str
    shots: tuple[int, ...]
    select: Select
    controls: tuple[Control, ...] = ()
    seeds: int = 1
    limit: int | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("limit", self.limit), ("batch size", self.batch_size)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not self.shots or min(self.shots) < 0 or len(set(self.shots)) < len(self.shots):
            raise InputError(f"shots must be different numbers, 0 or more, got {', '.join(map(str, self.shots))}")

    @classmethod
    def of(cls, task: Task, which: str, **changes: Any) -> "Settings":
        """Those of the task; ``changes`` that are ``None`` change nothing."""
        usual = cls(which, tuple(task.shots), task.select, tuple(task.controls))
        return replace(usual, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Probe:
    """One prompt of a run: an item as it is shown."""

    query: Example
    demos: tuple[Example, ...]
    shots: int
    seed: int
    control: str


def evaluate(
    assistant: Assistant,
    task: Task,
    items: Sequence[Item],
    settings: Settings,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Ask everything and score the answers.

    Args:
        assistant: its model in evaluation mode.
        items: of the task's source, for the set that ``settings`` names.
        folder: predictions are written there batch by batch, and a run that was cut off goes on; ``None`` writes
            nothing.
        progress: called as ``progress(what, done, total)``.

    Raises:
        InputError: the folder holds another run, or there are fewer examples than shots.
        ImageError: a picture cannot be read.
        PromptError: a prompt is longer than the model's context.
    """
    started = time.monotonic()
    items = spread(items, settings.limit)
    about = describe(assistant, task, settings, items)
    store = Predictions(folder, about)
    report = progress or (lambda *_: None)

    def look(examples: Iterable[Example]) -> Pictures:
        files = {file for example in examples for file in example.pictures}
        return Pictures(assistant, files, lambda done, total: report("pictures", done, total))

    if settings.select == "similar" and max(settings.shots):
        seen = look(example for item in items for example in (item.query, *item.pool))
        groups = plan(task, items, settings, Similarity(seen))
    else:
        groups = plan(task, items, settings)
        seen = look(example for group in groups for probe in group for example in (probe.query, *probe.demos))
    for group in groups:
        control = group[0].control
        what = task.name if control == "none" else f"{task.name}, {control}"
        of_control = [len(g) for g in groups if g[0].control == control]
        if store.take(group):
            report(what, store.count(control), sum(of_control))
            continue
        with zero_gates(assistant.model) if control == "zero_gates" else contextlib.nullcontext():
            for batch in _batches(assistant, task, group, settings.batch_size):
                if not store.take([probe for probe, _, _ in batch]):
                    texts = answer(assistant, [(ids, said) for _, ids, said in batch], seen, task.max_new_tokens)
                    store.add([_scored(task, probe, text) for (probe, _, _), text in zip(batch, texts, strict=True)])
                report(what, store.count(control), sum(of_control))
    return Report(about, accuracy(store.rows, items), store.rows, round(time.monotonic() - started, 1))


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most ``limit`` items, drawn once for all: neighbours are often of one kind, and kinds often take turns."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = stable_rng("limit", len(items)).permutation(len(items))[:limit]
    return [items[i] for i in sorted(drawn)]


def plan(
    task: Task, items: Sequence[Item], settings: Settings, similarity: Similarity | None = None
) -> list[list[Probe]]:
    """Everything that will be asked: a list of probes for each control and number of shots.

    One seed says all without demonstrations, and with the most similar ones. Items for which a control makes no sense
    are left out of it.

    Raises:
        InputError: an item has fewer examples than shots.
    """
    per_answer = task.shots_mean == "per_answer"
    plain = []
    for shots in settings.shots:
        seeds = 1 if shots == 0 or settings.select == "similar" else settings.seeds
        for seed, item in itertools.product(range(seeds), items):
            rng = stable_rng(task.name, item.query.id, shots, seed)
            demos = choose(item, shots, settings.select, per_answer, rng, similarity)
            plain.append(Probe(item.query, tuple(demos), shots, seed, "none"))
    queries = [item.query for item in items]
    partners = dict(zip((query.id for query in queries), swapped(queries), strict=True))
    probes = [
        probe
        for control in ("none", *settings.controls)
        for one in plain
        if (probe := _controlled(one, control, partners[one.query.id], task.name))
    ]
    return [list(group) for _, group in itertools.groupby(probes, lambda probe: (probe.control, probe.shots))]


def _controlled(probe: Probe, control: str, partner: Example | None, task: str) -> Probe | None:
    """The probe under a control, or ``None`` where that control makes no sense for it."""
    query, demos = probe.query, probe.demos
    if control == "no_image":
        if not query.pictures:
            return None
        query = without_pictures(query)
    elif control == "swapped":
        if partner is None:
            return None
        query = replace(query, pictures=partner.pictures)
    elif control == "shuffled_labels":
        if len(demos) < 2:
            return None
        demos = tuple(shuffled_labels(demos, stable_rng(task, query.id, probe.shots, probe.seed, control)))
    return replace(probe, query=query, demos=demos, control=control)


def _batches(
    assistant: Assistant, task: Task, probes: Sequence[Probe], size: int
) -> Iterator[list[tuple[Probe, list[int], list[Message]]]]:
    """Probes with their tokens and messages, those of similar length together, in an order that never changes."""
    said = [prompt(probe.query, probe.demos, task.system) for probe in probes]
    rows = [(probe, assistant.engine.tokens(messages), messages) for probe, messages in zip(probes, said, strict=True)]
    rows.sort(key=lambda row: (len(row[1]), row[0].query.id, row[0].seed))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _scored(task: Task, probe: Probe, text: str) -> Prediction:
    asked = probe.query
    return Prediction(
        id=asked.id,
        kind=asked.kind,
        shots=probe.shots,
        seed=probe.seed,
        control=probe.control,
        question=asked.question,
        answer=asked.answer,
        prediction=text,
        right=METRICS[task.metric](text, asked),
        demos=[demo.id for demo in probe.demos],
        pictures=[portable(file) for file in asked.pictures],
    )
