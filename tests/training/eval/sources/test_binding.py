from collections import Counter

import pytest

from training.data import views
from training.data.heldout import heldout_part
from training.data.made_up import evaluation_names
from training.eval.sources import binding as module
from training.eval.sources.binding import binding


@pytest.fixture(autouse=True)
def small(built, fewer):
    fewer(module, ITEMS=24)
    fewer(views, VIEWS=3)


def parts(file):
    """Style and object that a file of the small data set shows."""
    for style in ("fluent-3d", "google-flat", "clipart"):
        if file.stem.startswith(style):
            return style, file.stem.removeprefix(f"{style}-").split("-")[0]
    raise AssertionError(file)


@pytest.mark.parametrize("which", ["dev", "test"])
@pytest.mark.parametrize("ways", [2, 5])
def test_the_examples_name_the_object_of_the_query_in_another_style(which, ways):
    for item in binding(which, 0, ways):
        style, asked = parts(item.query.pictures[0])
        named = {}
        for example in item.pool:
            shown, thing = parts(example.pictures[0])
            assert shown != style and f"{shown} to {style}" == item.query.kind
            assert named.setdefault(example.accept[0], thing) == thing
            assert example.answer == f"A {example.accept[0]}." and example.question == item.query.question
            assert example.choices == item.query.choices and example.pictures[0].is_file()
        assert named[item.query.accept[0]] == asked
        assert len(set(named.values())) == ways and set(named) == set(item.query.choices)
        assert Counter(example.balance for example in item.pool) == dict.fromkeys(named, 3)
        assert len({example.pictures for example in item.pool}) == ways * 3


def test_names_have_different_first_letters_and_are_not_for_training():
    for item in binding("test", 0, 5):
        assert len({name[0] for name in item.query.choices}) == 5
        assert set(item.query.choices) <= set(evaluation_names("test"))


def test_dev_and_test_share_no_object_and_all_are_asked_about_alike():
    seen = {}
    for which in ("dev", "test"):
        asked = Counter(parts(item.query.pictures[0])[1] for item in binding(which, 0))
        assert {heldout_part(key) for key in asked} == {which}
        assert max(asked.values()) - min(asked.values()) <= 1 and "robot" not in asked
        seen[which] = set(asked)
    assert not seen["dev"] & seen["test"]


def test_the_same_seed_gives_the_same_items():
    first = binding("dev", 0)
    assert binding("dev", 0) == first
    assert binding("dev", 1) != first


def test_the_place_among_the_choices_tells_nothing():
    places = Counter(item.query.choices.index(item.query.accept[0]) for item in binding("dev", 0))
    assert set(places) == {0, 1}


def test_too_many_ways_are_refused():
    with pytest.raises(ValueError, match="ask for fewer ways"):
        binding("test", 0, 30)
