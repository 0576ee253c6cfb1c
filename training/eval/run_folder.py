"""What a run writes: its settings, and its predictions as they come, so that it can go on where it was cut off."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant import Assistant
from assistant.errors import InputError
from assistant.home import home
from assistant.model.adapter import adapter_state, fingerprint
from training.eval.items import Example, Item
from training.eval.report import Prediction
from training.eval.task import Task

if TYPE_CHECKING:
    from training.eval.run import Probe, Settings

SETTINGS, PREDICTIONS = "settings.json", "predictions.jsonl"


def describe(assistant: Assistant, task: Task, settings: "Settings", items: Sequence[Item]) -> dict[str, Any]:
    """All that predictions depend on, for JSON: task, settings, fingerprints of the model and of the items."""
    model = assistant.model
    return {
        "task": asdict(task),
        "settings": {**asdict(settings), "shots": list(settings.shots), "controls": list(settings.controls)},
        "model": {
            "name": assistant.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "adapter": _weights_hash(assistant),
            "vision": fingerprint(model.model.vision_tower),
            "language": fingerprint(model.model.language_model),
        },
        "items": _items_hash(items),
    }


def portable(file: Path) -> str:
    """A file's name that says nothing of this machine: under the home of the assistant, else the bare name."""
    return file.relative_to(home()).as_posix() if file.is_relative_to(home()) else file.name


def _weights_hash(assistant: Assistant) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(adapter_state(assistant.model).items()):
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _items_hash(items: Sequence[Item]) -> str:
    """Over texts and the contents of pictures, wherever those lie."""
    contents: dict[Path, str] = {}
    known: dict[int, bytes] = {}  # by identity: pools share their examples

    def line(example: Example) -> bytes:
        if id(example) not in known:
            for file in example.pictures:
                if file not in contents:
                    contents[file] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
            row = {**asdict(example), "pictures": [contents[file] for file in example.pictures]}
            known[id(example)] = hashlib.sha256(json.dumps(row).encode()).digest()
        return known[id(example)]

    digest = hashlib.sha256()
    for item in items:
        digest.update(b"item" + b"".join(map(line, (item.query, *item.pool))))
    return digest.hexdigest()


class Predictions:
    """The predictions of a run, in the order of its batches; on disk if it has a folder.

    Args:
        folder: made if need be; one that holds the beginning of the same run gives what it has.
        about: what :func:`describe` gives; a folder with another one is refused.

    Raises:
        InputError: the folder holds another run, or is no folder.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any]) -> None:
        self.rows: list[Prediction] = []
        self._known: list[Prediction] = []
        self._file = folder / PREDICTIONS if folder else None
        if folder is None or self._file is None:
            return
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        settings = folder / SETTINGS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if settings.is_file():
                _check_same(folder, json.loads(settings.read_text("utf-8")), json.loads(text))
            elif self._file.is_file():
                raise InputError(f"{folder} holds {PREDICTIONS} of unknown settings; give another --out")
            else:
                settings.write_text(text, "utf-8")
            if self._file.is_file():
                lines = self._file.read_text("utf-8").split("\n")[:-1]  # a line without its end was being written
                self._known = [Prediction(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{folder} cannot hold a run ({error}); give another --out, or delete it") from None

    def take(self, probes: "Collection[Probe]") -> bool:
        """Take the predictions of these probes from an earlier run, all or none.

        Raises:
            InputError: the earlier run asked something else here.
        """
        found = self._known[len(self.rows) : len(self.rows) + len(probes)]
        if len(found) < len(probes):
            return False
        asked = {(probe.query.id, probe.shots, probe.seed, probe.control) for probe in probes}
        if asked != {row.key for row in found}:
            raise InputError(f"{self._file} does not fit its settings; delete it, or give another --out")
        self.rows += found
        return True

    def add(self, rows: Sequence[Prediction]) -> None:
        """Append new predictions; what an earlier run left of this batch is replaced."""
        if self._file is not None:
            lines = [row.to_line() for row in rows]
            if len(self._known) > len(self.rows) or not self.rows:
                self._known = self.rows[:]
                self._file.write_text("".join(row.to_line() for row in self.rows), "utf-8")
            with self._file.open("a", encoding="utf-8", newline="\n") as file:
                file.write("".join(lines))
        self.rows += rows

    def count(self, control: str) -> int:
        """How many there are of a control."""
        return sum(row.control == control for row in self.rows)


def _check_same(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    if there == here:
        return
    differing = [
        f"{part}: {name}" if name else part
        for part in sorted({*there, *here})
        for name in _differing(there.get(part), here.get(part))
    ]
    raise InputError(
        f"{folder} holds a run that differs in {', '.join(differing)}; give another --out, or delete that folder"
    )


def _differing(one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [] if one == other else [""]
