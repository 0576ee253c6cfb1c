"""Pictures on the page: small copies that travel inside of it, with alternative text."""

import base64
from html import escape
from io import BytesIO

import streamlit as st
from PIL import Image

from assistant.images import Picture
from prompts import ImagePart, Message

SIDE = 320  # pixels of the longer side of a small copy; shown at half of that, for sharp screens


@st.cache_data(max_entries=2000, show_spinner=False)
def _small(digest: bytes, _image: Image.Image) -> str:
    small = _image.copy()
    small.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def small_address(picture: Picture) -> str:
    """A small copy as a data: address."""
    return _small(picture.digest, picture.image)


def picture_html(picture: Picture, alt: str, height: int = 140) -> str:
    """An <img> with alternative text, at most so many pixels high."""
    return (
        f'<img src="{small_address(picture)}" alt="{escape(alt)}" title="{escape(alt)}" '
        f'style="max-height:{height}px;max-width:100%;border-radius:8px;vertical-align:middle;margin:2px 4px 2px 0">'
    )


def message_html(message: Message, alt: str, height: int = 140) -> str:
    """A message letter for letter, with its pictures where they stand.

    Args:
        alt: alternative text, with ``{number}`` and ``{name}``.
    """
    pieces, number = [], 0
    for part in message.parts:
        if isinstance(part, ImagePart):
            number += 1
            name = part.image.name.rsplit("/", 1)[-1]
            pieces.append(picture_html(part.image, alt.format(number=number, name=name), height))
        else:
            pieces.append(f"<span>{escape(part.text)}</span>")
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{"".join(pieces)}</div>'
