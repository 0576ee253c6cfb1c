"""Pictures inside the terminal, for those that can show them."""

import base64
import os
import re
import select
import sys
from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
from PIL import Image

__all__ = ["drawing", "protocol", "sixel", "terminal_attributes"]

SIDE = (480, 320)  # pixels that a drawing has at most
ROWS = 12  # of text that a picture takes

Protocol = Callable[[Image.Image], str]


def protocol(environ: Mapping[str, str] = os.environ, attributes: Callable[[], str] | None = None) -> Protocol | None:
    """How pictures are drawn on this terminal; ``None`` where it shows none.

    Args:
        environ: in which terminals name themselves.
        attributes: asks the terminal for its primary device attributes (DA1), if it may be asked.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if "TMUX" in environ or "STY" in environ or term in ("", "dumb"):
        return None  # what stands between here and the terminal lets no picture through
    if term in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in environ:
        return kitty
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return iterm
    if "sixel" in term or term.startswith(("foot", "mlterm")) or (attributes and _knows_sixel(attributes())):
        return sixel
    return None


def drawing(image: Image.Image, draw: Protocol) -> str:
    """What makes the terminal show a picture, at most `SIDE` large, with the cursor on a new line behind it."""
    small = image.copy()
    small.thumbnail(SIDE)
    return draw(small) + "\n"


def kitty(image: Image.Image) -> str:
    """Kitty's graphics protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol/): a PNG in pieces of 4096 bytes."""
    data = base64.b64encode(_png(image)).decode()
    pieces = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    first = f"a=T,f=100,q=2,r={_rows(image)},"  # show it, PNG, no answer, as so many rows
    return "".join(
        f"\x1b_G{first if i == 0 else ''}m={int(i + 1 < len(pieces))};{piece}\x1b\\" for i, piece in enumerate(pieces)
    )


def iterm(image: Image.Image) -> str:
    """iTerm2's inline images (https://iterm2.com/documentation-images.html)."""
    data = _png(image)
    fields = f"inline=1;size={len(data)};height={_rows(image)};preserveAspectRatio=1"
    return f"\x1b]1337;File={fields}:{base64.b64encode(data).decode()}\a"


def sixel(image: Image.Image) -> str:
    """DEC's sixels (VT330/VT340 Programmer Reference, 14) with 64 colours: rows of columns of six pixels."""
    flat = image.quantize(64)
    palette, pixels = flat.getpalette() or [], np.asarray(flat)
    height, width = pixels.shape
    colours = [
        f"#{i};2;" + ";".join(str(round(value / 2.55)) for value in palette[3 * i : 3 * i + 3])
        for i in range(len(palette) // 3)
    ]
    rows = []
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))[:, None]
        rows.append("$".join(f"#{i}{_runs(((band == i) * weights).sum(0))}" for i in np.unique(band)))
    return f'\x1bPq"1;1;{width};{height}{"".join(colours)}{"-".join(rows)}\x1b\\'


def terminal_attributes(timeout: float = 0.3) -> str:
    """What the terminal answers to DA1, such as ``ESC [ ? 62 ; 4 c``; empty where it says nothing in `timeout` seconds,
    where somebody types at the moment, and on Windows."""
    try:
        import termios
        import tty
    except ImportError:
        return ""
    here = sys.stdin.fileno()
    if select.select([here], [], [], 0)[0]:
        return ""
    before, answer = termios.tcgetattr(here), ""
    try:
        tty.setcbreak(here)
        sys.stdout.write("\x1b[c")
        sys.stdout.flush()
        while not answer.endswith("c") and select.select([here], [], [], timeout)[0]:
            answer += os.read(here, 1).decode("latin-1")
    finally:
        termios.tcsetattr(here, termios.TCSANOW, before)
    return answer


def _knows_sixel(attributes: str) -> bool:
    found = re.fullmatch(r"\x1b\[\?([\d;]+)c", attributes)
    return found is not None and "4" in found[1].split(";")[1:]


def _rows(image: Image.Image) -> int:
    """Rows of text, of about 20 pixels, so that a small picture is not blown up."""
    return max(1, min(ROWS, round(image.height / 20)))


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _runs(columns: np.ndarray) -> str:
    """Sixel characters, repeated ones counted."""
    text = "".join(chr(63 + int(column)) for column in columns)
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text)
