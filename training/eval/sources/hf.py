"""Items from a data set that the `datasets` library reads: a folder, or an id on the hub."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from assistant.errors import InputError, MissingExtraError
from assistant.home import home
from assistant.images import load_picture
from training.eval.items import Example, Item, leave_one_out, with_pool

SPLITS = {"dev": "validation", "test": "test"}


def hf(
    which: Literal["dev", "test"],
    seed: int,
    dataset: str,
    config: str | None = None,
    splits: dict[str, str] | None = None,
    pool: str | None = None,
    picture: str = "image",
    question: str | None = None,
    ask: str | None = None,
    answer: str = "answer",
    accept: str | None = None,
    choices: str | list | None = None,
    kind: str | None = None,
    progress: Callable[..., None] | None = None,
) -> list[Item]:
    """The questions of a data set. Its pictures are kept as PNG files under ``home()``.

    Args:
        dataset: a folder (also one of ``save_to_disk``) or a hub id; ``config`` is its configuration.
        splits: the split of each set; usually ``{"dev": "validation", "test": "test"}``.
        pool: the split of demonstrations; without it they are the other questions of the same split.
        picture, question, answer, accept, choices, kind: names of columns. ``accept`` and ``choices`` hold lists;
            ``choices`` may be a list itself, the same for all. Class labels become their names.
        ask: the question, where no column holds it.

    Raises:
        InputError: the data set, the split or a column is missing, or a row cannot be used.
        MissingExtraError: ``datasets`` is not installed.
    """
    if (question is None) == (ask is None):
        raise InputError("source hf: name the column of the question with question=, or the question itself with ask=")
    columns = {"picture": picture, "question": question, "answer": answer, "accept": accept, "kind": kind}
    if isinstance(choices, str):
        columns["choices"] = choices
    wanted = {field: column for field, column in columns.items() if column is not None}
    fixed = {"question": ask, "choices": None if isinstance(choices, str) else choices}

    def examples(split: str) -> list[Example]:
        table = _table(dataset, config, split)
        for field, column in wanted.items():
            if column not in table.column_names:
                there = ", ".join(table.column_names)
                raise InputError(f"{dataset}, {split}: there is no column {column!r} for {field}; it has {there}")
        key = json.dumps([dataset, config, split, picture, table._fingerprint])
        folder = home() / "data/hf" / hashlib.sha256(key.encode()).hexdigest()[:16]
        rows = []
        for number, row in enumerate(table):
            values = {**fixed, **{field: _plain(table.features[c], row[c]) for field, c in wanted.items()}}
            rows.append(_example(values, f"{split}-{number}", folder, f"{dataset}, {split}, row {number}"))
            if progress:
                progress(f"{split} of {dataset}", number + 1, len(table))
        return rows

    queries = examples({**SPLITS, **(splits or {})}[which])
    return with_pool(queries, examples(pool)) if pool else leave_one_out(queries)


def _table(dataset: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "train") from None
    try:
        if (Path(dataset) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(dataset)[split]
        if (Path(dataset) / "state.json").is_file():
            raise InputError(f"{dataset} holds a single split; save a DatasetDict, or name the folder above")
        return datasets.load_dataset(dataset, config, split=split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, InputError):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"data set {dataset!r}, split {split!r}, cannot be loaded: {first}") from None


def _plain(feature: Any, value: Any) -> Any:
    """The name of a class label, any other value as it is."""
    return feature.int2str(value) if hasattr(feature, "int2str") and isinstance(value, int) else value


def _example(values: dict[str, Any], id: str, folder: Path, where: str) -> Example:
    for field in ("picture", "question", "answer"):
        if values[field] is None or values[field] == "":
            raise InputError(f"{where}: {field} is empty")
    file = folder / f"{id}.png"
    if not file.is_file():
        image = load_picture(values["picture"]).image
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        image.save(part, "PNG")
        part.replace(file)
    return Example(
        id,
        (file,),
        str(values["question"]),
        str(values["answer"]),
        accept=tuple(map(str, values.get("accept") or ())),
        choices=tuple(map(str, values.get("choices") or ())),
        kind=str(values.get("kind") or ""),
    )
