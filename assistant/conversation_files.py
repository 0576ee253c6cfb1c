"""A conversation as one file: .json with the pictures in it, or .zip with conversation.json and pictures/.

Nothing of a file that is read is trusted, nothing of it is unpacked to a disk, and it is never written to.
"""

import base64
import io
import json
import os
import re
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .conversation import Conversation, new_id
from .conversation_json import all_pictures, from_json, to_json
from .errors import InputError
from .images import Picture, load_picture
from .picture_folder import MAX_PNG_BYTES, png

FORMAT = "flamingo-assistant conversation"
VERSION = 1

MAX_BYTES = 512 * 2**20  # of a file, and of all that a .zip unpacks to
MAX_ENTRIES = 10_000  # of a .zip
MAX_VALUES = 2_000_000  # brackets and commas of the JSON; each value costs some 100 bytes of memory
MAX_PIXELS = 400_000_000  # of all pictures together, which are 1.2 GB

_JSON_NAME = "conversation.json"
_PICTURE_NAME = re.compile(r"pictures/([0-9a-f]{32})\.png")
_DATA = "data:image/png;base64,"
_PIECE = 2**20
# Of Python's zipfile: RuntimeError for a password, ValueError for names.
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


def write_conversation(conversation: Conversation, path: str | os.PathLike[str]) -> None:
    """Write a conversation with its pictures; a file of that name is replaced, once the new one is complete.

    A picture that is lost is written as the grey one that stands in its place.

    Raises:
        InputError: the name ends in neither .json nor .zip.
        OSError: it cannot be written.
    """
    path = Path(path)
    write = {".json": _write_json, ".zip": _write_zip}.get(path.suffix.lower())
    if write is None:
        raise InputError(f"{path}: a conversation is exported as .json or .zip; name it so")
    part = path.with_name(f"{path.name}.{new_id()}.part")
    try:
        write(conversation, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_conversation(path: str | os.PathLike[str]) -> Conversation:
    """Read what :func:`write_conversation` wrote, with new ids.

    Raises:
        InputError: the file is missing, damaged, too large, of a newer version or of another kind; the line says which.
    """
    path = Path(path)
    with _refusing(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a FIFO may block for ever
            raise InputError("it is no regular file")
        _check("bytes", status.st_size, MAX_BYTES)
        with open(path, "rb") as file:
            head = file.read(4)
        conversation = _read_zip(path) if head.startswith(b"PK") else _read_json(path)
        return _with_new_ids(conversation)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes one line that begins with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: cannot be imported: {error}; export the conversation again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be imported: {error.strerror or error}") from error
    except _BROKEN_ZIP as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be imported: the .zip is damaged or cannot be read: {reason}") from error


def _check(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise InputError(f"it has {count:,} {what}, the limit is {limit:,}")


# ---- writing


def _header(conversation: Conversation) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "conversation": to_json(conversation)}


def _dumped(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8", "replace")


def _distinct(conversation: Conversation) -> dict[str, Picture]:
    return {picture.digest.hex(): picture for picture in all_pictures(conversation)}


def _write_json(conversation: Conversation, path: Path) -> None:
    pictures = {
        digest: _DATA + base64.b64encode(png(picture)).decode() for digest, picture in _distinct(conversation).items()
    }
    path.write_bytes(_dumped({**_header(conversation), "pictures": pictures}))


def _write_zip(conversation: Conversation, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_JSON_NAME, _dumped(_header(conversation)), zipfile.ZIP_DEFLATED)
        for digest, picture in _distinct(conversation).items():
            archive.writestr(f"pictures/{digest}.png", png(picture))


# ---- reading


def _read_json(path: Path) -> Conversation:
    data = _loaded(path.read_bytes())
    pictures = data.get("pictures")
    if not isinstance(pictures, dict):
        raise InputError("it has no sound 'pictures'")

    def picture_bytes(digest: str) -> bytes:
        address = pictures.get(digest)
        if not isinstance(address, str) or not address.startswith(_DATA):
            raise InputError(f"picture {digest} is not in it")
        try:
            return base64.b64decode(address[len(_DATA) :], validate=True)
        except ValueError:
            raise InputError(f"picture {digest} is no sound base64") from None

    return from_json(data.get("conversation"), _decoder(picture_bytes))


def _read_zip(path: Path) -> Conversation:
    with zipfile.ZipFile(_InPieces(path)) as archive:
        entries = _entries(archive)

        def unpacked(name: str) -> bytes:
            if name not in entries:
                raise InputError(f"{name} is not in it")
            data = bytearray()
            with archive.open(entries[name]) as file:  # which ends at the announced size and checks the sum
                while piece := file.read(_PIECE):
                    data += piece
            return bytes(data)

        data = _loaded(unpacked(_JSON_NAME))
        return from_json(data.get("conversation"), _decoder(lambda digest: unpacked(f"pictures/{digest}.png")))


class _InPieces(io.BufferedReader):
    """A file of which no more than a piece is read at once, so that no .zip can have an index that fills the memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > 2 * _PIECE:
            raise InputError(f"the index of the .zip has {size:,} bytes, the limit is {2 * _PIECE:,}")
        return super().read(size)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in a .zip, by name.

    Raises:
        InputError: there are too many or too large ones, or one that does not belong there.
    """
    found = [entry for entry in archive.infolist() if entry.filename != "pictures/"]
    _check("files", len(found), MAX_ENTRIES)
    for entry in found:
        if entry.filename != _JSON_NAME and not _PICTURE_NAME.fullmatch(entry.filename):
            raise InputError(f"it holds a file {entry.filename[:100]!r}, which belongs to no conversation")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{entry.filename} is compressed in a way that is not read here")
    _check("bytes unpacked", sum(entry.file_size for entry in found), MAX_BYTES)
    entries = {entry.filename: entry for entry in found}
    if len(entries) < len(found):
        raise InputError("it holds two files of the same name")
    return entries


def _loaded(data: bytes) -> dict[str, Any]:
    """The JSON, of the format and version that are read here."""
    _check("values", sum(map(data.count, (b"[", b"{", b","))), MAX_VALUES)
    try:
        loaded = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is no sound JSON: {error}") from error
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        raise InputError("it is no exported conversation")
    version = loaded.get("version")
    if type(version) is not int or version < 1:
        raise InputError("it has no sound 'version'")
    if version > VERSION:
        raise InputError(
            f"it has version {version} of the format and {VERSION} is the newest that is read here; "
            "upgrade with `pip install --upgrade flamingo-assistant`"
        )
    return loaded


def _decoder(picture_bytes: Callable[[str], bytes]) -> Callable[[str], Picture]:
    """Pictures by digest, each checked, and all of them counted."""
    pixels = 0

    def picture(digest: str) -> Picture:
        nonlocal pixels
        data = picture_bytes(digest)
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise InputError(f"picture {digest} is no PNG")
        found = load_picture(data, name=f"picture {digest}", max_bytes=MAX_PNG_BYTES)
        if found.digest.hex() != digest:
            raise InputError(f"picture {digest} holds other pixels than it should")
        pixels += found.image.width * found.image.height
        _check("pixels", pixels, MAX_PIXELS)
        return Picture(found.image, "")

    return picture


def _with_new_ids(conversation: Conversation) -> Conversation:
    """The same under other ids, so that a file can be read twice; and not from the future, which is always newest."""
    ids = {old: new_id() for old in conversation.turns}
    turns = [
        replace(turn, id=ids[turn.id], parent=None if turn.parent is None else ids[turn.parent])
        for turn in conversation.turns.values()
    ]
    return replace(
        conversation,
        id=new_id(),
        changed=min(conversation.changed, time.time()),
        turns={turn.id: turn for turn in turns},
        head=None if conversation.head is None else ids[conversation.head],
    )
