"""What is said: message types, picture markers and the few-shot layout. Needs no torch."""

from prompts.errors import PromptError
from prompts.messages import (
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    assistant_message,
    few_shot,
    pictures,
    system_message,
    to_chat,
    user_message,
    with_markers,
)

__all__ = [
    "ImagePart",
    "Message",
    "Part",
    "PromptError",
    "Role",
    "TextPart",
    "assistant_message",
    "few_shot",
    "pictures",
    "system_message",
    "to_chat",
    "user_message",
    "with_markers",
]
