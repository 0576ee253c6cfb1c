"""A chat: a conversation that grows by questions and the answers of a model."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from typing import Protocol

from prompts import Message, TextPart, assistant_message, few_shot, user_message

from .chat_model import ChatModel
from .conversation import Conversation, Demo, Feedback, Turn
from .errors import AssistantError, InputError, PromptError
from .events import Answer, Event, Failed, Finished, Notice, Token, last_answer
from .images import ImageSource, Picture, load_pictures
from .options import Options

_STORE_EVERY = 0.5  # seconds, while an answer grows
_TITLE = 60  # characters
_FILLED = 0.75  # of the room for old turns, where some leave: the next prompts then begin alike and are not read again


class Store(Protocol):
    """Where a session keeps its conversation, see :class:`ConversationStore`."""

    def save(self, conversation: Conversation) -> None:
        """Keep a conversation, new or known, with all its turns."""

    def put_turn(self, conversation_id: str, turn: Turn) -> None:
        """Keep a turn of a known conversation as it is now."""


class ChatSession:
    """A chat with a model. One answer at a time; apart from that, any thread may call any method at any time.

    What changes reaches the store before the event that tells of it.

    Args:
        model: may be set to another one between answers.
        conversation: to go on with; a new one by default.
        store: keeps the conversation; without one it is gone with the session.
        options: of the answers; may be set to others between them.
    """

    def __init__(
        self,
        model: ChatModel,
        conversation: Conversation | None = None,
        *,
        store: Store | None = None,
        options: Options | None = None,
    ) -> None:
        self.model = model
        self.conversation = conversation or Conversation()
        self.options = options or Options()
        self._store = store
        self._lock = threading.RLock()  # of the conversation, for a moment
        self._at_work = threading.Lock()  # for as long as an answer takes
        self._cancel = threading.Event()
        self._left_out = 0

    # Questions

    def send(self, text: str, images: Sequence[ImageSource | Picture] = ()) -> Iterator[Event]:
        """Ask, and read the answer as it comes.

        Nothing happens before the first event is asked for. A consumer that walks away leaves what was said until then.

        Args:
            text: ``[img1]``, ``[img2]`` in it place the pictures; otherwise they stand before it in order.
            images: paths, URLs, bytes, PIL pictures or :class:`Picture`.

        Yields:
            ``Notice`` where old turns had to be left out and others than the last time, ``Started``, ``Token`` pieces,
            and ``Finished``; or ``Failed`` where the model fails, which keeps what was said until then.

        Raises:
            ImageError: a picture cannot be read.
            PromptError: text and pictures do not fit together, or not into the model's context even without the turns
                before them. The conversation stays as it is.
            InputError: an answer is being written already.
        """
        return self._events(self._asked(text, images))

    def ask(self, text: str, images: Sequence[ImageSource | Picture] = ()) -> Answer:
        """Ask, and wait for the whole answer; arguments and errors as in :meth:`send`.

        Raises:
            AssistantError: the model failed; what was said until then is kept.
        """
        return last_answer(self._events(self._asked(text, images), raises=True))

    def regenerate(self) -> Iterator[Event]:
        """Another answer to the last question, beside the old one; events and errors as in :meth:`send`.

        Greedy options, or the same seed, make the same answer again.

        Raises:
            InputError: nothing was asked.
        """
        self._last_question()
        return self._events(self._last_question)

    def edit(self, turn_id: str, text: str, images: Sequence[ImageSource | Picture] | None = None) -> Iterator[Event]:
        """Ask something else in place of a question, whose branch stays; events and errors as in :meth:`send`.

        Args:
            images: ``None`` keeps the pictures of the old question, which markers in the text place as usual.

        Raises:
            InputError: there is no such question.
        """
        old = self._turn(turn_id, "user")
        pictures = old.message.images if images is None else load_pictures(images)
        question = Turn(user_message(text, pictures), old.parent)
        return self._events(lambda: question)

    def stop(self) -> None:
        """End the answer that is being written at its next token; what was said until then is kept."""
        self._cancel.set()

    # The conversation

    @property
    def turns(self) -> list[Turn]:
        """The turns that are shown, in order; the last one may still grow."""
        with self._lock:
            return self.conversation.path()

    @property
    def system(self) -> str | None:
        """What the model is told before everything else. Can be set; empty is ``None``."""
        return self.conversation.system

    @system.setter
    def system(self, text: str | None) -> None:
        text = text if text and text.strip() else None
        with self._lock:
            if text != self.conversation.system:
                self.conversation.system = text
                self._save()

    @property
    def demos(self) -> tuple[Demo, ...]:
        """The few-shot examples, which stand before the turns. Can be set.

        Raises:
            PromptError: one that is enabled has no answer, or markers that do not fit; the old ones stay.
        """
        return self.conversation.demos

    @demos.setter
    def demos(self, demos: Iterable[Demo]) -> None:
        demos = tuple(demos)
        _opening(None, demos)
        with self._lock:
            if demos != self.conversation.demos:
                self.conversation.demos = demos
                self._save()

    def undo(self) -> Turn:
        """Show what stood before the last question, and give that question back. Its branch stays.

        Raises:
            InputError: nothing was asked, or an answer is being written.
        """
        with self._idle(), self._lock:
            question = self._last_question()
            self._show(question.parent)
        return question

    def switch(self, turn_id: str) -> None:
        """Show the branch of a turn, down to what was said last in it.

        Raises:
            InputError: there is no such turn, or an answer is being written.
        """
        with self._idle(), self._lock:
            self._show(self.conversation.newest_leaf(self._turn(turn_id).id))

    def rate(self, turn_id: str, feedback: Feedback | None) -> None:
        """Keep what a person thinks of an answer; ``None`` takes it back.

        Raises:
            InputError: there is no such answer.
        """
        if feedback not in ("up", "down", None):
            raise InputError(f'feedback is "up", "down" or None, not {feedback!r}')
        with self._lock:
            self._put(replace(self._turn(turn_id, "assistant"), feedback=feedback))

    def prompt(self, question: Message | None = None) -> list[Message]:
        """What the model sees: the system prompt, the enabled examples and the turns that are shown.

        Args:
            question: that would be asked next, as :func:`prompts.user_message` makes it; without one, the last answer
                comes last.

        Raises:
            PromptError: it does not fit into the model's context even without old turns.
        """
        asked = [] if question is None else [question]
        with self._lock:
            messages = [*(turn.message for turn in self.conversation.path()), *asked]
            answers = len(list(takewhile(lambda message: message.role == "assistant", reversed(messages))))
            seen, _ = self._fit(messages[: len(messages) - answers])
            return [*seen, *(answer for answer in messages[len(messages) - answers :] if answer.text)]

    # How an answer comes

    def _asked(self, text: str, images: Sequence[ImageSource | Picture]) -> Callable[[], Turn]:
        """What makes the turn of a question, once it is known what it follows."""
        message = user_message(text, load_pictures(images))
        return lambda: Turn(message, self.conversation.head)

    def _events(self, question: Callable[[], Turn], raises: bool = False) -> Iterator[Event]:
        """Events of the answer to a question, which is new or a turn already; errors as in :meth:`send`.

        Args:
            raises: what the model raises, instead of telling of it.
        """
        if self._at_work.locked():
            raise InputError(_BUSY)
        self._cancel = threading.Event()  # `stop` may come before the first event is asked for
        return self._answer(question, raises, self._cancel)

    def _answer(self, question: Callable[[], Turn], raises: bool, cancel: threading.Event) -> Iterator[Event]:
        with self._idle():
            since = time.monotonic()
            with self._lock:
                asked = question()
                before = self.conversation.branch(asked.parent)
                messages, left_out = self._fit([*(turn.message for turn in before), asked.message])
                self._cancel = cancel
            try:
                if asked.id not in self.conversation.turns:
                    self._add(asked)
                told, self._left_out = self._left_out, left_out
                if left_out not in (0, told):
                    yield Notice(
                        f"left out: {_counted(left_out)}, because the model reads {self.model.context} tokens at most"
                    )
                yield from self._written(asked, messages, since)
            except AssistantError as error:
                if raises:
                    raise
                yield Failed(str(error), error.exit_code)

    def _written(self, asked: Turn, messages: list[Message], since: float) -> Iterator[Event]:
        """The model's events; what they tell is in the turn of the answer, which begins with its first token."""
        answer = Turn(assistant_message(""), asked.id, model=self.model.name)
        text, stored = "", since
        try:
            for event in self.model.reply(messages, self.options, self._cancel, since):
                match event:
                    case Token():
                        text += event.text
                        answer = replace(answer, message=assistant_message(text.strip()))
                        due = time.monotonic() - stored >= _STORE_EVERY
                        stored = time.monotonic() if due else stored
                        self._keep(answer, due)
                    case Finished():
                        answer = _finished(answer, event.answer)
                        self._keep(answer)
                yield event
        except BaseException as error:  # also where the consumer walks away, or Ctrl-C is pressed
            if answer.id in self.conversation.turns and answer.finish_reason is None:
                reason = "error" if isinstance(error, Exception) else "cancelled"
                with suppress(AssistantError):  # of the store: what went wrong first is what is told
                    self._keep(replace(answer, finish_reason=reason))
            raise

    def _fit(self, turns: Sequence[Message]) -> tuple[list[Message], int]:
        """A prompt that leaves room for its answer, and how many exchanges were left out of it, the oldest first.

        Raises:
            PromptError: not even the last exchange fits.
        """
        opening, exchanges = _opening(self.system, self.demos), _exchanges(turns)

        def without(count: int) -> list[Message]:
            return opening + _alternating(message for exchange in exchanges[count:] for message in exchange)

        if (context := self.model.context) is None:
            return without(0), 0
        room = context - self.options.max_new_tokens

        def tokens(left_out: int) -> int:
            return self.model.count(without(left_out))

        if tokens(0) <= room:
            return without(0), 0
        last = max(len(exchanges) - 1, 0)
        if 0 < self._left_out <= last and tokens(self._left_out) <= room:
            return without(self._left_out), self._left_out
        if (least := tokens(last)) <= room:
            filled = least + _FILLED * (room - least)
            left_out = bisect_left(range(last), True, lo=1, key=lambda count: tokens(count) <= filled)
            return without(left_out), left_out
        raise PromptError(
            f"the prompt has {least} tokens, its answer may take {self.options.max_new_tokens}, and the model reads "
            f"{context} in all; shorten it, leave out examples or pictures, or lower max_new_tokens"
        )

    # What is kept

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """While no answer is being written, and none begins."""
        if not self._at_work.acquire(blocking=False):
            raise InputError(_BUSY)
        try:
            yield
        finally:
            self._at_work.release()

    def _turn(self, turn_id: str, role: str | None = None) -> Turn:
        turn = self.conversation.turns.get(turn_id)
        if turn is None or role not in (None, turn.message.role):
            kind = {"user": "question", "assistant": "answer", None: "turn"}[role]
            raise InputError(f"there is no {kind} {turn_id!r} in this conversation")
        return turn

    def _last_question(self) -> Turn:
        for turn in reversed(self.conversation.path()):
            if turn.message.role == "user":
                return turn
        raise InputError("nothing was asked in this conversation; send a question first")

    def _add(self, turn: Turn) -> None:
        """Take a new turn and show it."""
        with self._lock:
            chat = self.conversation
            chat.turns[turn.id], chat.head = turn, turn.id
            if not chat.title and turn.message.role == "user":
                chat.title = _title(turn.message.text)
            self._save()

    def _keep(self, turn: Turn, stored: bool = True) -> None:
        """Take an answer as it is now, with the feedback that it has meanwhile.

        Args:
            stored: or only known until the next time; a new one always is.
        """
        with self._lock:
            if (known := self.conversation.turns.get(turn.id)) is None:
                self._add(turn)
            else:
                self._put(replace(turn, feedback=known.feedback), stored)

    def _put(self, turn: Turn, stored: bool = True) -> None:
        """Take a known turn as it is now."""
        with self._lock:
            self.conversation.turns[turn.id] = turn
            if stored and self._store is not None:
                self._store.put_turn(self.conversation.id, turn)

    def _show(self, turn_id: str | None) -> None:
        self.conversation.head, self._left_out = turn_id, 0
        self._save()

    def _save(self) -> None:
        self.conversation.changed = time.time()
        if self._store is not None:
            self._store.save(self.conversation)


