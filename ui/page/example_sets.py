"""Sets of few-shot examples as files: a folder with ``examples.jsonl`` and its pictures, or pictures alone.

A line is an object with ``question``, ``answer`` and, where there is a picture, ``image``: the name of a file that lies
beside the ``.jsonl``, or a data: address. ``enabled`` may be false.
"""

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from assistant.conversation import Demo
from assistant.errors import InputError
from assistant.home import home
from assistant.images import Picture, load_picture

LINES = "examples.jsonl"
MOST = 1000  # examples of a set
QUESTION = "What is in the picture?"
_PICTURES = {f".{ending}" for ending in "png jpg jpeg gif webp avif bmp tif tiff jp2 ico ppm qoi heic heif".split()}


def read_set(files: Mapping[str, bytes]) -> list[Demo]:
    """The examples in files, by their relative names.

    Without a ``.jsonl``, each picture is an example, whose answer is the name of its folder, or else its own.

    Raises:
        ImageError: a picture cannot be read.
        InputError: a line is no example, its picture is not there, or there is nothing.
    """
    tables = sorted(name for name in files if name.lower().endswith(".jsonl"))
    demos = [demo for name in tables for demo in _read_lines(name, files)] if tables else _from_pictures(files)
    if not demos:
        raise InputError("there are no examples: give a .jsonl with its pictures, or pictures")
    if len(demos) > MOST:
        raise InputError(f"these are {len(demos)} examples and a set has {MOST} at most; give fewer")
    return demos


def _from_pictures(files: Mapping[str, bytes]) -> list[Demo]:
    pictures = sorted(name for name in files if PurePosixPath(name).suffix.lower() in _PICTURES)
    deepest = max((len(PurePosixPath(name).parts) for name in pictures), default=0)
    folders = {PurePosixPath(name).parent for name in pictures}
    labelled = deepest > 1 and len(folders) > 1  # pictures of one folder are named by themselves
    demos = []
    for name in pictures:
        path = PurePosixPath(name)
        answer = path.parent.name if labelled else path.stem
        demos.append(Demo(load_picture(files[name], name=name), QUESTION, re.sub(r"[_-]+", " ", answer).strip()))
    return demos


def _read_lines(name: str, files: Mapping[str, bytes]) -> list[Demo]:
    try:
        lines = files[name].decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    demos = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            demos.append(_read_line(f"{name}, line {number}", line, PurePosixPath(name).parent, files))
    return demos


def _read_line(where: str, line: str, folder: PurePosixPath, files: Mapping[str, bytes]) -> Demo:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is no JSON: {error}; write one object a line") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "answer")):
        raise InputError(f'{where}: needs texts for "question" and "answer", got {line[:80]}')
    image = row.get("image")
    if not isinstance(image, str | None):
        raise InputError(f'{where}: "image" is the name of a file or a data: address, got {image!r:.80}')
    picture = None if image is None else _find(where, image, folder, files)
    return Demo(picture, row["question"], row["answer"], row.get("enabled") is not False)


def _find(where: str, image: str, folder: PurePosixPath, files: Mapping[str, bytes]) -> Picture:
    if image.startswith("data:"):
        return load_picture(image, name=f"{where}: picture")
    by_last = {PurePosixPath(name).name: data for name, data in files.items()}
    data = files.get(str(folder / image), files.get(image, by_last.get(PurePosixPath(image).name)))
    if data is None:
        raise InputError(f"{where}: there is no file {image!r} beside it; add it to the upload")
    return load_picture(data, name=PurePosixPath(image).name)


# Named sets


def sets_folder() -> Path:
    """Where named sets lie, one folder each."""
    return home() / "examples"


def list_sets() -> list[str]:
    """The names, sorted."""
    return sorted(path.parent.name for path in sets_folder().glob(f"*/{LINES}"))


def save_set(name: str, demos: list[Demo]) -> str:
    """Write a named set, in place of an older one of that name.

    Returns:
        The name as it is kept.

    Raises:
        InputError: nothing of the name can name a folder, or there is no example.
    """
    kept = re.sub(r"[^\w -]+", "-", name).strip(" -")[:60]
    if not kept:
        raise InputError("a set needs a name with letters or digits in it")
    if not demos:
        raise InputError("there are no examples to save")
    made = sets_folder() / f".{uuid.uuid4().hex}"
    made.mkdir(parents=True)
    lines = []
    for demo in demos:
        row: dict[str, object] = {"question": demo.question, "answer": demo.answer, "enabled": demo.enabled}
        if demo.picture is not None:
            row["image"] = f"{demo.picture.digest.hex()}.png"
            demo.picture.image.save(made / str(row["image"]))
        lines.append(json.dumps(row, ensure_ascii=False))
    (made / LINES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(sets_folder() / kept, ignore_errors=True)
    made.rename(sets_folder() / kept)
    return kept


def load_set(name: str) -> list[Demo]:
    """A named set; errors as in :func:`read_set`."""
    folder = sets_folder() / name
    return read_set({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
