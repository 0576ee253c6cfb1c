"""Name what a photograph shows: accuracy, beside the same run with swapped pictures and with closed gates."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from assistant import Assistant
from assistant.model.gated_cross_attention import GatedCrossAttentionBlock
from training.data.build import build

QUESTION = "What is in the picture?"
Control = Literal["right", "swapped", "zero_gates"]
CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class Item:
    """A photograph and what counts as its name."""

    id: str
    file: Path
    noun: str
    accept: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """One answer."""

    id: str
    noun: str
    shown: str
    answer: str
    right: bool


def load_items(which: str, report: Callable[[str, int, int], None] | None = None) -> list[Item]:
    """The photographs of the ``"dev"`` or ``"test"`` set, fetched if need be."""
    folder = build("naming", report) / which
    with (folder / "index.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Item(row["id"], folder / row["file"], row["noun"], tuple(row["accept"])) for row in rows]


def is_right(answer: str, accept: Sequence[str]) -> bool:
    """Whether an accepted noun stands in the answer before its first comma or "and"."""
    head = re.split(r",|\band\b", answer, maxsplit=1, flags=re.IGNORECASE)[0]
    return any(re.search(rf"\b{re.escape(noun)}(?:s|es)?\b", head, re.IGNORECASE) for noun in accept)


def swapped(items: Sequence[Item]) -> list[Item]:
    """For every item another one, half the list further on or the next after that which shares no accepted noun."""
    count = len(items)
    partners = []
    for i, item in enumerate(items):
        others = (items[(i + count // 2 + step) % count] for step in range(count))
        partners.append(next(o for o in others if not set(o.accept) & set(item.accept)))
    return partners


@contextlib.contextmanager
def zero_gates(model: torch.nn.Module) -> Iterator[None]:
    """Close all gates for a while: the language model runs bare."""
    blocks = [m for m in model.modules() if isinstance(m, GatedCrossAttentionBlock)]
    gates = [gate for block in blocks for gate in (block.attention_gate, block.feed_forward_gate)]
    before = [gate.detach().clone() for gate in gates]
    try:
        with torch.no_grad():
            for gate in gates:
                gate.zero_()
        yield
    finally:
        with torch.no_grad():
            for gate, value in zip(gates, before, strict=True):
                gate.copy_(value)


def name_pictures(
    assistant: Assistant,
    items: Sequence[Item],
    control: Control = "right",
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Ask about every photograph, greedily.

    Args:
        control: ``"right"``; ``"swapped"`` shows the picture of another item; ``"zero_gates"`` closes the gates.
    """
    shown = swapped(items) if control == "swapped" else items
    closed = zero_gates(assistant.model) if control == "zero_gates" else contextlib.nullcontext()
    results = []
    with closed:
        for i, (item, other) in enumerate(zip(items, shown, strict=True)):
            answer = assistant.ask(QUESTION, [other.file], max_new_tokens=24).text
            results.append(Result(item.id, item.noun, other.id, answer, is_right(answer, item.accept)))
            if progress:
                progress(i + 1, len(items))
    return results


def wilson_interval(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share by Wilson's score method (JASA 22, 1927), which is fair for few items and rare hits."""
    share, spread = right / of, z * z / of
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def report(results: dict[Control, list[Result]], which: str, model: str) -> dict[str, Any]:
    """Accuracy of every control with its 95 % interval, and all answers, ready for JSON."""
    accuracy = {}
    for control, rows in results.items():
        right, of = sum(r.right for r in rows), len(rows)
        low, high = wilson_interval(right, of)
        accuracy[control] = {"right": right, "of": of, "share": right / of, "interval": [round(low, 3), round(high, 3)]}
    answers = {control: [asdict(r) for r in rows] for control, rows in results.items()}
    return {"task": "naming", "set": which, "model": model, "accuracy": accuracy, "answers": answers}
