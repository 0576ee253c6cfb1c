"""Frozen parts of the embedded default: which they are, how they come here, and what state they are in."""

from assistant.parts.catalog import PARTS, Part
from assistant.parts.fetch import Progress, ensure_part, part_state

__all__ = ["PARTS", "Part", "Progress", "ensure_part", "part_state"]
