"""What a chat needs of a model."""

from collections.abc import Iterator, Sequence
from threading import Event as Flag
from typing import Protocol

from prompts import Message

from .events import Event
from .options import Options


class ChatModel(Protocol):
    """What answers a conversation: an :class:`Engine`, or a :class:`ScriptedModel` in tests.

    Pictures in messages are :class:`Picture`.
    """

    @property
    def name(self) -> str:
        """That its answers carry."""

    @property
    def context(self) -> int | None:
        """Most tokens that it reads and writes, if it has such a limit."""

    def count(self, messages: Sequence[Message]) -> int:
        """How many tokens a conversation has that waits for an answer."""

    def reply(
        self,
        messages: Sequence[Message],
        options: Options | None = None,
        cancel: Flag | None = None,
        since: float | None = None,
    ) -> Iterator[Event]:
        """Answer the last message.

        Args:
            options: greedy, 64 tokens at most, unless they say otherwise.
            cancel: once set, ends the answer after the token at hand.
            since: when the question was asked, by ``time.monotonic``; by default now.

        Yields:
            ``Started``, then ``Token`` pieces, then ``Finished``.

        Raises:
            AssistantError: it cannot answer; also in the middle of an answer.
        """
