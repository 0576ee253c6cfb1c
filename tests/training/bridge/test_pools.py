import numpy as np
import pytest

from training.bridge.pools import Shown, make_pools, names_of_class, pick
from training.bridge.run import training_rows
from training.data.imagenet import ImageNetClass
from training.data.scenes import Thing
from training.data.shapes import SHAPE_OF, SHAPES

WORDS = ["cat", None, "toy", "cat", "cat", "dog", "dog", "house", "house", "house", "toy", "toy"]
NAMES = "lion,barn,kite,tiger,lynx,hound,pug,hut,villa,cabin,hammer,doll".split(",")


@pytest.fixture
def classes():
    """Three cats, two dogs, three houses and three toys of which one, a hammer, is held out."""
    return [
        ImageNetClass(i, name, "a", (), "", word, name == "hammer")
        for i, (name, word) in enumerate(zip(NAMES, WORDS, strict=True))
    ]


@pytest.fixture
def rows():
    """A hundred and twenty objects, every third drawn in a second style as well."""
    objects = [(i, style) for i in range(120) for style in ("line", "flat")[: 2 if i % 3 == 0 else 1]]
    return [
        {"article": "an" if i == 7 else "a", "name": f"thing {i}", "object": f"thing {i:03d}", "style": style}
        for i, style in objects
    ]


@pytest.fixture
def things():
    """A hundred and one scenes; every second shows copies of one thing, the others two things."""
    box = (0.0, 0.0, 0.1, 0.1)
    return [
        tuple(Thing("x", "a", "x" if i % 2 == 0 else f"x{j}", "red", box) for j in range(i % 3 + 2)) for i in range(101)
    ]


@pytest.fixture
def made(rows, classes, things):
    return make_pools(rows, classes, things, 4)


def test_training_and_validation_share_no_object_and_no_scene(made, rows):
    train, validation = made
    objects = [{rows[i]["object"] for i in pool.pictures} for pool in made]
    assert not objects[0] & objects[1]
    assert objects[1] == {"thing 000", "thing 050", "thing 100"}
    assert sorted([*train.pictures, *validation.pictures]) == list(range(len(rows)))
    assert sorted([*train.scenes, *validation.scenes]) == list(range(101))
    assert validation.scenes.tolist() == [0, 50, 100]


def test_the_split_follows_the_object_and_not_its_place_in_the_index(made, rows, classes, things):
    turned = list(reversed(rows))
    again = make_pools(turned, classes, things, 4)
    for pool, other in zip(made, again, strict=True):
        assert {rows[i]["object"] for i in pool.pictures} == {turned[i]["object"] for i in other.pictures}


def test_styles_are_those_of_objects_with_several(made, rows):
    for pool in made:
        drawn = set(pool.pictures.tolist())
        for key, styles in pool.styles.items():
            assert set(styles) == {"line", "flat"}
            for style, members in styles.items():
                assert set(members) <= drawn
                assert all((rows[i]["object"], rows[i]["style"]) == (key, style) for i in members)
        several = [rows[i]["object"] for i in pool.pictures]
        assert set(pool.styles) == {key for key in several if several.count(key) == 2}
        assert pool.styles


def test_no_thing_whose_shape_is_asked_in_training_is_asked_about_in_validation(rows, classes, things):
    shaped = [{**rows[0], "name": name, "object": name} for name in reversed(SHAPE_OF) for _ in range(2)]
    made = make_pools([*rows, *shaped], classes, things, 4)
    names = []
    for pool in made:
        assert set(pool.shapes) == set(SHAPES) and all(pool.shapes.values())
        of = {shape: [pool.names[i][0].removeprefix("a ") for i in members] for shape, members in pool.shapes.items()}
        assert all(SHAPE_OF[name] == shape for shape, some in of.items() for name in some)
        assert all(some.count(name) == 2 for some in of.values() for name in some)
        names.append({name for some in of.values() for name in some})
    assert not names[0] & names[1] and names[0] | names[1] == set(SHAPE_OF)
    assert len(names[1]) / len(SHAPE_OF) == pytest.approx(0.2, abs=0.05)


def test_the_truth_is_about_all_scenes(made, things):
    for pool in made:
        assert pool.truth.present.shape == (101, 11) and pool.truth.patches.shape == (101, 16)
        assert pool.truth.number[pool.alike].tolist() == [len(things[i]) - 1 for i in pool.alike]


def test_alike_scenes_show_copies_of_one_thing(made, things):
    for pool in made:
        assert set(pool.alike) <= set(pool.scenes) and len(pool.alike)
        assert all((len({thing.object for thing in things[i]}) == 1) == (i in pool.alike) for i in pool.scenes)


def test_families_have_three_members_and_none_that_is_held_out(made):
    for pool in made:
        assert pool.families == {"cat": [0, 3, 4], "house": [7, 8, 9]}  # two dogs and two toys are too few


def test_held_out_objects_are_neither_shown_nor_named(made, classes, tmp_path):
    held = [item.index for item in classes if item.heldout]
    for pool in made:
        assert held and not set(held) & set(pool.classes)
        assert not set(held) & {member for members in pool.families.values() for member in members}
        assert "hammer" not in " ".join(name for names in pool.class_names for name in names)
    index = (
        '{"name": "cat", "heldout": false}\n{"name": "hammer", "heldout": true}\n{"name": "dog", "heldout": false}\n'
    )
    (tmp_path / "index.jsonl").write_text(index)
    assert [row["name"] for row in training_rows(tmp_path)] == ["cat", "dog"]


def test_what_is_drawn_is_of_the_pool_and_named_so(made):
    rng = np.random.default_rng(0)
    for pool in made:
        drawn = [pool.any_picture(rng) for _ in range(300)]
        assert {shown.row for shown in drawn} <= set(pool.pictures.tolist())
        assert all(shown.name == pool.names[shown.row][0] and shown.source == "picture" for shown in drawn)
        assert len({shown.row for shown in drawn}) > min(60, len(pool.pictures) - 1)
        photos = [pool.any_photo(rng) for _ in range(300)]
        assert {shown.row for shown in photos} == set(pool.classes.tolist())
        assert all(shown.name in pool.class_names[shown.row] for shown in photos)
        assert {shown.source for shown in photos} == {"photo"}
    assert made[0].picture(8, rng) == Shown("picture", 8, "a thing 6")
    assert "an thing 7" in {pool.names[i][0] for pool in made for i in pool.pictures}


def test_a_class_is_also_called_by_the_word_above_it(classes):
    lion, barn = map(names_of_class, classes[:2])
    assert lion == ["a lion", "a cat"]
    assert barn == ["a barn"]
    owl = ImageNetClass(0, "great grey owl", "a", (), "", "owl", False)
    assert names_of_class(owl) == ["a great grey owl"]  # says it already
    assert names_of_class(ImageNetClass(0, "robin", "a", (), "", "animal", False))[1] == "an animal"
    assert names_of_class(classes[10]) == []  # the hammer


def test_every_name_is_picked_as_often_as_the_others():
    rng = np.random.default_rng(0)
    drawn = [pick(["one", "two", "three"], rng) for _ in range(4000)]
    assert [drawn.count(name) / 4000 for name in ("one", "two", "three")] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert pick(["alone"], rng) == "alone"
