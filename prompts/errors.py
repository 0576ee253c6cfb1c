"""The root of the error tree, and the one error that prompts raise.

They live here because imports point from ``assistant`` to ``prompts``; ``assistant/errors.py`` draws the whole tree.
"""


class AssistantError(Exception):
    """The work failed. ``str(error)`` is one line for a person: what failed, on what, and how to mend it."""

    exit_code = 1


class InputError(AssistantError, ValueError):
    """The call was wrong; nothing was fetched, loaded or changed."""

    exit_code = 2


class PromptError(InputError):
    """Text and pictures do not fit together, or a prompt is too long."""
