"""Source pictures to the PNG files of a data set: drawings rendered, margins cut, one size limit."""

import io
from pathlib import Path

from PIL import Image, ImageStat

from assistant.errors import MissingExtraError

MAX_SIDE = 320
"""Longest side of a picture in a data set, in pixels."""

_RENDER_SIDE = 640  # rendered larger, so that little is lost where a drawing fills a corner of its page
_DPI = 90  # of the drawing programs of the time; a page given in points has its content in these pixels


def render_svg(path: Path) -> Image.Image:
    """Render a drawing.

    Letters are left out: which font stands in for a missing one differs between machines.

    Args:
        path: the SVG file.

    Returns:
        An RGBA picture, longest side 640.

    Raises:
        ValueError: the file cannot be rendered.
        MissingExtraError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise MissingExtraError("resvg-py", "train") from error
    png = resvg_py.svg_to_bytes(
        svg_path=str(path), skip_system_fonts=True, dpi=_DPI, width=_RENDER_SIDE, height=_RENDER_SIDE
    )
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def trim(picture: Image.Image) -> Image.Image | None:
    """Cut transparent margins and shrink to `MAX_SIDE`; RGB when nothing is transparent.

    Returns:
        The picture, or None when next to nothing can be seen of it: empty, a few pixels, or white on white.
    """
    alpha = picture.getchannel("A")
    box = alpha.point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        return None
    cut = picture.crop(box)
    if min(cut.size) < 12:
        return None
    cut.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    if _mean(flatten(cut).convert("L").point(lambda value: 255 if value < 235 else 0)) < 3:
        return None
    opaque = _mean(cut.getchannel("A")) > 254
    return cut.convert("RGB") if opaque else cut


def flatten(picture: Image.Image, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The picture as RGB, laid on a plain background."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, (*colour, 255))
    return Image.alpha_composite(ground, picture).convert("RGB")


def is_grey(picture: Image.Image) -> bool:
    """Whether a drawing has no colour to speak of, as line art and silhouettes."""
    return _mean(flatten(picture).convert("HSV").getchannel("S")) < 5


def _mean(channel: Image.Image) -> float:
    return ImageStat.Stat(channel).mean[0]
