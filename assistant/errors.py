"""Every error that the assistant raises on purpose.

    AssistantError                 the work failed                       exit code 1
    |-- FetchError                 a package could not be brought here
    |-- ModelError                 a model is absent, broken or does not fit
    |-- MissingExtraError          an optional package is not installed
    |-- OutOfMemoryError           the machine has not the memory for it
    |-- StoreError                 conversations cannot be kept or read
    `-- InputError (ValueError)    the call was wrong                    exit code 2
        |-- ImageError             a picture cannot be read
        |-- PromptError            text and pictures do not fit together
        `-- ConfigError            a configuration file is wrong

Edges translate: the command line into an exit code, a page into an error box. Plain ``ValueError`` stays for arguments
that only a programmer passes. The root, ``InputError`` and ``PromptError`` are defined in ``prompts/errors.py``, since
imports point from ``assistant`` to ``prompts``.
"""

from prompts.errors import AssistantError, InputError, PromptError

__all__ = [
    "AssistantError",
    "ConfigError",
    "FetchError",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "OutOfMemoryError",
    "PromptError",
    "StoreError",
]


class FetchError(AssistantError):
    """A package could not be downloaded, did not have the pinned hash, or could not be unpacked."""


class ModelError(AssistantError):
    """A model is missing, broken, or does not fit the weights that it is given."""


class MissingExtraError(AssistantError):
    """An optional package is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of this distribution that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; it comes with: pip install 'flamingo-assistant[{extra}]'")


class OutOfMemoryError(AssistantError):
    """A model, or a prompt, is larger than the memory that is left."""


class StoreError(AssistantError):
    """Conversations cannot be kept or read: the disk is full, or the file is in use, damaged or too new."""


class ImageError(InputError):
    """A picture cannot be read."""


class ConfigError(InputError):
    """A configuration file holds a key or a value that is not known."""
