"""A model whose answers are written beforehand, for tests of whatever talks to a model. It needs no torch."""

import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from threading import Event as Flag

from prompts import ImagePart, Message

from .errors import InputError, PromptError
from .events import Answer, Event, Finished, Started, Token, Usage
from .options import Options


class ScriptedModel:
    """A :class:`ChatModel` without weights, which streams as an :class:`Engine` does.

    A word is a token and a picture is one. Of the options it knows ``max_new_tokens`` alone.

    Args:
        replies: in the order of the questions, or what makes the reply to a conversation.
        name: that answers carry.
        context: most tokens that it reads and writes.
        delay: seconds before each token.

    Attributes:
        prompts: what it was asked, in order.
    """

    def __init__(
        self,
        replies: Iterable[str] | Callable[[Sequence[Message]], str],
        *,
        name: str = "scripted",
        context: int | None = None,
        delay: float = 0.0,
    ) -> None:
        self.name, self.context, self.delay = name, context, delay
        self.prompts: list[list[Message]] = []
        self._reply = replies if callable(replies) else _in_order(replies)
        self._read: list[tuple[Hashable, ...]] = []  # tokens of earlier prompts and answers

    def count(self, messages: Sequence[Message]) -> int:
        """How many words and pictures the messages have."""
        return len(_tokens(messages))

    def reply(
        self,
        messages: Sequence[Message],
        options: Options | None = None,
        cancel: Flag | None = None,
        since: float | None = None,
    ) -> Iterator[Event]:
        """Answer as the script says; arguments and events as of :class:`ChatModel`.

        Raises:
            PromptError: the prompt is as long as the context.
            InputError: the script has no reply left; from the first event.
        """
        tokens = _tokens(messages)
        most = (options or Options()).max_new_tokens
        if self.context is not None:
            if len(tokens) >= self.context:
                raise PromptError(f"the prompt has {len(tokens)} tokens and the model reads {self.context}; shorten it")
            most = min(most, self.context - len(tokens))
        self.prompts.append(list(messages))
        return self._stream(messages, tokens, most, cancel, time.monotonic() if since is None else since)

    def _stream(
        self, messages: Sequence[Message], tokens: tuple[Hashable, ...], most: int, cancel: Flag | None, since: float
    ) -> Iterator[Event]:
        pieces = re.findall(r"\s*\S+|\s+$", self._reply(messages))
        cached = self._cached(tokens)
        seconds = {"load": 0.0}
        said: list[str] = []
        reason = "" if pieces else "stop"
        try:
            yield Started(len(tokens), cached)
            while not reason:
                time.sleep(self.delay)
                said.append(pieces[len(said)])
                seconds.setdefault("first_token", time.monotonic() - since)
                yield Token(said[-1])
                reason = _ending(len(said) == len(pieces), cancel, len(said) == most)
        finally:
            # As in a cache: the last token of an answer has not been read.
            self._read.append((*tokens, *(("assistant", piece.strip()) for piece in said[:-1])))
        seconds["total"] = time.monotonic() - since
        seconds.setdefault("first_token", seconds["total"])
        usage = Usage(len(tokens), len(said), cached)
        yield Finished(Answer("".join(said).strip(), usage, seconds, self.name, reason))

    def _cached(self, tokens: tuple[Hashable, ...]) -> int:
        """How many tokens a prompt shares with an earlier one; the last one is read in any case."""
        shared = (_common(tokens, known) for known in self._read)
        return max(min(max(shared, default=0), len(tokens) - 1), 0)


def _in_order(replies: Iterable[str]) -> Callable[[Sequence[Message]], str]:
    left = iter([replies] if isinstance(replies, str) else replies)

    def reply(_: Sequence[Message]) -> str:
        try:
            return next(left)
        except StopIteration:
            raise InputError("the script has no reply left; give the scripted model as many as it is asked") from None

    return reply


def _tokens(messages: Sequence[Message]) -> tuple[Hashable, ...]:
    """Words with their roles, and digests of pictures."""
    return tuple(
        token
        for message in messages
        for part in message.parts
        for token in (
            [part.image.digest] if isinstance(part, ImagePart) else [(message.role, word) for word in part.text.split()]
        )
    )


def _common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """How many tokens both start with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


def _ending(ended: bool, cancel: Flag | None, full: bool) -> str:
    """Why an answer ends here, or ""."""
    if ended:
        return "stop"
    if cancel is not None and cancel.is_set():
        return "cancelled"
    return "length" if full else ""