_BUSY = "an answer is being written: stop it first, or wait for its end"
_ANY = user_message("?")


def _opening(system: str | None, demos: Iterable[Demo]) -> list[Message]:
    """What stands before the turns.

    Raises:
        PromptError: an enabled example has no answer, or markers that do not fit.
    """
    shown = [(demo.picture, demo.question, demo.answer) for demo in demos if demo.enabled]
    return few_shot(shown, _ANY, system=system)[:-1]


def _exchanges(messages: Iterable[Message]) -> list[list[Message]]:
    """Questions, each with the answers to it that say anything."""
    exchanges: list[list[Message]] = []
    for message in messages:
        if message.role == "user" or not exchanges:
            exchanges.append([])
        if message.role == "user" or message.text:
            exchanges[-1].append(message)
    return exchanges


def _alternating(messages: Iterable[Message]) -> list[Message]:
    """Messages whose roles alternate, as many chat templates want it: a question without an answer joins the next."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            message = Message(message.role, (*joined.pop().parts, TextPart("\n"), *message.parts))
        joined.append(message)
    return joined


def _finished(turn: Turn, answer: Answer) -> Turn:
    """The turn of an answer that has come to its end."""
    return replace(
        turn,
        message=assistant_message(answer.text),
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        seconds=dict(answer.seconds),
        model=answer.model,
    )


def _title(text: str) -> str:
    """The first line of a text, if it is not too long."""
    return text.strip().partition("\n")[0][:_TITLE].rstrip()


def _counted(questions: int) -> str:
    return "the oldest question and its answer" if questions == 1 else f"the oldest {questions} questions and answers"
