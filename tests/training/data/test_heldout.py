"""Nothing that is held out may be named in training, by the tables as they are committed."""

import re
from pathlib import Path

import pytest
import yaml

from training.data import heldout
from training.data.build import keep
from training.data.emoji import _TABLE as EMOJI
from training.data.heldout import heldout_in, heldout_objects, heldout_part
from training.data.naming import _NOUNS
from training.data.openclipart import _TABLE as OPENCLIPART
from training.data.rows import Source, read_table

PHOTOGRAPHED = [
    noun
    for activities in yaml.safe_load(_NOUNS.read_text("utf-8")).values()
    for photographs in activities.values()
    for entry in photographs.values()
    for noun in (entry["noun"], *entry["accept"])
]


def source(name: str, key: str, *aliases: str, tags: tuple[str, ...] = ()) -> Source:
    return Source(Path("x.png"), "x", "google", "google-flat", name, "a", key, list(aliases), list(tags))


def table_sources() -> list[Source]:
    rows = [row for table in (EMOJI, OPENCLIPART) for row in read_table(table) if row[1] != "-"]
    padded = [(*row[1:], "", "")[:3] for row in rows]
    return [source(name, key or name, *filter(None, aliases.split(","))) for name, key, aliases in padded]


def test_about_150_objects_are_held_out():
    assert 140 <= len(set(heldout_objects().values())) <= 160


def test_no_object_is_listed_twice():
    lines = [line for line in heldout._LIST.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    spellings = [word.strip() for line in lines for word in line.split(",")]
    assert len(spellings) == len(set(spellings))


def test_no_naming_photograph_shows_a_held_out_object():
    assert heldout_in(PHOTOGRAPHED) == set()


@pytest.mark.parametrize("phrase", ["guitar", "electric guitars", "guitar case", "fire trucks", "t-rex", "a fiddle"])
def test_finds_singular_plural_and_parts(phrase):
    assert heldout_in([phrase])


@pytest.mark.parametrize("phrase", ["bear", "cartoon", "wheelchair", "newspaper", "keyboard", "tennis racket"])
def test_finds_whole_words_only(phrase):
    assert heldout_in([phrase]) == set()


def test_a_picture_of_a_held_out_object_is_kept_for_evaluation():
    assert keep(source("acoustic guitar", "guitar", "guitar"))


@pytest.mark.parametrize(
    "picture",
    [
        source("guitar case", "case"),
        source("toy", "toy", "small guitars"),
        source("guitar and violin", "guitar"),
        source("apple", "apple", "fiddle"),
    ],
    ids=lambda picture: picture.name,
)
def test_a_picture_that_only_mentions_one_is_left_out(picture):
    assert not keep(picture)


def test_no_training_row_of_the_tables_names_a_held_out_object():
    """Checked with a plain word search, not with the function that the build uses."""
    words = re.compile(rf"\b({'|'.join(map(re.escape, heldout_objects()))})(e?s)?\b")
    leaks, trained = [], 0
    for row in filter(keep, table_sources()):
        if row.object not in heldout_objects():
            trained += 1
            leaks += [phrase for phrase in (row.name, row.object, *row.aliases) if words.search(phrase)]
    assert trained > 2000
    assert not leaks


def test_about_half_of_the_objects_are_for_each_set():
    parts = [heldout_part(key) for key in set(heldout_objects().values())]
    assert 0.4 < parts.count("test") / len(parts) < 0.6
    assert (heldout_part("lion"), heldout_part("zebra")) == ("dev", "test")  # the split must never change
