import sys

import pytest

from assistant.errors import FetchError
from training.data.drawn import drawn_once


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    (tmp_path / "fingerprint").write_text("one")
    return tmp_path


@pytest.fixture
def draw():
    def draw(work):
        draw.calls += 1
        (work / "a.txt").write_text("a")
        yield {"file": "a.txt", "number": draw.calls}

    draw.calls = 0
    return draw


def test_drawn_once_and_again_when_what_it_is_made_from_changes(source, draw, tmp_path):
    code = [sys.modules[__name__]]
    folder, rows = drawn_once("things", source, code, draw)
    assert folder == tmp_path / "home/data/things" and (folder / "a.txt").read_text() == "a"
    assert rows == [{"file": "a.txt", "number": 1}] == drawn_once("things", source, code, draw)[1]
    (source / "fingerprint").write_text("two")
    assert drawn_once("things", source, code, draw)[1] == [{"file": "a.txt", "number": 2}]
    assert drawn_once("things", source, [], draw)[1] == [{"file": "a.txt", "number": 3}]


def test_what_was_cut_off_is_drawn_anew(source, draw):
    def broken(work):
        yield {"file": "half"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn_once("things", source, [], broken)
    assert drawn_once("things", source, [], draw)[1] == [{"file": "a.txt", "number": 1}]


def test_a_folder_that_cannot_be_written_is_named(source, draw, tmp_path):
    (tmp_path / "home").write_text("no folder")
    with pytest.raises(FetchError, match=r"cannot write pictures under .*things"):
        drawn_once("things", source, [], draw)
