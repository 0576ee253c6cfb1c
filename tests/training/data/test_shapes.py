import json

import pytest

from assistant.home import home
from training.data.emoji import _TABLE as EMOJI
from training.data.heldout import heldout_in
from training.data.names import clean_name
from training.data.openclipart import _TABLE as OPENCLIPART
from training.data.rows import read_table
from training.data.shapes import _NAMES, SHAPE_OF, SHAPES

INDEX = home() / "data/default/index.jsonl"
# Emoji whose own labels are names already, so that the table of better names has no row for them.
LABELS = {"moon cake", "softball", "chocolate bar", "credit card", "window"}


def test_a_thing_has_one_shape():
    assert set(_NAMES) == set(SHAPES)
    assert len(SHAPE_OF) == sum(map(len, _NAMES.values()))
    assert all(clean_name(name) == name for name in SHAPE_OF)


def test_every_shape_has_things_to_train_and_to_validate_with():
    assert min(map(len, _NAMES.values())) >= 9


def test_things_with_a_shape_are_named_in_the_tables():
    named = {row[1] for table in (EMOJI, OPENCLIPART) for row in read_table(table)}
    assert set(SHAPE_OF) - named == LABELS


def test_no_plain_shape_and_no_held_out_object_is_among_them():
    assert not [name for name in SHAPE_OF if set(name.split()) & {*SHAPES, "square", "oval", "box"}]
    assert not heldout_in(SHAPE_OF)


@pytest.mark.skipif(not INDEX.is_file(), reason="needs the training set: assistant data build default")
def test_things_with_a_shape_are_in_the_training_set():
    with INDEX.open(encoding="utf-8") as lines:
        names = {row["name"] for row in map(json.loads, lines) if not row["heldout"]}
    assert not set(SHAPE_OF) - names
