"""What the sources of pictures have in common: one record a picture, and tables of text."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A picture before it is built.

    Args:
        path: the file inside an unpacked package.
        id: unique over all sources, stable.
        source: which package it comes from: "fluent", "google" or "openclipart".
        style: how it is drawn; two pictures of one object in two styles make a pair.
        name: noun phrase, lower case, no article.
        article: what stands before the name in a caption ("a", "an", "some", "a pair of" or "").
        object: key that all pictures of the same thing share.
        aliases: other names of it, true but broader or rarer.
        tags: loosely related words.
        licence: licence of the picture.
    """

    path: Path
    id: str
    source: str
    style: str
    name: str
    article: str
    object: str
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    licence: str = ""


def read_table(path: Path) -> list[list[str]]:
    """Lines of a tab-separated file as lists of fields; empty lines and lines that begin with ``#`` are left out."""
    lines = path.read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
