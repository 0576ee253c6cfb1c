"""Pictures as files that are named by their content."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from .conversation import new_id
from .errors import ImageError
from .images import MAX_PIXELS, Picture, load_picture

MAX_PNG_BYTES = 4 * MAX_PIXELS  # PNG never makes RGB pixels much larger than they are

_GREY = (128, 128, 128)


@dataclass(frozen=True)
class LostPicture(Picture):
    """A grey stand-in for a picture whose file is gone or broken; the last of its notes says so.

    Attributes:
        lost: digest of the picture that should be here, in hexadecimal.
    """

    lost: str = ""


def png(picture: Picture) -> bytes:
    """The pixels and nothing else as a PNG, so that they come back with the same digest."""
    bare = picture.image.copy()
    bare.info = {}  # a transparent colour or a profile in it would be written, and change what is read
    file = BytesIO()
    bare.save(file, "PNG", compress_level=1)
    return file.getvalue()


class PictureFolder:
    """``<digest>.png`` for each picture. It does not know who needs a file: its user tells it what to remove.

    Args:
        folder: made when the first picture comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where a picture lies; the digest in hexadecimal."""
        return self.folder / f"{digest}.png"

    def add(self, picture: Picture) -> None:
        """Write a picture, unless it is here. A file appears under its name when it is complete.

        Raises:
            OSError: it cannot be written.
        """
        if isinstance(picture, LostPicture) or (path := self.path(picture.digest.hex())).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{path.stem}.{new_id()}.part"
        try:
            with open(part, "wb") as file:
                file.write(png(picture))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def read(self, digest: str) -> Picture:
        """The picture with this digest, else a :class:`LostPicture`; without the name and notes it once had."""
        path = self.path(digest)
        try:
            picture = load_picture(path, max_bytes=MAX_PNG_BYTES)
        except ImageError as error:
            return self._lost(digest, str(error))
        if picture.digest.hex() != digest:
            return self._lost(digest, f"{path}: holds other pixels than it should")
        return Picture(picture.image, "")

    def remove(self, digest: str) -> None:
        """Remove a picture; one that cannot be removed now stays for :meth:`old` to find."""
        with suppress(OSError):
            self.path(digest).unlink()

    def old(self, seconds: float) -> set[str]:
        """Digests of pictures that were written more than so many seconds ago; unfinished files as old are removed."""
        before, found = time.time() - seconds, set()
        for path in self.folder.glob("*.p*"):
            with suppress(OSError):  # another process has removed it
                if path.stat().st_mtime < before and path.suffix == ".part":
                    path.unlink()
                elif path.stat().st_mtime < before and path.suffix == ".png":
                    found.add(path.stem)
        return found

    def _lost(self, digest: str, why: str) -> LostPicture:
        note = f"the stored picture cannot be shown, a grey one stands in its place: {why}"
        return LostPicture(Image.new("RGB", (224, 224), _GREY), "", (note,), lost=digest)
