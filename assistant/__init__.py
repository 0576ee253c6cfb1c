"""A few-shot multimodal chat assistant.

    from assistant import Assistant

    answer = Assistant.from_pretrained("default").ask("What is this?", images=["photo.jpg"])

Names load when they are first used, so that ``import assistant`` brings no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    AssistantError,
    FetchError,
    ImageError,
    InputError,
    MissingExtraError,
    ModelError,
    OutOfMemoryError,
    PromptError,
    StoreError,
)

if TYPE_CHECKING:
    from .api import Assistant
    from .chat import ChatSession
    from .chat_model import ChatModel
    from .conversation import Conversation, Demo, Turn
    from .engine import Engine
    from .events import Answer, Event, Failed, Finished, Notice, Started, Token, ToolResult, Usage
    from .model import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor
    from .options import Options
    from .prompt import Prompt
    from .scripted import ScriptedModel
    from .store import ConversationStore

_EVENTS = ("Answer", "Event", "Failed", "Finished", "Notice", "Started", "Token", "ToolResult", "Usage")
_LAZY = {
    "Assistant": "assistant.api",
    "ChatModel": "assistant.chat_model",
    "ChatSession": "assistant.chat",
    "ConversationStore": "assistant.store",
    "Options": "assistant.options",
    "Engine": "assistant.engine",
    "Prompt": "assistant.prompt",
    "ScriptedModel": "assistant.scripted",
    **dict.fromkeys(("Conversation", "Demo", "Turn"), "assistant.conversation"),
    **dict.fromkeys(_EVENTS, "assistant.events"),
    **dict.fromkeys(("FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoProcessor"), "assistant.model"),
}

__all__ = [
    "Answer",
    "Assistant",
    "AssistantError",
    "ChatModel",
    "ChatSession",
    "Conversation",
    "ConversationStore",
    "Demo",
    "Engine",
    "Event",
    "Failed",
    "FetchError",
    "Finished",
    "FlamingoConfig",
    "FlamingoForConditionalGeneration",
    "FlamingoProcessor",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "Notice",
    "Options",
    "OutOfMemoryError",
    "Prompt",
    "PromptError",
    "ScriptedModel",
    "Started",
    "StoreError",
    "Token",
    "ToolResult",
    "Turn",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'assistant' has no attribute {name!r}")
