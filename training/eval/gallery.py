"""A page of right and wrong answers, with the demonstrations that stood before them. It needs no other file."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from assistant.images import load_picture
from training.eval.items import Example, Item
from training.eval.plot import title
from training.eval.report import Prediction, Report

MOST = 60
"""Answers on the page."""
_MOST_DEMOS = 8

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }
body { color: #222; background: #fff; }
article { border: 1px solid #ccc; border-left: 6px solid #b3261e; border-radius: 6px; margin: 1em 0; padding: .8em; }
article.right { border-left-color: #1b7f3b; }
figure { display: inline-block; margin: 0 .6em .6em 0; vertical-align: top; max-width: 12em; font-size: 13px; }
figcaption { overflow-wrap: anywhere; }
img { border-radius: 4px; display: block; }
.demos { border-bottom: 1px dashed #ccc; margin-bottom: .6em; }
.said { font-size: 17px; overflow-wrap: anywhere; }
"""


def save_gallery(report: Report, items: Sequence[Item], file: Path) -> None:
    """Write the page: for every number of shots as many wrong as right answers, where there are.

    Raises:
        ImageError: a picture cannot be read any more.
    """
    by_id = {item.query.id: item for item in items}
    chosen = _chosen(report.predictions)
    thumbnails: dict[tuple[Path, int], str] = {}
    rows = "\n".join(_article(row, by_id[row.id], thumbnails) for row in chosen)
    counts = f"{len(chosen)} of {sum(row.control == 'none' for row in report.predictions)} answers"
    head = f"<title>{escape(title(report))}</title><meta name='viewport' content='width=device-width'>"
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{head}<style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title(report))}</h1>"
        f"<p>{counts}; green is right, red is wrong.</p>\n{rows}\n</body></html>\n"
    )
    file.write_text(page, "utf-8")


def _chosen(predictions: Sequence[Prediction]) -> list[Prediction]:
    mine = sorted((row for row in predictions if row.control == "none"), key=lambda row: (row.shots, row.seed, row.id))
    shots = sorted({row.shots for row in mine})
    each = MOST // len(shots)
    chosen = []
    for count in shots:
        wrong = [row for row in mine if row.shots == count and not row.right]
        right = [row for row in mine if row.shots == count and row.right]
        wrongs = max(each // 2, each - len(right))
        chosen += _apart(wrong, min(wrongs, len(wrong)))
        chosen += _apart(right, min(each - min(wrongs, len(wrong)), len(right)))
    return chosen


def _apart(rows: Sequence[Prediction], count: int) -> list[Prediction]:
    """So many of them, evenly spread."""
    return [rows[i * len(rows) // count] for i in range(count)]


def _article(row: Prediction, item: Item, thumbnails: dict[tuple[Path, int], str]) -> str:
    pool = {example.id: example for example in item.pool}
    shown = [pool[id] for id in row.demos]
    demos = "".join(_figure(demo, demo.answer, 72, thumbnails) for demo in shown[-_MOST_DEMOS:])
    if len(shown) > _MOST_DEMOS:
        demos = f"<p>{len(shown) - _MOST_DEMOS} earlier examples, then:</p>{demos}"
    if demos:
        demos = f"<div class='demos'>{demos}</div>"
    mark, word = ("right", "right") if row.right else ("wrong", f"wrong: {escape(row.answer)} was wanted")
    kind = f", {escape(row.kind)}" if row.kind else ""
    return (
        f"<article class='{mark}'>{demos}{_figure(item.query, '', 160, thumbnails)}"
        f"<p class='said'>{escape(row.prediction) or '<i>nothing</i>'}</p>"
        f"<p>{word} <small>({escape(row.id)}{kind}, {row.shots} shots)</small></p></article>"
    )


def _figure(example: Example, answer: str, side: int, thumbnails: dict[tuple[Path, int], str]) -> str:
    pictures = "".join(
        f"<img alt='picture {number} of {escape(example.id, quote=True)}' src='{_thumbnail(file, side, thumbnails)}'>"
        for number, file in enumerate(example.pictures, start=1)
    )
    said = [*(text for turn in example.history for text in turn), example.question, answer]
    caption = "<br>".join(escape(text) for text in said if text)
    return f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(file: Path, side: int, thumbnails: dict[tuple[Path, int], str]) -> str:
    """A small JPEG as a data address."""
    if (file, side) not in thumbnails:
        image = load_picture(file).image.copy()
        image.thumbnail((side, side))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=70)
        thumbnails[file, side] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return thumbnails[file, side]
