"""An answer that is written while nobody may be looking: reruns, reloads and a second tab find it where it is."""

import logging
import threading
from collections.abc import Iterator

from assistant.errors import AssistantError
from assistant.events import Answer, Event, Failed, Finished, Notice, Started, Token

_LOG = logging.getLogger(__name__)


class Answering:
    """Reads the events of one answer on a thread of its own.

    Attributes:
        text: what has been said so far.
        notices: what a person should know.
        answer: once it is finished.
        error: why it failed, for a person.
        begun: set with the first event, or with the failure; from then on the question is in the conversation.
        accepted: whether the question became part of the conversation.
    """

    def __init__(self, events: Iterator[Event]) -> None:
        self.text = ""
        self.notices: list[str] = []
        self.answer: Answer | None = None
        self.error: str | None = None
        self.accepted = False
        self.begun = threading.Event()
        self._done = threading.Event()
        threading.Thread(target=self._read, args=(events,), name="answer", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, not longer than this; whether it came."""
        return self._done.wait(seconds)

    def _read(self, events: Iterator[Event]) -> None:
        try:
            for event in events:
                self._take(event)
        except AssistantError as error:
            self.error = str(error)
        except Exception as error:  # an edge: whatever it was, the page says it in a sentence
            _LOG.exception("an answer failed")
            self.error = f"unexpected {type(error).__name__}: {error}"
        finally:
            self.begun.set()
            self._done.set()

    def _take(self, event: Event) -> None:
        self.accepted = True  # a question that does not fit raises before any event
        match event:
            case Started():
                self.begun.set()
            case Token():
                self.text += event.text
            case Notice():
                self.notices.append(event.text)
            case Finished():
                self.answer = event.answer
            case Failed():
                self.error = event.message
