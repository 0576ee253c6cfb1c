"""How an answer is generated."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class Options:
    """How an answer is generated.

    Args:
        max_new_tokens: most tokens of the answer.
        temperature: 0 is greedy.
        top_p: smallest set of tokens whose probabilities sum to this; 1 is all.
        top_k: only the so many most probable; 0 is all.
        min_p: only tokens at least so probable, as a share of the most probable one; 0 is all.
        repetition_penalty: divides the scores of tokens that were there (CTRL, arXiv:1909.05858); 1 is none.
        beams: of beam search; 1 is none.
        stop: strings that end the answer; they are not part of it.
        seed: of sampling.
        time_limit: seconds after which the answer ends where it is.

    Raises:
        InputError: a number is out of its range, a stop string is empty, or beams are asked to sample.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    beams: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "beams", "seed"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise InputError(f"{name} must be a whole number, got {value!r}")
        ranges: dict[str, tuple[bool, str]] = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),
            "beams": (self.beams >= 1, "at least 1"),
            "seed": (self.seed is None or 0 <= self.seed < 2**32, f"from 0 to {2**32 - 1}"),
            "time_limit": (self.time_limit is None or self.time_limit > 0, "above 0 seconds"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                raise InputError(f"{name} must be {wanted}, got {getattr(self, name)}")
        if isinstance(self.stop, str) or not all(isinstance(word, str) and word for word in self.stop):
            raise InputError(f"stop must be strings with something in them, got {self.stop!r}")
        if self.beams > 1 and self.temperature > 0:
            raise InputError(
                f"{self.beams} beams look for the likeliest answer and do not sample: set temperature to 0"
            )


def make_options(given: Mapping[str, Any]) -> Options:
    """Options by name.

    Raises:
        InputError: one is not known, or its value does not fit.
    """
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(
                f"option {name!r} is not known; "
                + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
            )
    stop = given.get("stop", ())
    return Options(**{**given, "stop": stop if isinstance(stop, str) else tuple(stop)})
