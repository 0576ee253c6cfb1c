"""Objects that no training picture shows or names: what a model says about them it learned elsewhere."""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from training.data.names import singular

_LIST = Path(__file__).with_name("heldout_objects.txt")


@cache
def heldout_objects() -> dict[str, str]:
    """Every spelling of every held-out object, to the object key that it means."""
    spellings: dict[str, str] = {}
    for line in _LIST.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            key, *synonyms = (word.strip() for word in line.split(","))
            spellings |= dict.fromkeys((key, *synonyms), key)
    return spellings


def heldout_in(phrases: Iterable[str]) -> set[str]:
    """Keys of the held-out objects that any of the phrases names, in singular or plural, alone or as part of a name.

    Args:
        phrases: names, aliases, object keys or tags.
    """
    return {
        key
        for phrase in phrases
        for spelling, key in heldout_objects().items()
        if f" {_plain(spelling)} " in f" {_plain(phrase)} "
    }


def heldout_part(key: str) -> Literal["dev", "test"]:
    """Which evaluation set an object is for, by its key alone: about half of all objects are for each."""
    return "test" if hashlib.sha256(key.encode()).digest()[0] % 2 else "dev"


@cache
def _plain(phrase: str) -> str:
    """Words in the singular, hyphens as spaces: "Christmas-trees" and "christmas tree" read the same."""
    return " ".join(singular(word) for word in re.findall(r"[a-z0-9']+", phrase.lower()))
