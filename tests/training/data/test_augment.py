import numpy as np
import pytest
from PIL import Image

from training.data.augment import background, place


def cutout(size=(40, 60), colour=(255, 0, 0)):
    """An opaque block on a transparent ground four times as large."""
    picture = Image.new("RGBA", (size[0] * 2, size[1] * 2))
    picture.paste(Image.new("RGBA", size, (*colour, 255)), (size[0] // 2, size[1] // 2))
    return picture


def pixels(picture):
    return np.asarray(picture).astype(int)


def red(picture):
    """Where a picture is red."""
    values = pixels(picture)
    return values[..., 0] - values[..., 1:].max(-1) > 60


@pytest.fixture
def plain_ground(monkeypatch):
    """A grey ground, so that what stands on it can be told apart."""
    monkeypatch.setattr(
        "training.data.augment.background", lambda rng, size: Image.new("RGB", (size, size), (90, 90, 90))
    )


@pytest.mark.parametrize("size", [96, 260])
def test_backgrounds_are_of_every_kind(size):
    kinds = set()
    for seed in range(40):
        picture = background(np.random.default_rng(seed), size)
        assert picture.mode == "RGB" and picture.size == (size, size)
        values = pixels(picture)
        rows, columns = np.ptp(values, axis=0).max(), np.ptp(values, axis=1).max()
        if rows == columns == 0:
            kinds.add("white" if values.min() == 255 else "plain")
        else:
            kinds.add("graded" if min(rows, columns) == 0 else "cloudy")
    assert kinds == {"white", "plain", "graded", "cloudy"}


@pytest.mark.parametrize(
    "make", [background, lambda rng: place(cutout(), rng), lambda rng: place(cutout().convert("RGB"), rng)]
)
def test_the_generator_decides_everything(make):
    first, again, other = (make(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes() != other.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(12, 12), (300, 20), (12, 400), (260, 260)])
def test_any_picture_fits(mode, size):
    picture = Image.new(mode, size, 128 if mode == "L" else (200, 10, 10, 255)[: len(mode)])
    for seed in range(5):
        placed = place(picture, np.random.default_rng(seed), 96)
        assert placed.mode == "RGB" and placed.size == (96, 96)


def test_a_cut_out_is_whole_and_in_the_picture(plain_ground):
    corners, sizes = set(), []
    for seed in range(30):
        mask = red(place(cutout(), np.random.default_rng(seed), 96))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 0.5 * 96 <= max(height, width) <= 96
        assert height > width  # a block that is turned a little stays upright
        assert mask.sum() > 0.45 * height * width  # nothing is cut off, however far it is turned
        corners.add((rows[0], columns[0]))
        sizes.append(height)
    assert len(corners) > 15 and np.ptp(sizes) > 20


def test_a_cut_out_is_mirrored_half_of_the_time(plain_ground):
    picture = cutout((60, 60))
    picture.paste((0, 0, 255, 255), (30, 30, 60, 90))  # its left half in blue
    left = 0
    for seed in range(60):
        values = pixels(place(picture, np.random.default_rng(seed), 96))
        is_red, is_blue = values[..., 0] > values[..., 2] + 60, values[..., 2] > values[..., 0] + 60
        left += np.nonzero(is_blue)[1].mean() < np.nonzero(is_red)[1].mean()
    assert 18 < left < 42


def test_light_and_colour_change_a_little(plain_ground):
    grounds = [pixels(place(cutout(), np.random.default_rng(seed), 96))[0, 0].mean() for seed in range(40)]
    assert 5 < np.std(grounds) < 40


@pytest.mark.parametrize("alpha", [False, True])
def test_a_full_picture_only_loses_a_margin(alpha, monkeypatch):
    monkeypatch.setattr("training.data.augment.background", None)  # it needs none
    ramp = np.zeros((100, 100, 4 if alpha else 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, 100)[:, None]
    ramp[..., 1] = np.linspace(0, 250, 100)
    if alpha:
        ramp[..., 3] = 255
    for seed in range(10):
        rng = np.random.default_rng(seed)
        with monkeypatch.context() as patch:
            patch.setattr("training.data.augment.ImageEnhance.Brightness", Same)
            patch.setattr("training.data.augment.ImageEnhance.Contrast", Same)
            patch.setattr("training.data.augment.ImageEnhance.Color", Same)
            values = pixels(place(Image.fromarray(ramp), rng, 96))
        assert values[0].max(0)[0] <= 32 and values[-1].max(0)[0] >= 218  # top and bottom
        across = np.sort(values[48, [0, -1], 1])
        assert across[0] <= 32 and across[1] >= 218


class Same:
    """An enhancer that changes nothing."""

    def __init__(self, picture):
        self.picture = picture

    def enhance(self, factor):
        return self.picture


def test_what_went_in_is_left_as_it_was():
    picture = cutout()
    before = picture.tobytes()
    place(picture, np.random.default_rng(0))
    assert picture.tobytes() == before and picture.size == (80, 120)


def test_an_empty_cut_out_is_a_background():
    placed = place(Image.new("RGBA", (20, 20)), np.random.default_rng(0), 96)
    assert placed.size == (96, 96)
