"""Small stand-ins for the packages that training data comes from."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw


def pack_rcc(files: dict[str, bytes], *, version: int = 3, compress: tuple[str, ...] = (), flag: int = 1) -> bytes:
    """A Qt resource archive of files in nested folders, as Qt's own tool lays it out."""
    tree: dict = {}
    for path, content in files.items():
        *folders, leaf = path.split("/")
        folder = tree
        for name in folders:
            folder = folder.setdefault(name, {})
        folder[leaf] = (path, content)
    nodes, names, data = b"", b"", b""
    level, following = [("", tree)], 1
    while level:
        deeper: list = []
        for name, item in level:
            at, names = len(names), names + struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
            if isinstance(item, dict):
                nodes += struct.pack(">IHII", at, 2, len(item), following + len(deeper))
                deeper += item.items()
            else:
                path, content = item
                flags = flag if path in compress else 0
                stored = struct.pack(">I", len(content)) + zlib.compress(content) if flags else content
                nodes += struct.pack(">IHHHI", at, flags, 0, 0, len(data))
                data += struct.pack(">I", len(stored)) + stored
            nodes += bytes(8) if version >= 2 else b""
        following += len(deeper)
        level = deeper
    start = 24 if version >= 3 else 20
    head = struct.pack(">4s4I", b"qres", version, start, start + len(nodes), start + len(nodes) + len(data))
    return head + (bytes(4) if version >= 3 else b"") + nodes + data + names


def drawing(colour: str = "red", size: int = 100, shape: str = "ellipse") -> Image.Image:
    """A shape on a transparent ground."""
    picture = Image.new("RGBA", (size, size))
    getattr(ImageDraw.Draw(picture), shape)([20, 30, 70, 80], fill=colour)
    return picture


@pytest.fixture
def write_rcc():
    return pack_rcc


@pytest.fixture
def draw():
    return drawing


@pytest.fixture
def emojibase(tmp_path) -> Path:
    """``emojibase-data`` with a few emoji of several groups."""
    emoji = [
        {"label": "red apple", "hexcode": "1F34E", "group": 4, "tags": ["apple", "Fruit"]},
        {"label": "hot pepper", "hexcode": "1F336-FE0F", "group": 4, "tags": []},
        {"label": "hammer", "hexcode": "1F528", "group": 7, "tags": ["tool"]},
        {"label": "hammer and wrench", "hexcode": "1F6E0", "group": 7, "tags": []},
        {"label": "twelve o’clock", "hexcode": "1F55B", "group": 5, "tags": []},
        {"label": "flag: France", "hexcode": "1F1EB-1F1F7", "group": 9, "tags": []},
        {"label": "regional indicator A", "hexcode": "1F1E6", "tags": []},
        {"label": "winking face", "hexcode": "1F609", "group": 0, "tags": []},
        {"label": "unamused face", "hexcode": "1F612", "group": 0, "tags": []},
        {"label": "toolbox", "hexcode": "1F9F0", "group": 7, "tags": ["hammer"]},
        {"label": "pie", "hexcode": "1F967", "group": 4, "tags": ["pumpkin", "pastry"]},
    ]
    folder = tmp_path / "emojibase"
    (folder / "package/en").mkdir(parents=True)
    (folder / "package/en/data.json").write_text(json.dumps(emoji), encoding="utf-8")
    return folder
