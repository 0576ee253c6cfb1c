"""Drawings of the Open Clip Art Library that show something with a name."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.names import article, clean_name, singular
from training.data.rows import Source, read_table

_TABLE = Path(__file__).with_name("openclipart_names.tsv")
_ROOT = Path("usr/share/openclipart/svg")
_KEYWORD = re.compile(r"<rdf:li>([^<]{3,40})</rdf:li>")
# Keywords that say how the library files a drawing.
_FILING = frozenset(
    "unsorted symbol icon clip art clipart hash sign tool shape menu webpage contour special theme".split()
)


def openclipart_sources(package: Path) -> Iterator[Source]:
    """The drawings that the table names.

    A rule cannot make names of the library's titles: they hold authors, Italian, French and names of collections.

    Args:
        package: unpacked ``openclipart-svg``.

    Yields:
        One `Source` a drawing, in the order of the table.
    """
    for place, name, *rest in read_table(_TABLE):
        key, aliases = (*rest, "", "")[:2]
        path = package / _ROOT / f"{place}.svg"
        yield Source(
            path=path,
            id=drawing_id(place),
            source="openclipart",
            style="clipart",
            name=name,
            article=article(name),
            object=key or singular(name),
            aliases=[alias for alias in aliases.split(",") if alias],
            tags=_keywords(path.read_text("utf-8", errors="replace"), name),
            licence="public domain",
        )


def drawing_id(place: str) -> str:
    """An id that can be a file name anywhere: the path in the library, without capitals and folders."""
    return "openclipart-" + place.lower().replace("/", "-")


def _keywords(svg: str, name: str) -> list[str]:
    found = {clean_name(word) for word in _KEYWORD.findall(svg)}
    return sorted(word for word in found - _FILING - {name, ""} if not re.search(r"\d", word))
