"""Where lines come from: a prompt with history on a terminal, else standard input."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from assistant.errors import AssistantError, InputError

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.key_binding import KeyBindings

__all__ = ["Lines", "PipedLines", "PromptLines", "completer", "goes_on"]


class Lines(Protocol):
    """Where the lines of a chat come from."""

    def read(self, before: str = "> ", default: str = "") -> str | None:
        """The next line, or several that belong together; ``None`` where there are no more.

        Args:
            before: what stands before it on a terminal.
            default: what stands in it already, on a terminal.

        Raises:
            InputError: it is no text; the next one can be read.
        """


def goes_on(line: str) -> bool:
    """Whether a line ends in a backslash that is not itself behind one."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


class PipedLines:
    """Lines of a stream of bytes, UTF-8; one that ends in a backslash goes on in the next."""

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._stream = stream or sys.stdin.buffer

    def read(self, before: str = "> ", default: str = "") -> str | None:
        """As in :class:`Lines`."""
        whole: list[str] = []
        while raw := self._stream.readline():
            try:
                line = raw.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(f"a line on stdin is not UTF-8 text ({error.reason})") from None
            if not goes_on(line):
                return "\n".join([*whole, line])
            whole.append(line[:-1])
        return "\n".join(whole) if whole else None


class PromptLines:
    """Lines that a person types, with history and completion.

    Args:
        history: the file that keeps what was typed; ``None`` keeps it for as long as the program runs.
        commands: that are completed, without their slash.
        io: ``input`` and ``output`` of prompt_toolkit, where they are not the terminal.

    Raises:
        AssistantError: the file cannot be written.
    """

    def __init__(self, history: Path | None, commands: Sequence[str] = (), **io: Any) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        if history:
            _make(history)
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)) if history else InMemoryHistory(),
            completer=completer(commands),
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=True,  # of what is pasted, too
            prompt_continuation="  ",
            **io,
        )

    def read(self, before: str = "> ", default: str = "") -> str | None:
        """As in :class:`Lines`; ctrl-c gives a new line, ctrl-d on an empty one ends."""
        while True:
            try:
                return self._session.prompt(before, default=default)
            except KeyboardInterrupt:
                default = ""
            except EOFError:
                return None


def _make(history: Path) -> None:
    """Make a file that only its owner reads: what people say is theirs."""
    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
    except OSError as error:
        raise AssistantError(f"{history} cannot be written: {error.strerror}; --no-store keeps no history") from None


def _keys() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if goes_on(buffer.text) and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def completer(commands: Sequence[str]) -> "Completer":
    """What completes the commands behind a slash at the start, and paths behind a command or in place of one."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class CommandsAndPaths(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            text = document.text_before_cursor
            if not text.startswith("/"):
                return
            word = text.split(" ")[-1]
            if word == text:
                for command in commands:
                    if command.startswith(word[1:]):
                        yield Completion(f"/{command}", start_position=-len(word))
            yield from paths.get_completions(Document(word), complete_event)

    return CommandsAndPaths()
