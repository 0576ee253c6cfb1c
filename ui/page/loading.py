"""A model that is loaded while the page shows how far it is; one for all tabs of a server."""

import logging
import os
import threading
from collections.abc import Sequence

import streamlit as st

from assistant.chat_model import ChatModel
from assistant.errors import AssistantError
from assistant.scripted import ScriptedModel
from prompts import Message

_LOG = logging.getLogger(__name__)
MODEL = "ASSISTANT_PAGE_MODEL"
"""Names the model that the page starts with; ``scripted`` is one without weights, which says what it was asked."""
DELAY = "ASSISTANT_PAGE_DELAY"
"""Seconds that the scripted model takes for a word."""


class Loading:
    """A model on its way.

    Attributes:
        model: once it is there.
        error: why it is not.
        stage: part, stage, and how far it is, from 0 to 1 or ``None`` where nobody knows.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.model: ChatModel | None = None
        self.error: str | None = None
        self.stage: tuple[str, str, float | None] = (name, "load", None)
        self._thread = threading.Thread(target=self._load, name="load", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, not longer than this; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _load(self) -> None:
        try:
            self.model = make_model(self.name, self._progress)
        except AssistantError as error:
            self.error = str(error)
        except Exception as error:  # an edge: whatever it was, the page says it in a sentence
            _LOG.exception("the model %s failed to load", self.name)
            self.error = f"unexpected {type(error).__name__}: {error}"

    def _progress(self, name: str, stage: str, done: int, total: int | None) -> None:
        if stage == "ready":
            self.stage = (self.name, "load", None)
        else:
            self.stage = (name, stage, min(done / total, 1.0) if total else None)


@st.cache_resource(show_spinner=False)
def loading(name: str) -> Loading:
    """The model of a name; the first call begins to load it, on a thread of its own."""
    return Loading(name)


def first_model() -> str:
    """The name of the model that the page starts with."""
    return os.environ.get(MODEL) or "default"


def make_model(name: str, progress: object) -> ChatModel:
    """Load a model; arguments and errors as of ``Assistant.from_pretrained``."""
    if name == "scripted":
        return ScriptedModel(_recite, delay=float(os.environ.get(DELAY, "0.02")))
    from assistant import Assistant  # only now: it brings torch

    return Assistant.from_pretrained(name, progress=progress).engine  # type: ignore[arg-type]


def _recite(messages: Sequence[Message]) -> str:
    """Say what was asked."""
    examples = sum(message.role == "assistant" for message in messages)
    shown = sum(len(message.images) for message in messages)
    asked = " ".join(messages[-1].text.split())
    return f"I saw {shown} pictures and {examples} earlier answers. You said: {asked}"
