import pytest

from training.data.emoji import emoji_sources


@pytest.fixture
def found(emojibase, tmp_path, draw):
    """Sources by name, of a style that has a picture of every emoji but one, and one with a skin tone."""
    folder = tmp_path / "assets"
    folder.mkdir()
    codes = ["1f34e", "1f336", "1f528", "1f55b", "1f1eb-1f1f7", "1f1e6", "1f609", "1f612", "1f9f0", "1f44b-1f3fb"]
    for code in codes:
        draw().save(folder / f"{code}.png")
    rows = emoji_sources(emojibase, folder, source="fluent", style="fluent-3d", licence="MIT")
    return {row.name: row for row in rows}


def test_keeps_what_sight_can_name(found):
    assert list(found) == ["red apple", "chili pepper", "hammer", "winking face", "toolbox"]


def test_a_row_is_complete(found):
    row = found["red apple"]
    assert (row.id, row.source, row.style, row.licence) == ("fluent-1f34e", "fluent", "fluent-3d", "MIT")
    assert (row.article, row.object, row.aliases, row.tags) == ("a", "apple", ["apple"], ["apple", "fruit"])
    assert row.path.name == "1f34e.png"


def test_an_emoji_that_the_table_leaves_alone_is_its_own_object(found):
    assert found["hammer"].object == "hammer"


def test_variation_selectors_do_not_matter(found):
    assert found["chili pepper"].id == "fluent-1f336"
