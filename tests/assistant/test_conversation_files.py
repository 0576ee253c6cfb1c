import base64
import copy
import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assistant import conversation_files
from assistant.conversation import Conversation, Demo, Turn
from assistant.conversation_files import read_conversation, write_conversation
from assistant.errors import InputError
from assistant.images import Picture
from prompts import assistant_message, user_message


def picture(seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Picture(Image.fromarray(values), f"{seed}.png")


def conversation():
    question = Turn(user_message("[img1] 是狮子吗?", [picture(1)]))
    answer = Turn(assistant_message("yes"), parent=question.id, finish_reason="stop")
    turns = {question.id: question, answer.id: answer}
    return Conversation(
        title="lions", system="be brief", demos=(Demo(picture(2), "q", "a"),), turns=turns, head=answer.id
    )


def refusal(path):
    """The one line that refuses a file; it begins with its name, and the file stays as it is."""
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(InputError) as caught:
        read_conversation(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: cannot be imported: ") and "\n" not in line
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    return line


@pytest.fixture
def data(tmp_path):
    """What an exported .json holds."""
    write_conversation(conversation(), tmp_path / "a.json")
    return json.loads((tmp_path / "a.json").read_bytes())


@pytest.fixture
def refused(tmp_path):
    """Writes a value as .json, or bytes as they are, and gives the line that refuses it."""

    def write_and_refuse(value):
        path = tmp_path / "bad.json"
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return refusal(path)

    return write_and_refuse


# ---- writing


def test_a_zip_holds_pictures_that_others_can_open(tmp_path):
    write_conversation(conversation(), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        names = {f"pictures/{picture(seed).digest.hex()}.png" for seed in (1, 2)}
        assert set(archive.namelist()) == {"conversation.json", *names}
        shown = Image.open(archive.open(f"pictures/{picture(1).digest.hex()}.png"))
        assert np.array_equal(shown, picture(1).image)
        assert "是狮子吗" in archive.read("conversation.json").decode()


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"as \.json or \.zip"):
        write_conversation(conversation(), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_conversation(conversation(), tmp_path / "a.zip")
    before = (tmp_path / "a.zip").read_bytes()

    def full(one):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversation_files, "png", full)
    with pytest.raises(OSError, match="No space"):
        write_conversation(conversation(), tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == before


def test_a_file_from_the_future_is_not_always_the_newest(tmp_path):
    write_conversation(replace(conversation(), changed=4e9), tmp_path / "a.json")
    assert read_conversation(tmp_path / "a.json").changed <= time.time()


def test_the_name_does_not_matter_for_reading(tmp_path):
    write_conversation(conversation(), tmp_path / "a.zip")
    (tmp_path / "a.zip").rename(tmp_path / "upload")
    assert read_conversation(tmp_path / "upload").title == "lions"


# ---- JSON that is refused


def test_files_that_are_none(tmp_path, refused):
    with pytest.raises(InputError, match=r"cannot be imported: No such file"):
        read_conversation(tmp_path / "missing.json")
    with pytest.raises(InputError, match="no regular file"):
        read_conversation(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        read_conversation(tmp_path / "pipe")
    assert "no sound JSON" in refused(b"")
    assert "no sound JSON" in refused(b"\xff\xfe{}")
    assert "no sound JSON" in refused(b"[" * 100_000)
    assert "no sound JSON" in refused(b"9" * 100_000)
    assert "no exported conversation" in refused({"turns": []})
    assert "no exported conversation" in refused([1])


def test_versions(refused, data):
    assert "upgrade" in refused({**data, "version": 2})
    for version in (0, -1, True, "1", None, 1.0):
        assert "no sound 'version'" in refused({**data, "version": version})


def test_every_missing_value_is_named(refused, data):
    places = [data["conversation"], data["conversation"]["turns"][0], data["conversation"]["demos"][0]]
    for place in places:
        for key in list(place):
            value = place.pop(key)
            assert repr(key) in refused(data)
            place[key] = value


TURN_CHANGES = [
    ({"role": "system"}, "of the user or the assistant"),
    ({"role": "x" * 1000}, "of the user or the assistant"),
    ({"parts": [{}]}, "'picture'"),
    ({"parts": ["text"]}, "'picture'"),
    ({"parts": [{"text": 1}]}, "'text'"),
    ({"parts": [{"picture": "../../etc/passwd", "name": "", "notes": []}]}, "not known"),
    ({"parts": [{"picture": "0" * 32, "name": "", "notes": []}]}, f"picture {'0' * 32} is not in it"),
    ({"parts": [{"picture": picture(1).digest.hex(), "name": "", "notes": [1]}]}, "'notes'"),
    ({"created": float("nan")}, "'created'"),
    ({"created": 10**400}, "'created'"),
    ({"created": True}, "'created'"),
    ({"seconds": {"total": "1"}}, "'total'"),
    ({"usage": {"prompt_tokens": 1}}, "'completion_tokens'"),
    ({"feedback": "sideways"}, "'feedback'"),
    ({"id": None}, "'id'"),
]


@pytest.mark.parametrize(("change", "word"), TURN_CHANGES)
def test_unsound_turns(refused, data, change, word):
    data["conversation"]["turns"][1] |= change
    assert word in refused(data)


def test_turns_that_are_no_tree(refused, data):
    first, second = data["conversation"]["turns"]
    head = data["conversation"]["head"]
    for turns, shown, word in [
        ([first, {**second, "parent": "nobody"}], head, "turn 2 follows a turn"),
        ([{**first, "parent": second["id"]}, second], head, "turn 1 follows a turn"),  # a circle
        ([{**first, "parent": first["id"]}, second], head, "turn 1 follows a turn"),
        ([second, first], head, "turn 1 follows a turn"),
        ([first, {**second, "id": first["id"]}], first["id"], "the same id"),
        ([first, second], "nobody", "shown last"),
    ]:
        data["conversation"] |= {"turns": turns, "head": shown}
        assert word in refused(data)


def test_pictures_that_are_none(refused, data):
    sound = copy.deepcopy(data["pictures"])
    digest = picture(1).digest.hex()
    jpeg = io.BytesIO()
    picture(1).image.save(jpeg, "JPEG")
    other = sound[picture(2).digest.hex()]
    for address, word in [
        ("data:image/png;base64,=", "no sound base64"),
        ("https://pictures.example/a.png", "is not in it"),
        (7, "is not in it"),
        ("data:image/png;base64," + base64.b64encode(jpeg.getvalue()).decode(), "is no PNG"),
        (sound[digest][:80], "picture"),
        (other, "other pixels"),
    ]:
        data["pictures"] = {**sound, digest: address}
        assert word in refused(data) and digest in refused(data)
    assert "'pictures'" in refused({**data, "pictures": []})


def test_limits(refused, data, monkeypatch, tmp_path):
    for name, limit, word in [
        ("MAX_BYTES", 100, "bytes, the limit is 100"),
        ("MAX_VALUES", 10, "values, the limit is 10"),
        ("MAX_PIXELS", 50, "70 pixels, the limit is 50"),  # each picture has 35
    ]:
        with monkeypatch.context() as patched:
            patched.setattr(conversation_files, name, limit)
            assert word in refused(data)
    write_conversation(conversation(), tmp_path / "a.zip")
    monkeypatch.setattr(conversation_files, "MAX_ENTRIES", 2)
    assert "3 files, the limit is 2" in refusal(tmp_path / "a.zip")


# ---- .zip that is refused


@pytest.fixture
def zipped(tmp_path):
    """Writes a .zip with a sound conversation and more, and gives the line that refuses it."""

    def write_and_refuse(*entries, method=zipfile.ZIP_DEFLATED):
        path = tmp_path / "bad.zip"
        write_conversation(conversation(), path)
        with zipfile.ZipFile(path, "a", method) as archive:
            for name, data in entries:
                archive.writestr(name, data)
        return refusal(path)

    return write_and_refuse


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/passwd", "pictures/../../evil", "C:\\evil", "pictures/", "pictures/x.png", "a.txt"]
)
def test_files_that_do_not_belong_there(zipped, tmp_path, name):
    if name == "pictures/":  # some programs write folders, too
        name += "/"
    assert "belongs to no conversation" in zipped((name, b"x"))
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zip"}


def test_a_folder_entry_is_harmless(tmp_path):
    write_conversation(conversation(), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("pictures/", b"")
    assert read_conversation(tmp_path / "a.zip").title == "lions"


def test_two_files_of_one_name(zipped):
    with pytest.warns(UserWarning, match="Duplicate name"):
        assert "same name" in zipped(("conversation.json", b"{}"))


def test_a_bomb_is_refused_before_it_goes_off(zipped, monkeypatch):
    monkeypatch.setattr(conversation_files, "MAX_BYTES", 2**20)
    tracemalloc.start()
    line = zipped((f"pictures/{'0' * 32}.png", bytes(8 * 2**20)))
    tracemalloc.stop()
    assert "bytes unpacked, the limit is 1,048,576" in line


def test_a_bomb_that_lies_about_its_size(tmp_path):
    """The index says 10 bytes, the data are 64 MiB."""
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversation.json", bytes(64 * 2**20))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 64 * 2**20), struct.pack("<I", 10)))
    tracemalloc.start()
    line = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "the .zip is damaged" in line and peak < 16 * 2**20


def test_an_index_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number:030000}", b"")
    assert "index of the .zip" in refusal(path)


def test_a_picture_bomb(zipped, refused, data):
    """A PNG that says that it has 10^10 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    bomb = start + struct.pack(">I", 9) + b"IDAT" + bytes(13)
    data["pictures"][picture(1).digest.hex()] = "data:image/png;base64," + base64.b64encode(bomb).decode()
    assert "pixels, the limit is" in refused(data)


def test_a_zip_without_its_parts(tmp_path):
    path = tmp_path / "bad.zip"
    write_conversation(conversation(), path)
    for missing in ("conversation.json", f"pictures/{picture(2).digest.hex()}.png"):
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist() if name != missing}
        with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        assert f"{missing} is not in it" in refusal(tmp_path / "cut.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_compress(zipped, method):
    assert "is compressed in a way" in zipped((f"pictures/{'0' * 32}.png", b"x"), method=method)


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / "bad.zip"
    write_conversation(conversation(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("pictures/ä.png", b"x")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    assert "the .zip is damaged" in refusal(path)


def test_a_zip_with_a_password(tmp_path):
    path = tmp_path / "bad.zip"
    write_conversation(conversation(), path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    data[6] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for name in ("a.zip", "a.json"):
        write_conversation(conversation(), folder / name)
    return folder


@pytest.mark.parametrize("name", ["a.zip", "a.json"])
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 4000))
def test_damaged_files_raise_nothing_but_input_errors(exported, name, changes, cut):
    data = bytearray((exported / name).read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    path = exported / "damaged"
    path.write_bytes(data[: cut + 1] if cut % 2 else data)
    try:
        assert isinstance(read_conversation(path), Conversation)
    except InputError as error:
        assert "\n" not in str(error)
