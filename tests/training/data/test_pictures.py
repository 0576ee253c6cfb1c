import pytest
from PIL import Image

from training.data.pictures import MAX_SIDE, flatten, is_grey, render_svg, trim

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}">{body}</svg>'
CIRCLE = '<circle cx="50" cy="50" r="20" fill="{fill}"/>'


@pytest.fixture
def svg(tmp_path):
    def write(body, w="96pt", h="48pt"):
        path = tmp_path / "drawing.svg"
        path.write_text(SVG.format(w=w, h=h, body=body))
        return path

    return write


def test_a_page_in_points_is_rendered_large_and_transparent(svg):
    picture = render_svg(svg(CIRCLE.format(fill="red")))
    assert (picture.mode, picture.size) == ("RGBA", (640, 320))
    assert picture.getpixel((266, 266)) == (255, 0, 0, 255)
    assert picture.getpixel((5, 5))[3] == 0


def test_letters_are_not_drawn(svg):
    picture = render_svg(svg('<text x="5" y="30" font-size="30">abc</text>'))
    assert picture.getchannel("A").getbbox() is None


def test_what_is_no_drawing_is_an_error(tmp_path):
    path = tmp_path / "a.svg"
    path.write_text("not a drawing")
    with pytest.raises(ValueError):
        render_svg(path)


def test_margins_go_and_the_longest_side_is_limited(draw):
    assert trim(draw(size=100)).size == (51, 51)
    large = draw(size=100).resize((1500, 1000), Image.Resampling.NEAREST)
    assert max(trim(large).size) == MAX_SIDE


def test_alpha_stays_only_where_something_is_transparent(draw):
    assert trim(draw("red")).mode == "RGBA"
    assert trim(draw("red", shape="rectangle")).mode == "RGB"


@pytest.mark.parametrize("colour", ["white", (255, 255, 255, 0), (250, 250, 250, 255)])
def test_what_cannot_be_seen_is_no_picture(draw, colour):
    assert trim(draw(colour)) is None


def test_a_speck_is_no_picture():
    picture = Image.new("RGBA", (100, 100))
    picture.paste((0, 0, 0, 255), (10, 10, 15, 15))
    assert trim(picture) is None


def test_grey_is_told_from_colour(draw):
    assert is_grey(draw("black")) and is_grey(draw((120, 120, 120)))
    assert not is_grey(draw("red"))


def test_flatten_lays_on_the_colour(draw):
    flat = flatten(draw("red"), (0, 0, 255))
    assert flat.mode == "RGB"
    assert flat.getpixel((0, 0)) == (0, 0, 255) and flat.getpixel((45, 55)) == (255, 0, 0)
