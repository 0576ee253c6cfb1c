"""What a conversation is: turns that branch, a system prompt and examples."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Literal

from prompts import Message

from .events import Usage
from .images import Picture

Feedback = Literal["up", "down"]


@dataclass(frozen=True)
class Demo:
    """A few-shot example: with or without a picture, and left out of the prompt while it is switched off."""

    picture: Picture | None
    question: str
    answer: str
    enabled: bool = True


def new_id() -> str:
    """An id that nothing else has: 32 hexadecimal digits."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Turn:
    """What one side said.

    Attributes:
        parent: id of the turn that it answers or follows; ``None`` for a first one.
        message: of the user or the assistant; its pictures are :class:`Picture`.
        created: seconds since 1970.
        finish_reason: of an answer, see :class:`Answer`, or ``"error"`` where the model failed in the middle of it;
            ``None`` while it is not finished, and for the user.
        usage, seconds, model: of an answer.
        feedback: a person's thumb.
    """

    message: Message
    parent: str | None = None
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    finish_reason: str | None = None
    usage: Usage | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    model: str | None = None
    feedback: Feedback | None = None


@dataclass
class Conversation:
    """Turns that branch: an edited question and another answer stand beside the old one.

    Attributes:
        turns: by id, in the order of their creation.
        head: id of the last turn that is shown; ``None`` where there is none.
    """

    id: str = field(default_factory=new_id)
    title: str = ""
    created: float = field(default_factory=time.time)
    changed: float = field(default_factory=time.time)
    system: str | None = None
    demos: tuple[Demo, ...] = ()
    turns: dict[str, Turn] = field(default_factory=dict)
    head: str | None = None

    def path(self) -> list[Turn]:
        """The turns that are shown, from the first one to ``head``."""
        return self.branch(self.head)

    def branch(self, turn_id: str | None) -> list[Turn]:
        """The turns that lead to a turn, from the first one to this one; none lead to ``None``."""
        turns: list[Turn] = []
        while turn_id is not None:
            turns.append(self.turns[turn_id])
            turn_id = self.turns[turn_id].parent
        return turns[::-1]

    def siblings(self, turn_id: str) -> list[Turn]:
        """A turn and what stands in its place in other branches, the oldest first."""
        parent = self.turns[turn_id].parent
        return [turn for turn in list(self.turns.values()) if turn.parent == parent]  # a copy: an answer may be added

    def newest_leaf(self, turn_id: str) -> str:
        """The turn that was made last among a turn and all that follows it."""
        below = {turn_id}
        for turn in list(self.turns.values()):  # in order, so that what follows a turn comes after it
            if turn.parent in below:
                below.add(turn.id)
                turn_id = turn.id
        return turn_id
