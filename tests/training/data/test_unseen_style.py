import json

import pytest
from PIL import Image

from training.data import unseen_style as module
from training.data.heldout import heldout_part
from training.data.unseen_style import unseen_style

ROWS = [
    *[("cat", name) for name in ("cat", "cat", "kitten", "cat")],
    *[("owl", "owl")] * 4,
    *[("man", "man")] * 4,
    *[("bee", "bee")] * 3,
    *[("red star", "red star")] * 4,
    *[("lion", "lion")] * 4,
]
EMOJI = {
    "1F408": "cat",
    "1F431": "kitten",
    "1F989": "owl",
    "1F468": "man",
    "1F41D": "bee",
    "2B50": "red star",
    "1F981": "lion",
}


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """All rows of both sets, made of a small training set and a small package."""
    index = [
        {"object": key, "name": name, "aliases": ["puss"] if name == "kitten" else [], "heldout": key == "lion"}
        for key, name in ROWS
    ]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in index))
    (tmp_path / "package/en").mkdir(parents=True)
    table = [{"label": name, "hexcode": code, "group": 3, "tags": []} for code, name in EMOJI.items()]
    (tmp_path / "package/en/data.json").write_text(json.dumps(table))
    folder = tmp_path / "package/img/twitter/64"
    folder.mkdir(parents=True)
    for code in EMOJI:
        Image.new("RGBA", (8, 8)).save(folder / f"{code.lower()}.png")
    monkeypatch.setattr(module, "build", lambda name, progress=None: tmp_path)
    monkeypatch.setattr(module, "fetch_package", lambda name, progress=None: tmp_path)
    return {which: unseen_style(which) for which in ("dev", "test")}


def test_things_that_training_names_often_enough(rows):
    # no person, nothing seen three times alone, no name with a colour, nothing held out, no second name of a thing
    assert sorted(row["name"] for part in rows.values() for row in part) == ["cat", "owl"]
    for which, part in rows.items():
        assert all(heldout_part(row["object"]) == which for row in part)


def test_other_names_of_a_thing_are_its_aliases(rows):
    by_name = {row["name"]: row for part in rows.values() for row in part}
    assert by_name["cat"]["aliases"] == ["kitten", "puss"] and by_name["owl"]["aliases"] == []
    assert by_name["cat"]["file"].endswith("1f408.png") and by_name["owl"]["article"] == "an"
