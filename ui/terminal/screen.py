"""What a person sees: answers on stdout, everything else on stderr."""

import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click

from assistant.events import Answer, Event, Failed, Finished, Notice, Token
from assistant.images import Picture
from prompts import ImagePart, Message

from .inline import Protocol, drawing

__all__ = ["UNTITLED", "Screen", "counted", "described", "first_line", "printable", "stopped_by_ctrl_c", "written"]

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
UNTITLED = "(no title)"
_ENDINGS = {
    "cancelled": "stopped; what was said is kept",
    "length": "cut off at its longest: --max-new-tokens",
    "time": "cut off at the time limit",
}


class Screen:
    """Where a chat writes.

    Args:
        live: answers grow as they come, and a line about each follows; otherwise they are printed whole.
        draw: pictures, on a terminal that can.

    Attributes:
        exit_code: of the first error that was shown; 0 where there was none.
    """

    def __init__(self, live: bool, draw: Callable[[], Protocol | None] = lambda: None) -> None:
        self.live, self._draw, self.exit_code = live, draw, 0

    def tell(self, text: str) -> None:
        """What was asked for."""
        click.echo(printable(text))

    def note(self, text: str) -> None:
        """What is good to know."""
        click.secho(printable(text), dim=True, err=True)

    def error(self, error: str, exit_code: int) -> None:
        """What failed, in one line."""
        self.exit_code = self.exit_code or exit_code
        click.secho(printable("error: " + " ".join(error.split())), fg="red", err=True)

    def picture(self, label: str, picture: Picture) -> None:
        """A picture, where this terminal shows pictures, and what it is."""
        if self.live and (draw := self._draw()):
            click.echo(drawing(picture.image, draw), nl=False)
        self.note(f"{label} {described(picture)}")
        for note in picture.notes:
            self.note(f"note: {picture.name}: {note}")

    def answer(self, events: Iterable[Event]) -> None:
        """An answer, and how it ended."""
        said = ""
        try:
            for event in events:
                match event:
                    case Notice():
                        self.note(f"note: {event.text}")
                    case Token():
                        piece = event.text if said else event.text.lstrip()
                        said += piece
                        if self.live:
                            click.echo(printable(piece), nl=False)
                    case Finished():
                        said = event.answer.text
                        self._end(said)
                        self._ending(event.answer)
                    case Failed():
                        self._end(said)
                        self.error(event.message, event.exit_code)
        except KeyboardInterrupt:
            self._end(said)
            raise

    def _end(self, said: str) -> None:
        """The end of what was said, of which a terminal lacks the last line's end only."""
        if said:
            self.tell("" if self.live else said)

    def _ending(self, answer: Answer) -> None:
        if not answer.text:
            self.note("(no answer)")
        if reason := _ENDINGS.get(answer.finish_reason):
            self.note(f"({reason})")
        if self.live:
            self.note(_speed(answer))


def printable(text: str) -> str:
    """The text without what steers a terminal, and without what is no text: bytes of a file name that are no UTF-8."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def first_line(text: str, most: int = 60) -> str:
    """The start of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def described(picture: Picture) -> str:
    """A picture in words: name and size in pixels."""
    return f"{picture.name}, {picture.image.width} x {picture.image.height}"


def written(message: Message) -> str:
    """A message as text that shows where its pictures stand."""
    parts = (
        f"[picture: {described(part.image)}]" if isinstance(part, ImagePart) else part.text for part in message.parts
    )
    return f"{message.role}: {' '.join(parts)}"


def counted(count: int, what: str) -> str:
    """So many of something."""
    return f"{count} {what}{'' if count == 1 else 's'}"


@contextmanager
def stopped_by_ctrl_c(stop: Callable[[], object]) -> Iterator[None]:
    """While in here, the first ctrl-c calls `stop`; the second interrupts, as it does elsewhere."""

    def once(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _speed(answer: Answer) -> str:
    usage = answer.usage
    after_first = answer.seconds["total"] - answer.seconds["first_token"]
    speed = f", {(usage.completion_tokens - 1) / after_first:.1f} a second" if usage.completion_tokens > 1 else ""
    return (
        f"{counted(usage.completion_tokens, 'token')}{speed}, the first after {answer.seconds['first_token']:.2f} s; "
        f"prompt of {usage.prompt_tokens}, {usage.cached_tokens} cached"
    )
