"""A few-shot multimodal chat assistant.

    from assistant import Assistant

    answer = Assistant.from_pretrained("default").ask("What is this?", images=["photo.jpg"])

Names load when they are first used, so that ``import assistant`` brings no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import AssistantError, FetchError, ImageError, InputError, MissingExtraError, ModelError, PromptError

if TYPE_CHECKING:
    from .api import Answer, Assistant, Event, Finished, Started, Token, Usage
    from .model import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor

_LAZY = {
    **dict.fromkeys(("Answer", "Assistant", "Event", "Finished", "Started", "Token", "Usage"), "assistant.api"),
    **dict.fromkeys(("FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoProcessor"), "assistant.model"),
}

__all__ = [
    "Answer",
    "Assistant",
    "AssistantError",
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
    "PromptError",
    "Started",
    "Token",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'assistant' has no attribute {name!r}")
