"""Pictures that are drawn once and kept, with one row of truth each."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from assistant.errors import FetchError
from assistant.home import home


def drawn_once(
    name: str, source: Path, code: Iterable[ModuleType], draw: Callable[[Path], Iterable[dict[str, Any]]]
) -> tuple[Path, list[dict[str, Any]]]:
    """The folder ``home()/data/NAME`` and its rows; drawn when it is not there, or was made from something else.

    Args:
        name: of the folder.
        source: the built data set that the pictures are drawn from.
        code: modules that decide what the pictures and rows are.
        draw: puts pictures into a folder and gives the rows, which are ready for JSON.

    Raises:
        FetchError: the disk is full.
    """
    folder = home() / "data" / name
    texts = [Path(str(module.__file__)).read_bytes() for module in code]
    made_from = hashlib.sha256(b"\0".join([(source / "fingerprint").read_bytes(), *texts])).hexdigest()
    stamp, index = folder / "fingerprint", folder / "index.jsonl"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (stamp.is_file() and stamp.read_text("utf-8") == made_from):
                work = folder.with_name(f".{name}")
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                rows = "".join(json.dumps(row) + "\n" for row in draw(work))
                (work / index.name).write_text(rows, "utf-8")
                (work / stamp.name).write_text(made_from, "utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(work, folder)
    except OSError as error:
        raise FetchError(f"cannot write pictures under {folder} ({error}); free some space") from error
    return folder, [json.loads(line) for line in index.read_text("utf-8").splitlines()]
