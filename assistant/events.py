"""What generating an answer tells, piece by piece."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer; ``cached_tokens`` of the prompt were computed before."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    Attributes:
        text: what was said.
        usage: tokens.
        seconds: ``load`` (of the model, once), ``first_token`` and ``total`` (both from the question on).
        model: the name it was loaded by.
        finish_reason: ``"stop"`` where it came to its end or to a stop string; ``"length"`` where ``max_new_tokens`` or
            the model's context ended it, ``"time"`` where the time limit did, ``"cancelled"`` where somebody did.
    """

    text: str
    usage: Usage
    seconds: dict[str, float]
    model: str
    finish_reason: str


@dataclass(frozen=True)
class Started:
    """The prompt is known and reading begins; ``cached_tokens`` of it were read before."""

    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Token:
    """A piece of the answer, whole characters only."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The last event of a stream."""

    answer: Answer


@dataclass(frozen=True)
class Notice:
    """What a person should know about an answer, such as that old turns were left out of its prompt."""

    text: str


@dataclass(frozen=True)
class ToolResult:
    """What a tool gave back."""

    tool: str
    text: str


@dataclass(frozen=True)
class Failed:
    """The last event of a session's stream whose answer failed; what was said until then is kept.

    Attributes:
        message: one line for a person, as that of the :class:`AssistantError`.
        exit_code: of that error.
    """

    message: str
    exit_code: int


Event = Started | Token | Finished | Notice | ToolResult | Failed


def last_answer(events: Iterable[Event]) -> Answer:
    """The answer that a stream ends with, read to its end."""
    *_, finished = events
    assert isinstance(finished, Finished)  # a stream ends so, or raises
    return finished.answer
