import json

import pytest
import yaml

from assistant.errors import FetchError
from training.data import naming
from training.data.naming import build_naming

NOUNS = """
dev:
  explore_farm_animals:
    cow: {noun: cow, accept: [cow, cattle]}
test:
  erase:
    red_panda: {noun: red panda, accept: [red panda]}
    crab: {noun: crab, accept: [crab]}
"""


@pytest.fixture
def package(tmp_path, monkeypatch, write_rcc):
    """A ``gcompris-qt-data`` with three photographs, and nouns for them."""
    folder = tmp_path / "package"
    archives = folder / "usr/share/gcompris-qt/rcc"
    archives.mkdir(parents=True)
    farm = {"src/farm/animals/cow.webp": b"cow photo", "src/farm/cow.qml": b"text", "src/farm/animals/dog.webp": b"dog"}
    (archives / "explore_farm_animals.rcc").write_bytes(write_rcc(farm))
    erase = {"src/erase/red_panda.webp": b"red panda photo", "src/erase/crab.webp": b"crab photo"}
    (archives / "erase.rcc").write_bytes(write_rcc(erase))
    (folder / "usr/share/doc/gcompris-qt-data").mkdir(parents=True)
    (folder / "usr/share/doc/gcompris-qt-data/copyright").write_text("who took them")
    nouns = tmp_path / "naming_nouns.yaml"
    nouns.write_text(NOUNS)
    monkeypatch.setattr(naming, "_NOUNS", nouns)
    asked = []
    monkeypatch.setattr(naming, "fetch_package", lambda name, progress=None: asked.append(name) or folder)
    return folder, nouns, asked


def rows(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def test_photographs_stay_as_they_are(package, tmp_path):
    folder = build_naming(tmp_path)
    assert folder == tmp_path / "data/naming"
    assert rows(folder / "dev") == [
        {"id": "explore_farm_animals-cow", "file": "pictures/cow.webp", "noun": "cow", "accept": ["cow", "cattle"]}
    ]
    assert [row["noun"] for row in rows(folder / "test")] == ["red panda", "crab"]
    assert (folder / "test/pictures/red_panda.webp").read_bytes() == b"red panda photo"
    assert (folder / "ATTRIBUTION.txt").read_text() == "who took them"


def test_built_once_and_again_when_the_nouns_change(package, tmp_path):
    _, nouns, asked = package
    build_naming(tmp_path)
    build_naming(tmp_path)
    assert len(asked) == 1
    nouns.write_text(NOUNS.replace("cattle", "ox"))
    assert rows(build_naming(tmp_path) / "dev")[0]["accept"] == ["cow", "ox"]


def test_a_missing_photograph_is_named(package, tmp_path):
    _, nouns, _ = package
    nouns.write_text(NOUNS.replace("crab:", "lobster:"))
    with pytest.raises(FetchError, match=r"erase holds no photograph lobster\.webp"):
        build_naming(tmp_path)
    assert not (tmp_path / "data/naming").exists()


def test_the_committed_nouns_are_whole():
    nouns = yaml.safe_load(naming._NOUNS.read_text("utf-8"))
    count = {split: sum(map(len, activities.values())) for split, activities in nouns.items()}
    assert count == {"dev": 24, "test": 33}
    trivial = {"animal", "mammal", "reptile", "creature", "wildlife", "pet"}
    for activities in nouns.values():
        for photographs in activities.values():
            for stem, entry in photographs.items():
                assert entry["accept"] and not trivial & set(entry["accept"]), stem
                # The noun counts, or its last word does ("macaw" of "scarlet macaw").
                assert any(entry["noun"].endswith(word) for word in entry["accept"]), stem
