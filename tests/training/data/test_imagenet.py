import json

import pytest

from training.data import imagenet
from training.data.imagenet import imagenet_classes
from training.data.names import clean_name
from training.data.rows import read_table


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """Five classes in place of the thousand."""
    folder = tmp_path / "imagenet_classes"
    folder.mkdir()
    names = ["tench", "kite (bird of prey)", "acoustic guitar", "Siberian Husky", "cougar"]
    labels = [
        "tench, Tinca tinca",
        "kite",
        "acoustic guitar",
        "Siberian husky",
        "cougar, puma, mountain lion, Felis concolor",
    ]
    written = {"0": {"name": ["tench"], "description": "A thick-bodied fish."}}
    for part, content in (
        ("clean_names", names),
        ("label_to_names", {str(index): label for index, label in enumerate(labels)}),
        ("gpt_names_descriptions", written),
    ):
        (folder / f"imagenet1k_{part}.json").write_text(json.dumps(content))
    table = tmp_path / "table.tsv"
    table.write_text("# comment\n0\t\tfish\n1\tred kite bird\n3\t\tdog\n")
    monkeypatch.setattr(imagenet, "_TABLE", table)
    monkeypatch.setattr(imagenet, "fetch_package", lambda name: tmp_path)
    return imagenet_classes()


def test_order_is_that_of_the_classifier(classes):
    assert [item.index for item in classes] == [0, 1, 2, 3, 4]


def test_names_are_lower_case_or_the_better_ones(classes):
    assert [item.name for item in classes] == [
        "tench",
        "red kite bird",
        "acoustic guitar",
        "siberian husky",
        "cougar",
    ]
    assert classes[2].article == "an"


def test_everyday_words_and_descriptions_where_there_are_some(classes):
    assert [item.coarse for item in classes] == ["fish", None, None, "dog", None]
    assert [item.description for item in classes] == ["A thick-bodied fish.", "", "", "", ""]


def test_aliases_hold_neither_science_nor_held_out_nouns(classes):
    assert [item.aliases for item in classes] == [(), (), (), (), ("puma",)]


def test_held_out_objects_are_marked(classes):
    assert [item.heldout for item in classes] == [False, True, True, False, False]


def test_the_committed_table_fits_the_thousand():
    rows = read_table(imagenet._TABLE)
    indices = [int(row[0]) for row in rows]
    assert indices == sorted(set(indices)) and indices[-1] < 1000
    assert {row[2] for row in rows if 151 <= int(row[0]) <= 268} == {"dog"}
    assert all(clean_name(phrase) == phrase for row in rows for phrase in row[1:])
