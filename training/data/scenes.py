"""Composed scenes: cut-outs on a background, with the exact truth about number, colour, place and size.

Objects are told apart by colour in questions ("the red one"), so the truth can be asked about objects that have no name
in the prompt or in the training set. Training and evaluation use this one generator with disjoint cut-outs and
background kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.data.augment import SIZE, background
from training.data.names import singular

COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((215, 25, 30), (190, 15, 25), (235, 45, 40)),
    "orange": ((245, 130, 20), (250, 150, 40), (235, 115, 10)),
    "yellow": ((250, 215, 30), (245, 225, 60), (240, 200, 10)),
    "green": ((45, 160, 60), (20, 120, 45), (90, 190, 70)),
    "blue": ((30, 80, 210), (50, 120, 230), (20, 50, 160)),
    "purple": ((125, 40, 170), (100, 30, 140), (150, 70, 200)),
    "pink": ((250, 130, 180), (255, 160, 200), (245, 100, 165)),
    "brown": ((120, 72, 35), (100, 60, 30), (145, 90, 50)),
    "black": ((25, 25, 28), (15, 15, 15), (35, 35, 40)),
    "white": ((245, 245, 245), (252, 252, 252), (235, 235, 240)),
    "grey": ((130, 130, 130), (150, 150, 155), (110, 110, 115)),
}
"""The eleven basic colour terms of English (Berlin and Kay, 1969), with a few shades of each."""

_UNFIT = frozenset(
    "red orange yellow green blue purple pink brown black white grey gray gold golden silver dark light colour color "
    "two three four five pair pairs family couple group crowd people twins some many broken empty full open closed old "
    "new half bare burning map arrow sign button banner scene rainbow framed picture photo".split()
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        name, article: of the drawing, as in the index.
        object: key that all drawings of the same thing share.
        colour: one of :data:`COLOURS`.
        box: left, top, right, bottom as shares of the picture.
    """

    name: str
    article: str
    object: str
    colour: str
    box: tuple[float, float, float, float]

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def size(self) -> float:
        """The longer side, as a share of the picture."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


@dataclass(frozen=True)
class Scene:
    """A picture, RGB, and what is in it; things are in the order in which they were drawn."""

    picture: Image.Image
    things: tuple[Thing, ...]


Layout = Literal["one", "copies", "pair", "several"]
LAYOUTS: tuple[Layout, ...] = ("one", "copies", "pair", "several")
"""One thing; one to five of the same; two of different colour; three of different colour."""


class Composer:
    """Draws scenes from cut-outs.

    Args:
        folder: of a built data set.
        rows: its rows to draw from; those without alpha or with an unfit name are left out.
        backgrounds: kinds of background, ``"train"`` or ``"heldout"``; the two have no kind in common.
        size: of the picture, in pixels.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[dict[str, Any]],
        backgrounds: Literal["train", "heldout"] = "train",
        size: int = SIZE,
    ) -> None:
        self.folder, self.size = folder, size
        self._draw_ground = train_background if backgrounds == "train" else heldout_background
        self.rows = [row for row in rows if fits(row)]
        if not self.rows:
            raise ValueError(f"none of {len(rows)} pictures is a cut-out that a scene can show")
        self._cutouts: dict[str, np.ndarray] = {}

    def compose(self, layout: Layout, rng: np.random.Generator) -> Scene:
        """One scene, the same for the same state of ``rng``."""
        number = {"one": 1, "copies": int(rng.integers(1, 6)), "pair": 2, "several": 3}[layout]
        chosen = rng.choice(len(self.rows), 1 if layout == "copies" else number, replace=False)
        rows = [self.rows[i] for i in chosen] * (number if layout == "copies" else 1)
        colours = [str(c) for c in rng.choice(list(COLOURS), 1 if layout == "copies" else number, replace=False)]
        colours *= number if layout == "copies" else 1
        boxes = _boxes(_sizes(layout, number, rng), rng)
        drawn = []
        for row, colour, (_, _, share) in zip(rows, colours, boxes, strict=True):
            drawn.append(self._draw(row, colour, share, rng, turn=layout != "copies"))
        ground = self._ground([np.asarray(d) for d in drawn], rng)
        things = []
        for row, colour, cutout, (x, y, _) in zip(rows, colours, drawn, boxes, strict=True):
            left = min(max(0, round(x * self.size - cutout.width / 2)), self.size - cutout.width)
            top = min(max(0, round(y * self.size - cutout.height / 2)), self.size - cutout.height)
            ground.paste(cutout, (left, top), cutout)
            box = np.array([left, top, left + cutout.width, top + cutout.height]) / self.size
            things.append(Thing(row["name"], row["article"], row["object"], colour, tuple(box.tolist())))
        return Scene(ground, tuple(things))

    def _draw(
        self, row: dict[str, Any], colour: str, share: float, rng: np.random.Generator, turn: bool
    ) -> Image.Image:
        pixels = self._cutouts.get(row["id"])
        if pixels is None:
            with Image.open(self.folder / row["file"]) as picture:
                picture = picture.convert("RGBA")
            picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
            picture.thumbnail((200, 200), Image.Resampling.BICUBIC)
            pixels = self._cutouts[row["id"]] = np.asarray(picture)
        cutout = Image.fromarray(tint(pixels, COLOURS[colour][int(rng.integers(len(COLOURS[colour])))]))
        if turn and rng.random() < 0.5:
            cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = share * self.size / max(cutout.size)
        width, height = (max(6, round(side * scale)) for side in cutout.size)
        return cutout.resize((width, height), Image.Resampling.BICUBIC)

    def _ground(self, drawn: list[np.ndarray], rng: np.random.Generator) -> Image.Image:
        """A background that no object melts into."""
        means = [d[..., :3][d[..., 3] > 128].mean(0) if (d[..., 3] > 128).any() else np.zeros(3) for d in drawn]
        for _ in range(12):
            ground = self._draw_ground(rng, self.size)
            small = np.asarray(ground.resize((8, 8), Image.Resampling.BOX), np.float32).reshape(-1, 3)
            if min(np.abs(small - mean).sum(1).min() for mean in means) > 110:
                return ground
        greys = np.array([255, 0, 128, 60, 190])
        clearest = max(greys, key=lambda grey: min(np.abs(grey - mean).sum() for mean in means))
        return Image.new("RGB", (self.size, self.size), (int(clearest),) * 3)


