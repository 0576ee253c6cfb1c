"""Place a cut-out on a background: the augmentation behind every training picture."""

import colorsys

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SIZE = 260


def background(rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """A plain, graded or cloudy background, RGB."""
    kind = rng.random()
    if kind < 0.25:
        return Image.new("RGB", (size, size), "white")
    first, second = _colour(rng), _colour(rng)
    if kind < 0.45:
        return Image.new("RGB", (size, size), first)
    if kind < 0.65:
        ramp = np.linspace(0, 1, size)[:, None, None]
        pixels = (1 - ramp) * np.array(first) + ramp * np.array(second)
        pixels = np.broadcast_to(pixels, (size, size, 3)).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, int(rng.integers(4)))))
    cells = int(rng.integers(3, 24))
    noise = rng.random((cells, cells, 1)) * 0.8 + rng.random((cells, cells, 3)) * 0.2
    pixels = ((1 - noise) * np.array(first) + noise * np.array(second)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.random() * 3)))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    hue, saturation, value = rng.random(), rng.random() ** 2, 1 - 0.8 * rng.random() ** 2
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(r * 255), int(g * 255), int(b * 255)


def place(cutout: Image.Image, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """One augmented version of a picture with or without alpha, RGB, ``size`` x ``size``.

    A cut-out is mirrored, turned a little, scaled, moved, and put on a background; brightness, contrast and colour
    change a little. A picture without alpha only loses a margin.
    """
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if cutout.mode != "RGBA" or cutout.getchannel("A").getextrema()[0] == 255:
        picture = _crop(cutout.convert("RGB"), rng).resize((size, size), Image.Resampling.BICUBIC)
    else:
        cutout = cutout.crop(cutout.getchannel("A").getbbox())
        if rng.random() < 0.5:
            cutout = cutout.rotate(float(rng.normal(0, 12)), Image.Resampling.BICUBIC, expand=True)
        scale = size * rng.uniform(0.55, 1.0) / max(cutout.size)
        width, height = (max(8, round(s * scale)) for s in cutout.size)
        cutout = cutout.resize((width, height), Image.Resampling.BICUBIC)
        picture = background(rng, size)
        corner = (int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1)))
        picture.paste(cutout, corner, cutout)
    for change, spread in ((ImageEnhance.Brightness, 0.15), (ImageEnhance.Contrast, 0.15), (ImageEnhance.Color, 0.25)):
        picture = change(picture).enhance(float(np.exp(rng.normal(0, spread))))
    return picture


def _crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = picture.size
    left, top, right, bottom = rng.uniform(0, 0.12, 4)
    return picture.crop((int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)))
