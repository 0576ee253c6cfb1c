"""What is asked."""

from dataclasses import dataclass

from .images import Picture


@dataclass(frozen=True)
class Prompt:
    """What is asked.

    Attributes:
        ids: tokens, one image token for each picture.
        pictures: in the order of their tokens.
    """

    ids: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()
