import json
from io import BytesIO

import pytest
from PIL import Image

pytest.importorskip("streamlit")

from assistant.errors import ImageError, InputError
from ui.page.example_sets import list_sets, load_set, read_set, save_set


def png(colour="red") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def lines(*rows) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


ROW = {"image": "a.png", "question": "What?", "answer": "red"}


def test_lines_find_their_pictures_beside_them_and_anywhere():
    rows = [ROW, {"question": "2 + 2?", "answer": "4", "enabled": False}]
    for table, picture in (("set/x.jsonl", "set/a.png"), ("x.jsonl", "elsewhere/a.png")):
        first, second = read_set({table: lines(*rows), picture: png()})
        assert (first.picture.image.size, first.answer, first.enabled) == ((4, 3), "red", True)
        assert (second.picture, second.question, second.enabled) == (None, "2 + 2?", False)


def test_pictures_alone_are_named_by_folders_or_by_themselves():
    by_folder = read_set({"all/big_dog/1.png": png(), "all/cat/2.png": png(), "all/notes.txt": b""})
    assert [demo.answer for demo in by_folder] == ["big dog", "cat"]
    assert [demo.answer for demo in read_set({"all/red.png": png(), "all/blue.png": png()})] == ["blue", "red"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no examples"),
        ({"x.jsonl": b"{"}, "line 1: is no JSON"),
        ({"x.jsonl": b"\xff\xfe"}, "UTF-8"),
        ({"x.jsonl": b"[" * 100_000}, "no JSON"),
        ({"x.jsonl": lines({"question": "a"})}, '"answer"'),
        ({"x.jsonl": lines(ROW)}, "'a.png'"),
        ({"x.jsonl": lines({**ROW, "image": 3})}, '"image"'),
        ({"x.jsonl": lines(*[{"question": "a", "answer": "b"}] * 1001)}, "1001"),
    ],
)
def test_a_bad_set_is_refused(files, reason):
    with pytest.raises(InputError, match=reason):
        read_set(files)


def test_a_bad_picture_is_refused():
    with pytest.raises(ImageError, match=r"a\.png"):
        read_set({"x.jsonl": lines(ROW), "a.png": b"no"})


def test_a_named_set_comes_back_as_it_was():
    demos = read_set({"x.jsonl": lines(ROW, {"question": "2?", "answer": "两", "enabled": False}), "a.png": png()})
    assert save_set(" my/../set ", demos) == "my-set"
    assert list_sets() == ["my-set"]
    back = load_set("my-set")
    assert [(one.question, one.answer, one.enabled) for one in back] == [("What?", "red", True), ("2?", "两", False)]
    assert back[0].picture.digest == demos[0].picture.digest
    save_set("my-set", demos[:1])
    assert len(load_set("my-set")) == 1


def test_a_set_needs_a_name_and_examples():
    demos = read_set({"red.png": png()})
    with pytest.raises(InputError, match="name"):
        save_set("../..", demos)
    with pytest.raises(InputError, match="no examples"):
        save_set("x", [])
