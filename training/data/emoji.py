"""Emoji pictures of two drawing styles, with the names of emojibase-data."""

import json
from collections.abc import Iterator
from pathlib import Path

from training.data.names import article, clean_name, singular
from training.data.rows import Source, read_table

# Groups of emojibase that are kept unless the table says otherwise: nature, food, places, activities, objects.
_KEPT_GROUPS = frozenset({3, 4, 5, 6, 7})
_CLOCK_FACES = "o’clock", "-thirty"
_TABLE = Path(__file__).with_name("emoji_names.tsv")


def emoji_sources(emojibase: Path, folder: Path, *, source: str, style: str, licence: str) -> Iterator[Source]:
    """The pictures of one emoji style that show something with a name.

    Args:
        emojibase: unpacked ``emojibase-data``.
        folder: where the pictures lie, named by code points ("1f34e.webp").
        source: source name of the rows.
        style: style name of the rows.
        licence: licence of the pictures.

    Yields:
        One `Source` a picture, in the order of emojibase; no flags, letters, signs, clock faces or skin tones.
    """
    names = {label: rest for label, *rest in read_table(_TABLE)}
    files = {_code(path.stem): path for path in folder.iterdir() if path.suffix in {".webp", ".png"}}
    for emoji in json.loads((emojibase / "package/en/data.json").read_text("utf-8")):
        label = emoji["label"]
        path = files.get(_code(emoji["hexcode"]))
        listed = names.get(label)
        if path is None or (listed is None and emoji.get("group") not in _KEPT_GROUPS) or label.endswith(_CLOCK_FACES):
            continue
        name, key, aliases = (*(listed or [clean_name(label)]), "", "")[:3]
        if name == "-":
            continue
        yield Source(
            path=path,
            id=f"{source}-{_code(emoji['hexcode'])}",
            source=source,
            style=style,
            name=name,
            article=article(name),
            object=key or singular(name),
            aliases=[alias for alias in aliases.split(",") if alias],
            tags=sorted({tag for tag in map(clean_name, emoji.get("tags", [])) if tag and tag != name}),
            licence=licence,
        )


def _code(stem: str) -> str:
    """Code points without the variation selector, which the packages set differently."""
    return "-".join(part for part in stem.lower().split("-") if part != "fe0f")
