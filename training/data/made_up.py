"""Names that mean nothing, for things that an example names."""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

CONSONANTS = "bdfghjklmnprstvwyz"
_VOWELS = "aeiou"
_ENDINGS = ("", "", "", "k", "l", "m", "n", "p", "t", "x")
_LIST = Path(__file__).with_name("made_up_names.txt")


@cache
def evaluation_names(which: Literal["dev", "test"]) -> tuple[str, ...]:
    """The names that the examples of an evaluation set give; no training example may hold one of them.

    The list was drawn with the syllables of `made_up_name`; none is in a large dictionary of American English, and none
    is a single token of the default language model.
    """
    names: dict[str, list[str]] = {}
    for line in _LIST.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            key, _, words = line.partition(":")
            names.setdefault(key, []).extend(words.split())
    return tuple(names[which])


def made_up_name(rng: np.random.Generator) -> str:
    """A name to train with: two or three syllables, and none of the names that evaluation uses."""
    while True:
        name = _syllables(rng)
        if name not in evaluation_names("dev") and name not in evaluation_names("test"):
            return name


def different_names(names: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    """So many of the names, drawn at random, no two with the same first letter."""
    chosen: dict[str, str] = {}
    for i in rng.permutation(len(names)):
        chosen.setdefault(names[i][0], names[i])
        if len(chosen) == count:
            return list(chosen.values())
    raise ValueError(f"{len(names)} names have {len(chosen)} first letters, and {count} were asked for")


def _syllables(rng: np.random.Generator) -> str:
    letters = [CONSONANTS, _VOWELS] * int(rng.integers(2, 4))
    return "".join(str(rng.choice([*some])) for some in letters) + str(rng.choice(_ENDINGS))
