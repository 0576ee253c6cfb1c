"""An answer in the making: what was said so far, how long it took, and why it ends."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event as Flag

import torch
from torch import Tensor

from .decoding import Chooser, Writer
from .prompt import Prompt


class Clock:
    """Seconds since a question was asked."""

    def __init__(self, limit: float | None, started: float) -> None:
        self.limit, self.started = limit, started
        self.first: float | None = None

    @property
    def now(self) -> float:
        return time.monotonic() - self.started

    @property
    def over(self) -> bool:
        return self.limit is not None and self.now > self.limit

    def tick(self) -> None:
        """A token came."""
        if self.first is None:
            self.first = self.now


def ending(ended: bool, cancel: Flag | None, clock: Clock, full: bool) -> str:
    """Why an answer ends here, or ""."""
    if ended:
        return "stop"
    if cancel is not None and cancel.is_set():
        return "cancelled"
    if clock.over:
        return "time"
    return "length" if full else ""


@dataclass
class Row:
    """One prompt of a batch."""

    prompt: Prompt
    most: int  # tokens of its answer
    writer: Writer
    chooser: Chooser
    ids: Tensor  # [1, T]
    said: list[int] = field(default_factory=list)
    reason: str = ""

    def choose(self, logits: Tensor) -> Tensor:
        """logits [1, V] -> [1]."""
        token = self.chooser(self.ids, logits)
        self.ids = torch.cat((self.ids, token[:, None]), dim=1)
        return token

    def push(self, token: int, ends: Sequence[int], clock: Clock) -> None:
        """Take a token, unless the answer has ended."""
        if self.reason:
            return
        self.said.append(token)
        if token not in ends:
            self.writer.push(token)
        self.reason = ending(token in ends or self.writer.stopped, None, clock, len(self.said) == self.most)
        if self.reason:
            self.writer.end()
