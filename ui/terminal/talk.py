"""A chat in the terminal: reads a line, does what it says, until there are no more."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.chat import ChatSession
from assistant.chat_model import ChatModel
from assistant.conversation import Conversation, Turn
from assistant.errors import AssistantError, InputError
from assistant.events import Event
from assistant.images import Picture, load_pictures
from prompts import with_markers
from ui.options import utf8

from .lines import Lines
from .screen import UNTITLED, Screen, counted, first_line, stopped_by_ctrl_c, written
from .slash import COMMANDS
from .typed import typed_pictures

if TYPE_CHECKING:
    from assistant.store import ConversationStore, Summary

__all__ = ["Talk"]


class Talk:
    """One person, one session at a time.

    Args:
        session: that goes on.
        lines: what is typed.
        screen: what is seen.
        load: a model by its name; raises AssistantError.
        store: of the session, and of those that follow it; ``None`` keeps none.
        interactive: whether somebody is there: ctrl-c stops an answer, and what is undone can be typed again.

    Attributes:
        pictures: that go with the next message.
        draft: that stands in the next line.
        listed: conversations, by the numbers that they were shown with.
        saved: files that this chat wrote.
        over: ends the chat behind the line at hand.
    """

    def __init__(
        self,
        session: ChatSession,
        lines: Lines,
        screen: Screen,
        *,
        load: Callable[[str], ChatModel],
        store: "ConversationStore | None" = None,
        interactive: bool = False,
    ) -> None:
        self.session, self.lines, self.screen = session, lines, screen
        self.load, self.store, self.interactive = load, store, interactive
        self.pictures: list[Picture] = []
        self.draft = ""
        self.listed: list[Summary] = []
        self.saved: set[Path] = set()
        self.over = False

    def run(self) -> int:
        """Talk until there are no more lines; gives the exit code of the first error, which was shown."""
        while not self.over:
            draft, self.draft = self.draft, ""
            try:
                line = self.lines.read(self._mark(), draft)
                if line is None:
                    break
                self.do(line)
            except AssistantError as error:
                self.screen.error(str(error), error.exit_code)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.screen.note("(stopped)")
        return self.screen.exit_code

    def do(self, line: str) -> None:
        """Do what a line says: a command, pictures to attach, or something to send.

        Raises:
            AssistantError: it cannot be done.
        """
        word, *rest = utf8(line, "line").split(maxsplit=1) or [""]
        name = word[1:].lower() if word.startswith("/") else ""
        if name in COMMANDS:
            COMMANDS[name].run(self, "".join(rest).strip())
        elif sources := typed_pictures(line):
            self.attach(sources)
        elif "/" in name:
            raise InputError(f"{first_line(line)}: there is no such picture file; a message does not begin with /")
        elif name:
            near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
            hint = f"did you mean /{near[0]}?" if near else "/help lists them"
            raise InputError(f"there is no command {first_line(word)}; {hint}")
        elif word:
            self.ask(self.session.send(line, self.pictures))

    def attach(self, sources: Iterable[str]) -> None:
        """Pictures go with the next message.

        Raises:
            ImageError: one cannot be read; none is attached.
        """
        for picture in load_pictures(sources):
            self.add(picture)
        self.screen.note("attached to the next message")

    def add(self, picture: Picture) -> None:
        """A picture goes with the next message."""
        self.pictures.append(picture)
        self.screen.picture(f"[img{len(self.pictures)}]", picture)

    def ask(self, events: Iterator[Event]) -> None:
        """Show the answer to a question, which takes the pictures that wait; they stay where it cannot be asked."""
        known = len(self.session.conversation.turns)
        try:
            self.show(events)
        finally:
            if len(self.session.conversation.turns) != known:
                self.pictures = []

    def show(self, events: Iterator[Event]) -> None:
        """Show an answer as it comes."""
        with stopped_by_ctrl_c(self.session.stop) if self.interactive else nullcontext():
            self.screen.answer(events)

    def go_on(self, conversation: Conversation) -> None:
        """Go on with another conversation, and with the model at hand."""
        self.session = ChatSession(self.session.model, conversation, store=self.store, options=self.session.options)

    def recall(self) -> None:
        """Tell which conversation goes on, and what was said last."""
        turns = self.session.turns
        self.screen.note(f"{counted(len(turns), 'turn')}: {first_line(self.session.conversation.title) or UNTITLED}")
        if self.interactive:
            for turn in turns[-2:]:
                self.screen.note(written(turn.message))

    def last_question(self) -> Turn:
        """The last turn of the user.

        Raises:
            InputError: there is none.
        """
        for turn in reversed(self.session.turns):
            if turn.message.role == "user":
                return turn
        raise InputError("nothing was asked yet")

    def take_back(self, turn: Turn) -> None:
        """Put a question into the next line, and its pictures with it."""
        self.draft, pictures = with_markers(turn.message), turn.message.images
        waiting, self.pictures = self.pictures, []
        for picture in (*pictures, *waiting):
            self.add(picture)

    def _mark(self) -> str:
        return f"({counted(len(self.pictures), 'picture')}) > " if self.pictures else "> "
