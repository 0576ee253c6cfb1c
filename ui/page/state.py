"""What the page knows: once for the server, and once for each tab."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

import streamlit as st

from assistant.chat import ChatSession
from assistant.chat_model import ChatModel
from assistant.conversation import Conversation
from assistant.errors import AssistantError
from assistant.events import Event
from assistant.images import Picture
from assistant.options import Options
from assistant.store import ConversationStore
from ui.page.answering import Answering
from ui.page.texts import Texts

T = TypeVar("T")
CHAT = "chat"
"""The query parameter that holds the conversation's id, so that a reload finds it."""
COMPOSER = "composer"
"""The key of the box into which a person types."""


@dataclass
class Server:
    """What all tabs share. Tabs that show one conversation share its session, too, and see the same answer grow.

    Attributes:
        sessions: by conversation; a session lives as long as a tab or an answer holds it.
        answers: the last answer of each conversation, by its id.
    """

    store: ConversationStore
    sessions: "WeakValueDictionary[str, ChatSession]" = field(default_factory=WeakValueDictionary)
    answers: dict[str, Answering] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Page:
    """What one run of the page needs."""

    server: Server
    session: ChatSession
    say: Texts

    @property
    def id(self) -> str:
        """Of the conversation that is shown."""
        return self.session.conversation.id

    @property
    def answering(self) -> Answering | None:
        """The last answer of the conversation, if it was made since the server started."""
        return self.server.answers.get(self.id)

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self.answering is not None and not self.answering.done


@st.cache_resource(show_spinner=False)
def server() -> Server:
    """The one of this process."""
    return Server(ConversationStore())


def open_session(shared: Server, model: ChatModel, say: Texts) -> ChatSession:
    """The session of the conversation that the address names, or of a new one.

    It is held by the tab, with its model as it is chosen now.
    """
    wanted = st.query_params.get(CHAT)
    held: ChatSession | None = st.session_state.get("session")
    if held is None or (wanted and held.conversation.id != wanted):
        held = _find(shared, model, wanted, say)
        st.session_state.session = held
    if not (held.conversation.id in shared.answers and not shared.answers[held.conversation.id].done):
        held.model = model
    return held


def _find(shared: Server, model: ChatModel, wanted: str | None, say: Texts) -> ChatSession:
    with shared.lock:
        if wanted and (known := shared.sessions.get(wanted)) is not None:
            return known
        conversation = None
        if wanted:
            try:
                conversation = shared.store.load(wanted)
            except AssistantError as error:
                show_error(say("not_found", reason=str(error)))
                del st.query_params[CHAT]
        session = ChatSession(model, conversation or Conversation(), store=shared.store)
        shared.sessions[session.conversation.id] = session
        return session


def show_conversation(conversation_id: str | None) -> None:
    """Show another conversation from the next run on; ``None`` is a new one."""
    st.session_state.pop("session", None)
    st.session_state.pop("workbench", None)
    st.session_state.pop("editing", None)
    st.session_state.view = "chat"
    if conversation_id is None:
        st.query_params.pop(CHAT, None)
    else:
        st.query_params[CHAT] = conversation_id


def remember_address(page: Page) -> None:
    """Let the address name the conversation, once there is something in it to come back to."""
    chat = page.session.conversation
    if chat.turns or chat.demos or chat.system:
        st.query_params[CHAT] = chat.id


def begin(page: Page, events: Iterator[Event]) -> Answering:
    """Have an answer written, whoever looks.

    Args:
        events: of a session.
    """
    page.session.options = options()
    answering = Answering(events)
    page.server.answers[page.id] = answering
    answering.begun.wait(5)
    return answering


def options() -> Options:
    """How this tab wants its answers."""
    return st.session_state.get("options") or Options()


def pending() -> list[Picture]:
    """Pictures that wait above the box for the next question."""
    return st.session_state.setdefault("pending", [])


def put_back(text: str, pictures: list[Picture]) -> None:
    """Put a question into the box from the next run on, before which the box must not have been made."""
    st.session_state.draft = text
    st.session_state.pending = pictures


def show_error(text: str) -> None:
    """One clear box, in this run or, from a callback, in the next."""
    st.session_state.setdefault("errors", []).append(text)


def attempt(act: Callable[..., T], *arguments: object) -> T | None:
    """Call something that may be refused; why is said in the box, and there is no result."""
    try:
        return act(*arguments)
    except AssistantError as error:
        show_error(str(error))
        return None
