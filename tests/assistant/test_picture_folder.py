import io
import os

import numpy as np
import pytest
from PIL import Image

from assistant import picture_folder
from assistant.images import Picture
from assistant.picture_folder import LostPicture, PictureFolder, png


def picture(seed=0, size=(5, 7, 3)):
    values = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return Picture(Image.fromarray(values), "a.png", ("a note",))


def test_a_png_holds_the_pixels_and_nothing_else():
    one = picture()
    one.image.info = {"transparency": (1, 2, 3), "icc_profile": b"x", "dpi": (9, 9)}
    read = Image.open(io.BytesIO(png(one)))
    assert np.array_equal(read, one.image) and read.mode == "RGB" and read.info == {}
    assert one.image.info["dpi"] == (9, 9)


@pytest.mark.parametrize("size", [(1, 1, 3), (1, 3000, 3), (700, 900, 3)])
def test_a_picture_comes_back_by_its_digest(tmp_path, size):
    folder, one = PictureFolder(tmp_path / "new"), picture(size=size)
    folder.add(one)
    read = folder.read(one.digest.hex())
    assert read.digest == one.digest and (read.name, read.notes) == ("", ())


def test_a_picture_is_written_once(tmp_path, monkeypatch):
    folder = PictureFolder(tmp_path)
    folder.add(picture())
    monkeypatch.setattr(picture_folder, "png", None)
    folder.add(picture())
    assert [path.name for path in tmp_path.iterdir()] == [f"{picture().digest.hex()}.png"]


def test_a_picture_is_there_when_it_is_complete(tmp_path, monkeypatch):
    folder = PictureFolder(tmp_path)

    def look(descriptor):
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture_folder.os, "fsync", look)
    with pytest.raises(OSError, match="No space"):
        folder.add(picture())
    assert list(tmp_path.iterdir()) == []


def test_a_lost_picture_is_not_written(tmp_path):
    folder = PictureFolder(tmp_path)
    lost = folder.read("0" * 32)
    assert isinstance(lost, LostPicture) and lost.lost == "0" * 32 and "no such file" in lost.notes[0]
    folder.add(lost)
    assert list(tmp_path.iterdir()) == []


def test_old_files(tmp_path):
    folder = PictureFolder(tmp_path / "none")
    assert folder.old(0) == set()
    folder.folder.mkdir()
    for name in ("old.png", "new.png", "old.x.part", "new.x.part", "old.txt"):
        (folder.folder / name).touch()
        if name.startswith("old"):
            os.utime(folder.folder / name, (1e9, 1e9))
    assert folder.old(3600) == {"old"}
    assert {path.name for path in folder.folder.iterdir()} == {"old.png", "new.png", "new.x.part", "old.txt"}
    folder.remove("old")
    folder.remove("old")
    assert not (folder.folder / "old.png").exists()
