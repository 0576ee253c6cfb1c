import json
from pathlib import Path

import pytest
from PIL import Image

from assistant.errors import ConfigError, FetchError
from training.data import build as module
from training.data import openclipart
from training.data.build import build, build_default
from training.data.pictures import trim

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"><rect x="{x}" y="9" width="50" height="40" '
SVG += 'fill="{f}"/>'


@pytest.fixture
def fetched(tmp_path, monkeypatch, emojibase, draw):
    """Small packages in place of the real ones; holds the names of those that were asked for."""
    fluent, google = tmp_path / "fluent/package/assets", tmp_path / "google/package/img/google/64"
    drawings = tmp_path / "clipart/usr/share/openclipart/svg"
    for folder in (fluent, google, drawings):
        folder.mkdir(parents=True)
    for number, code in enumerate(["1f34e", "1f528", "1f6e0", "1f9f0", "1f967"]):
        draw((0, 50 * number, 200)).save(fluent / f"{code}.webp", lossless=True)
        draw((200, 50 * number, 0)).save(google / f"{code}.png")
    for name, x, fill in (("apple", 9, "red"), ("copy", 9, "red"), ("ink", 9, "#222"), ("blank", 9, "white")):
        (drawings / f"{name}.svg").write_text(
            SVG.format(x=x, f=fill) + '<circle cx="34" cy="60" r="15" fill="gray"/></svg>'
        )
    (drawings / "blank.svg").write_text(SVG.format(x=9, f="white") + "</svg>")
    table = tmp_path / "table.tsv"
    table.write_text("apple\tapple\ncopy\tred apple\tapple\nblank\tsheet of paper\nink\tapple\napple2\thammer head\n")
    monkeypatch.setattr(openclipart, "_TABLE", table)
    (drawings / "apple2.svg").write_text("<svg/>")
    folders = dict(zip(module._PACKAGES, ("fluent", "google", "emojibase", "clipart"), strict=True))
    asked = []

    def fetch_package(name, *, progress=None):
        asked.append(name)
        return emojibase if name == "emojibase-data" else tmp_path / folders[name]

    monkeypatch.setattr(module, "fetch_package", fetch_package)
    return asked


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def test_the_index_holds_every_picture_once(fetched, tmp_path):
    folder = build_default(tmp_path)
    assert folder == tmp_path / "data/default"
    index = rows(folder)
    assert [row["name"] for row in index] == [
        *("red apple", "hammer", "toolbox", "pie"),
        *("red apple", "hammer", "toolbox", "pie"),
        *("apple", "apple"),
    ]
    assert {row["file"] for row in index} == {f"pictures/{path.name}" for path in (folder / "pictures").iterdir()}
    assert "fluent-emoji-3d" in (folder / "ATTRIBUTION.md").read_text()


def test_a_row_has_the_fields_that_training_reads(fetched, tmp_path):
    row = rows(build_default(tmp_path))[0]
    assert row == {
        "id": "fluent-1f34e",
        "source": "fluent",
        "style": "fluent-3d",
        "name": "red apple",
        "article": "a",
        "object": "apple",
        "aliases": ["apple"],
        "tags": ["apple", "fruit"],
        "licence": "MIT",
        "file": "pictures/fluent-1f34e.png",
        "alpha": True,
        "heldout": False,
    }
    with Image.open(tmp_path / "data/default" / row["file"]) as picture:
        assert (picture.mode, picture.format) == ("RGBA", "PNG")


def test_held_out_objects_are_marked_and_named_nowhere_else(fetched, tmp_path):
    index = rows(build_default(tmp_path))
    assert {row["name"] for row in index if row["heldout"]} == {"hammer", "toolbox"}
    assert next(row["tags"] for row in index if row["name"] == "pie") == ["pastry"]


def test_drawings_without_colour_are_a_style_of_their_own(fetched, tmp_path):
    styles = [row["style"] for row in rows(build_default(tmp_path)) if row["source"] == "openclipart"]
    assert styles == ["clipart", "clipart-grey"]


def test_two_builds_are_equal_byte_for_byte(fetched, tmp_path):
    first, second = build_default(tmp_path / "one"), build_default(tmp_path / "two")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_a_built_set_is_found_without_packages(fetched, tmp_path):
    build_default(tmp_path)
    asked = len(fetched)
    build_default(tmp_path)
    assert len(fetched) == asked


def test_an_interrupted_build_goes_on(fetched, tmp_path, monkeypatch):
    def stop(what, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_default(tmp_path, stop)
    assert not (tmp_path / "data/default").exists()

    drawn = []
    monkeypatch.setattr(module, "trim", lambda picture: drawn.append(picture) or trim(picture))
    whole = rows(build_default(tmp_path))
    assert len(whole) == 10
    assert len(drawn) == 12 - 5
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == ["default"]


def test_other_tables_make_another_build(fetched, tmp_path, monkeypatch):
    build_default(tmp_path)
    monkeypatch.setattr(module, "_RECIPE", 0)
    asked = len(fetched)
    build_default(tmp_path)
    assert len(fetched) == 2 * asked


def test_progress_is_told(fetched, tmp_path):
    heard = []
    build_default(tmp_path, lambda *args: heard.append(args))
    assert heard[0] == ("drawing pictures", 0, 12)
    assert heard[-1] == ("drawing pictures", 12, 12)


def test_a_place_that_cannot_be_written_is_a_clear_error(fetched, tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(FetchError, match="cannot write the data set"):
        build_default(tmp_path)


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(ConfigError, match=r"'defualt'; known are default, naming"):
        build("defualt")


def test_build_goes_under_home(fetched, tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    assert build("default") == tmp_path / "home/data/default"
