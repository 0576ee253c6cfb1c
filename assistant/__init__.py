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
)

if TYPE_CHECKING:
    from .api import Assistant
    from .engine import Engine
    from .events import Answer, Event, Finished, Started, Token, Usage
    from .model import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor
    from .options import Options
    from .prompt import Prompt

_LAZY = {
    "Assistant": "assistant.api",
    "Options": "assistant.options",
    "Engine": "assistant.engine",
    "Prompt": "assistant.prompt",
    **dict.fromkeys(("Answer", "Event", "Finished", "Started", "Token", "Usage"), "assistant.events"),
    **dict.fromkeys(("FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoProcessor"), "assistant.model"),
}

__all__ = [
    "Answer",
    "Assistant",
    "AssistantError",
    "Engine",
    "Event",
    "FetchError",
    "Finished",
    "FlamingoConfig",
    "FlamingoForConditionalGeneration",
    "FlamingoProcessor",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "Options",
    "OutOfMemoryError",
    "Prompt",
    "PromptError",
    "Started",
    "Token",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'assistant' has no attribute {name!r}")
