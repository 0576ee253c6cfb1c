import json

import pytest
from PIL import Image, ImageDraw

from training.data import training_scenes as module
from training.data.scenes import Thing
from training.data.training_scenes import training_scenes


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A built data set of eight cut-outs, of which every fourth is held out."""
    source = tmp_path / "default"
    source.mkdir()
    rows = []
    for i in range(8):
        picture = Image.new("RGBA", (60, 60))
        ImageDraw.Draw(picture).ellipse((5, 15, 55, 45), fill=(20 * i, 90, 120, 255))
        picture.save(source / f"{i}.png")
        row = {"id": str(i), "file": f"{i}.png", "name": f"thing{i}x", "article": "a", "object": f"o{i}", "alpha": True}
        rows.append({**row, "heldout": i % 4 == 1})
    (source / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source / "fingerprint").write_text("one")
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "build", lambda name, progress=None: source)
    return source


def content(scenes):
    return [(file.name, file.read_bytes(), things) for file, things in scenes]


def test_scenes_are_drawn_and_told(source, tmp_path):
    scenes = training_scenes(8)
    assert len(scenes) == 8
    for file, things in scenes:
        assert file.parent == tmp_path / "home/data/scenes-8"
        with Image.open(file) as picture:
            assert picture.size == (260, 260) and picture.mode == "RGB"
        assert things and all(isinstance(thing, Thing) and len(thing.box) == 4 for thing in things)
    numbers = [len(things) for _, things in scenes]
    # one, copies, pair, one, copies, pair, several, pair
    assert [numbers[i] for i in (0, 2, 3, 5, 6, 7)] == [1, 2, 1, 2, 3, 2]
    assert all(len({thing.object for thing in scenes[i][1]}) == 1 for i in (0, 1, 3, 4))


def test_a_smaller_set_is_the_start_of_a_larger_one(source):
    few, many = content(training_scenes(3)), content(training_scenes(6))
    assert many[:3] == few
    assert len({picture for _, picture, _ in many}) == 6


def test_no_held_out_object_is_in_any(source):
    shown = {thing.object for _, things in training_scenes(60) for thing in things}
    assert shown == {"o0", "o2", "o3", "o4", "o6", "o7"}


def test_scenes_are_drawn_once(source, monkeypatch):
    first = content(training_scenes(3))
    monkeypatch.setattr(module, "Composer", None)  # whoever draws fails
    assert content(training_scenes(3)) == first


def test_another_data_set_is_drawn_anew(source):
    first = content(training_scenes(3))
    rows = [json.loads(line) for line in (source / "index.jsonl").read_text().splitlines()]
    (source / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    assert content(training_scenes(3)) == first  # what a data set is made of, its fingerprint tells
    (source / "fingerprint").write_text("two")
    assert content(training_scenes(3)) != first


def test_progress_is_told(source):
    told = []
    training_scenes(200, lambda *report: told.append(report))
    assert told == [("drawing scenes", 100, 200), ("drawing scenes", 200, 200)]
