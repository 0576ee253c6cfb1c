import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training.data import scenes
from training.data.scenes import COLOURS, LAYOUTS, Composer, Thing, fits, heldout_background, tint, train_background

SEEDS = range(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Flat and shaded cut-outs, tall and wide ones."""
    folder = tmp_path_factory.mktemp("cut-outs")
    for i in range(6):
        picture = Image.new("RGBA", (100, 100))
        box = (20, 10, 80, 90) if i % 2 else (5, 30, 95, 70)
        ImageDraw.Draw(picture).ellipse(box, fill=(90, 40 * i, 200, 255))
        if i > 3:
            light = np.linspace(60, 255, 100)[:, None].repeat(100, 1).astype(np.uint8)
            picture = Image.merge("RGBA", (*[Image.fromarray(light)] * 3, picture.getchannel("A")))
        picture.save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def rows():
    names = ["owl", "barn", "kite", "drum", "lamp", "boat"]
    return [
        {
            "id": str(i),
            "file": f"{i}.png",
            "name": name,
            "article": "an" if i == 0 else "a",
            "object": name,
            "alpha": True,
        }
        for i, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def composer(folder, rows):
    return Composer(folder, rows)


@pytest.fixture(scope="module")
def drawn(composer):
    """Scenes of every layout."""
    return {layout: [composer.compose(layout, np.random.default_rng(seed)) for seed in SEEDS] for layout in LAYOUTS}


def test_a_layout_says_how_many_things_there_are_and_how_they_differ(drawn):
    for scene in drawn["one"]:
        assert len(scene.things) == 1
    copies = drawn["copies"]
    assert {len(scene.things) for scene in copies} == {1, 2, 3, 4, 5}
    assert all(len({(thing.object, thing.colour) for thing in scene.things}) == 1 for scene in copies)
    for layout, number in (("pair", 2), ("several", 3)):
        for scene in drawn[layout]:
            assert len(scene.things) == number
            assert len({thing.object for thing in scene.things}) == number
            assert len({thing.colour for thing in scene.things}) == number


@pytest.mark.parametrize("layout", LAYOUTS)
def test_things_stand_inside_the_picture_and_apart(drawn, layout):
    for scene in drawn[layout]:
        assert scene.picture.size == (260, 260) and scene.picture.mode == "RGB"
        for thing in scene.things:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
            assert thing.size == max(right - left, bottom - top) > 0.1
        for one, other in itertools.combinations(scene.things, 2):
            apart_x = one.box[2] <= other.box[0] or other.box[2] <= one.box[0]
            apart_y = one.box[3] <= other.box[1] or other.box[3] <= one.box[1]
            assert apart_x or apart_y


def nearest(colour):
    return min((np.abs(np.array(shade) - colour).sum(), name) for name, shades in COLOURS.items() for shade in shades)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_things_have_the_colour_and_the_place_that_is_told(drawn, layout):
    """Ellipses fill the middle of their box, and flat ones have one colour alone."""
    seen = 0
    for scene in drawn[layout]:
        pixels = np.asarray(scene.picture, float)
        for thing in (t for t in scene.things if t.name not in ("lamp", "boat")):
            x, y = (round(share * 260) for share in thing.centre)
            found = pixels[y - 3 : y + 4, x - 3 : x + 4].mean((0, 1))
            distance, name = nearest(found)
            if thing.colour == "black":
                assert found.max() < 90 and np.ptp(found) < 10
            else:
                assert name == thing.colour and distance < 12
            seen += 1
    assert seen > 10


def test_a_thing_fills_its_box_and_no_more(composer, monkeypatch):
    monkeypatch.setattr(composer, "_draw_ground", lambda rng, size: Image.new("RGB", (size, size), (90, 255, 255)))
    scenes = [composer.compose("one", np.random.default_rng(seed)) for seed in SEEDS]
    red = [scene for scene in scenes if scene.things[0].colour == "red"]
    assert red
    for scene in red:
        box = [round(share * 260) for share in scene.things[0].box]
        there = np.abs(np.asarray(scene.picture, int) - (90, 255, 255)).sum(-1) > 60
        rows, columns = there.any(1).nonzero()[0], there.any(0).nonzero()[0]
        assert np.allclose((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), box, atol=3)


def test_pairs_often_differ_in_size(drawn):
    ratios = [max(a.size, b.size) / min(a.size, b.size) for a, b in (s.things for s in drawn["pair"])]
    assert sum(ratio > 1.4 for ratio in ratios) > len(ratios) / 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_generator_decides_a_scene(drawn, folder, rows, layout):
    first = drawn[layout][3]
    again = Composer(folder, rows).compose(layout, np.random.default_rng(3))
    assert first.things == again.things and first.picture.tobytes() == again.picture.tobytes()
    assert drawn[layout][4].picture.tobytes() != first.picture.tobytes()


@pytest.mark.parametrize(("kind", "other"), [("train", "heldout"), ("heldout", "train")])
def test_training_and_evaluation_have_backgrounds_of_their_own(folder, rows, monkeypatch, kind, other):
    drawn = []
    draw = getattr(scenes, f"{kind}_background")
    monkeypatch.setattr(scenes, f"{kind}_background", lambda rng, size: drawn.append(size) or draw(rng, size))
    monkeypatch.setattr(scenes, f"{other}_background", None)  # whoever draws it fails
    Composer(folder, rows, kind, size=64).compose("pair", np.random.default_rng(0))
    assert set(drawn) == {64}


@pytest.mark.parametrize("background", [train_background, heldout_background])
def test_a_background_is_a_picture_of_its_own(background):
    pictures = [background(np.random.default_rng(seed), 64) for seed in range(12)]
    assert all(picture.mode == "RGB" and picture.size == (64, 64) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) > 9
    assert background(np.random.default_rng(3), 64).tobytes() == pictures[3].tobytes()


def test_heldout_backgrounds_are_patterns_of_two_colours():
    for seed in range(20):
        pixels = np.asarray(heldout_background(np.random.default_rng(seed), 64), float).reshape(-1, 3)
        # all colours lie on one line between the two
        values = np.linalg.svd(pixels - pixels.mean(0), compute_uv=False)
        assert values[1] < 0.1 * values[0] + 100


def test_no_thing_melts_into_the_background(composer, monkeypatch):
    red = np.zeros((20, 20, 4), np.uint8)
    red[...] = (215, 25, 30, 255)
    monkeypatch.setattr(composer, "_draw_ground", lambda rng, size: Image.new("RGB", (size, size), (200, 30, 30)))
    ground = np.asarray(composer._ground([red], np.random.default_rng(0)), int)
    assert np.abs(ground - (215, 25, 30)).sum(-1).min() > 110
    monkeypatch.setattr(composer, "_draw_ground", lambda rng, size: Image.new("RGB", (size, size), (0, 200, 30)))
    assert (np.asarray(composer._ground([red], np.random.default_rng(0))) == (0, 200, 30)).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_tinted_cut_out_keeps_its_shape_and_shading(colour):
    light = np.linspace(40, 230, 50).astype(np.uint8)
    pixels = np.zeros((10, 50, 4), np.uint8)
    pixels[..., :3], pixels[2:8, :, 3] = light[None, :, None], 255
    shade = COLOURS[colour][0]
    painted = tint(pixels, shade)
    assert np.array_equal(painted[..., 3], pixels[..., 3]) and pixels[0, 0, 0] == 40  # what went in stays
    tones = painted[5, :, :3].astype(int).sum(-1)
    assert (np.diff(tones) >= 0).all() and tones[-1] > tones[0] + 30
    full = painted[5, 0 if colour == "black" else -1, :3]
    assert np.abs(full.astype(int) - shade).max() <= 1


@pytest.mark.parametrize("colour", COLOURS)
def test_a_flat_cut_out_gets_the_colour_itself(colour):
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[..., :3] = (10, 200, 30)
    for shade in COLOURS[colour]:
        assert (tint(pixels, shade)[..., :3] == shade).all()


def test_a_cut_out_of_nothing_stays_one():
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[..., 3] = 0  # nothing to be seen
    assert tint(pixels, (30, 80, 210)).shape == (4, 4, 4)


@pytest.mark.parametrize(
    ("change", "fit"),
    [
        ({}, True),
        ({"alpha": False}, False),
        ({"name": "owls"}, False),
        ({"name": "milk", "article": "some"}, False),
        ({"name": "boots", "article": "a pair of"}, False),
        ({"name": "red balloon"}, False),
        ({"name": "broken heart"}, False),
        ({"name": "two hearts"}, False),
        ({"name": "redwood"}, True),
    ],
)
def test_what_a_scene_can_show(change, fit):
    assert fits({"name": "owl", "article": "an", "alpha": True, **change}) is fit


def test_without_a_cut_out_there_is_no_scene(folder, rows):
    with pytest.raises(ValueError, match="none of 6 pictures is a cut-out that a scene can show"):
        Composer(folder, [{**row, "alpha": False} for row in rows])


def test_a_thing_knows_its_middle_and_size():
    thing = Thing("owl", "an", "owl", "red", (0.1, 0.2, 0.3, 0.8))
    assert thing.centre == pytest.approx((0.2, 0.5)) and thing.size == pytest.approx(0.6)