def fits(row: dict[str, Any]) -> bool:
    """Whether a picture can stand in a scene: a cut-out of one thing whose name says neither colour nor state."""
    name = row["name"]
    plural = row["article"] in ("some", "a pair of") or singular(name) != name
    return bool(row["alpha"]) and not plural and not _UNFIT & set(name.split())


def tint(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A cut-out in one colour that keeps its shading; pixels uint8 [h, w, 4] RGBA."""
    light = pixels[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    seen = pixels[..., 3] > 40
    low, high = np.percentile(light[seen], (5, 95)) if seen.any() else (0.0, 255.0)
    target = np.array(colour, np.float32)
    dark = target.mean() < 60  # black gets lights, the other colours get darks
    flat = high - low <= 8
    shade = np.float32(not dark) if flat else ((light - low) / (high - low)).clip(0, 1)[..., None]
    painted = target + 45 * shade if dark else target * (0.55 + 0.45 * shade)
    out = pixels.copy()
    out[..., :3] = painted.clip(0, 255).astype(np.uint8)
    return out


def train_background(rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """A plain, graded or cloudy background, or soft spots and bars of two colours, RGB."""
    ground = background(rng, size)
    if rng.random() < 0.6:
        return ground
    colour = tuple(int(c) for c in rng.integers(0, 256, 3))
    spots = Image.new("L", (size, size))
    draw = ImageDraw.Draw(spots)
    for _ in range(int(rng.integers(3, 30))):
        x, y = rng.uniform(-0.1, 1, 2) * size
        width, height = rng.uniform(0.03, 0.5, 2) * size
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + width, y + height), fill=int(rng.integers(20, 110)))
    spots = spots.filter(ImageFilter.GaussianBlur(float(rng.random() * 4)))
    ground.paste(colour, (0, 0), spots)
    return ground


def heldout_background(rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """Stripes, checks, rings or a radial ramp, RGB: kinds of background that no training picture has."""
    first, second = (rng.integers(0, 256, 3).astype(np.float32) for _ in range(2))
    second = first + (second - first) * 0.3
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    kind, angle, period = int(rng.integers(4)), rng.random() * np.pi, rng.integers(3, 10)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    distance = np.hypot(x - rng.random(), y - rng.random())
    share = (
        (np.floor(along * period) % 2),
        ((np.floor(along * period) + np.floor(across * period)) % 2),
        (np.sin(distance * period * 6) + 1) / 2,
        distance.clip(0, 1),
    )[kind][..., None]
    return Image.fromarray((first * (1 - share) + second * share).clip(0, 255).astype(np.uint8))


def _sizes(layout: Layout, number: int, rng: np.random.Generator) -> list[float]:
    """Longer sides as shares of the picture."""
    if layout == "one":
        return [float(rng.uniform(0.22, 0.6))]
    if layout == "copies":
        size = float(rng.uniform(0.16, 0.3 if number > 2 else 0.4))
        return [size * float(rng.uniform(0.9, 1.1)) for _ in range(number)]
    if layout == "pair" and rng.random() < 0.6:
        sizes = [float(rng.uniform(0.38, 0.52)), float(rng.uniform(0.16, 0.26))]
        return sizes if rng.random() < 0.5 else sizes[::-1]
    return [float(rng.uniform(0.2, 0.36)) for _ in range(number)]


def _boxes(sizes: list[float], rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Places (x, y, size) of squares that do not touch; they shrink a little whenever they do not fit."""
    while True:
        for _ in range(40):
            placed: list[tuple[float, float, float]] = []
            for size in sizes:
                x, y = (float(rng.uniform(size / 2, 1 - size / 2)) for _ in range(2))
                if all(max(abs(x - a), abs(y - b)) > (size + other) / 2 + 0.01 for a, b, other in placed):
                    placed.append((x, y, size))
            if len(placed) == len(sizes):
                return placed
        sizes = [size * 0.92 for size in sizes]
