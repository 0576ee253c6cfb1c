"""Reader of Qt resource archives (``.rcc``), without Qt.

Layout, big-endian (Qt's ``rcc`` tool, versions 1 to 3): a header with the offsets of three tables; a tree of nodes,
the root first, the children of a folder in one run; the names, UTF-16 behind a length and a hash; the data, each file
behind its length.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4


def read_rcc(path: str | Path) -> dict[str, bytes]:
    """Read a whole archive.

    Args:
        path: the ``.rcc`` file.

    Returns:
        File contents by their path inside the archive ("gcompris/src/...").

    Raises:
        ValueError: not such an archive, a damaged one, or one that uses zstd.
    """
    blob = Path(path).read_bytes()
    if blob[:4] != b"qres":
        raise ValueError(f"{path} is no Qt resource archive: it starts with {blob[:4]!r}")
    try:
        version, tree, data, names = struct.unpack_from(">4I", blob, 4)
        # From version 2 on a node ends with the time of its last change.
        return dict(_walk(blob, tree, data, names, 22 if version >= 2 else 14))
    except (struct.error, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged Qt resource archive: {error}") from error


def _walk(
    blob: bytes, tree: int, data: int, names: int, size: int, node: int = 0, folder: str = ""
) -> Iterator[tuple[str, bytes]]:
    name_at, flags = struct.unpack_from(">IH", blob, tree + node * size)
    path = folder + (_name(blob, names + name_at) if node else "")
    if flags & _FOLDER:
        count, first = struct.unpack_from(">2I", blob, tree + node * size + 6)
        for child in range(first, first + count):
            yield from _walk(blob, tree, data, names, size, child, f"{path}/" if path else "")
        return
    at = data + struct.unpack_from(">I", blob, tree + node * size + 10)[0]
    (length,) = struct.unpack_from(">I", blob, at)
    content = blob[at + 4 : at + 4 + length]
    if len(content) != length:
        raise struct.error(f"{path} is cut off")
    if flags & _ZSTD:
        raise ValueError(f"{path} is compressed with zstd, which this reader does not know")
    # qCompress puts the unpacked length before the zlib stream.
    yield path, zlib.decompress(content[4:]) if flags & _ZLIB else content


def _name(blob: bytes, at: int) -> str:
    (length,) = struct.unpack_from(">H", blob, at)
    return blob[at + 6 : at + 6 + 2 * length].decode("utf-16-be")
