import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.emoji import _TABLE as EMOJI
from training.data.names import article, clean_name, sentence, singular, with_article
from training.data.openclipart import _TABLE as OPENCLIPART
from training.data.rows import read_table

NAME = re.compile(r"[a-z0-9](?:[a-z0-9'-]*[a-z0-9])?(?: [a-z0-9](?:[a-z0-9'-]*[a-z0-9])?)*")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Red Apple", "red apple"),
        ("cat 01", "cat"),
        ("cat_02.svg", "cat"),
        ("tulips7", "tulips"),
        ("An  Apple", "apple"),
        ("the moon", "moon"),
        ("Ice Cream Cone (2 Scoop) (B and W)", "ice cream cone"),
        ("woman’s hat", "woman's hat"),
        ("piñata", "pinata"),
        ("T-Rex", "t-rex"),
        ("-- t-shirt --", "t-shirt"),
        ("12", ""),
        ("…", ""),
        ("猫", ""),
    ],
)
def test_titles_become_names(title, name):
    assert clean_name(title) == name


@given(st.text(max_size=40) | st.text("aAbB19 ()_-'’.é", max_size=30))
def test_a_clean_name_is_plain_or_empty_and_stays_as_it_is(title):
    name = clean_name(title)
    assert name == "" or NAME.fullmatch(name)
    assert clean_name(name) == name


@given(st.lists(st.text("abcdefisxyz", min_size=1, max_size=8), min_size=1, max_size=3).map(" ".join))
def test_singular_keeps_all_words_but_the_last(phrase):
    one = singular(phrase)
    assert one.split(" ")[:-1] == phrase.split(" ")[:-1]
    assert one.split(" ")[-1]


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("red apples", "red apple"),
        ("cherries", "cherry"),
        ("foxes", "fox"),
        ("peaches", "peach"),
        ("leaves", "leaf"),
        ("glasses", "glasses"),
        ("octopus", "octopus"),
        ("praying mantis", "praying mantis"),
        ("cameras", "camera"),
        ("gas", "gas"),
        ("keys", "key"),
        ("dress", "dress"),
        ("triceratops", "triceratops"),
    ],
)
def test_singular(many, one):
    assert singular(many) == one


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("apple", "an"),
        ("red apple", "a"),
        ("hourglass", "an"),
        ("unicorn", "a"),
        ("umbrella", "an"),
        ("usb stick", "a"),
        ("x-ray picture", "an"),
        ("scissors", "a pair of"),
        ("tennis shoes", "a pair of"),
        ("cherries", "some"),
        ("bunch of grapes", "a"),
        ("pair of eyes", "a"),
        ("popcorn", "some"),
        ("mug of beer", "a"),
        ("fireworks", ""),
        ("planet earth", ""),
        ("two dice", ""),
        ("monkey covering its eyes", "a"),
        ("fire warning sign", "a"),
        ("leaves", "some"),
    ],
)
def test_article(name, before):
    assert article(name) == before


def test_names_of_the_tables_are_clean():
    wrong = []
    for table in (EMOJI, OPENCLIPART):
        for _, name, *rest in read_table(table):
            key, aliases = (*rest, "", "")[:2]
            phrases = [name, key, *aliases.split(",")] if name != "-" else []
            wrong += [phrase for phrase in phrases if phrase and clean_name(phrase) != phrase]
    assert not wrong


@pytest.mark.parametrize("table", [EMOJI, OPENCLIPART], ids=lambda path: path.stem)
def test_tables_name_nothing_twice(table):
    keys = [row[0] for row in read_table(table)]
    assert len(keys) == len(set(keys))


def test_object_keys_are_singular_where_the_thing_has_one():
    rows = [row for table in (EMOJI, OPENCLIPART) for row in read_table(table)]
    plural = {row[2] for row in rows if len(row) > 2 and singular(row[2]) != row[2] and " of " not in row[2]}
    assert plural == {
        *("clapping hands", "folded hands", "heart hands", "lips", "lungs", "skull and crossbones", "wrestlers"),
        *("fireworks", "french fries", "loppers", "stairs"),
    }


def test_names_carry_their_article():
    assert with_article("an", "owl") == "an owl"
    assert with_article("", "fireworks") == "fireworks"


def test_a_sentence_starts_with_a_capital_and_ends_with_a_stop():
    assert sentence("a lion") == "A lion."
    assert sentence("Mars") == "Mars."
