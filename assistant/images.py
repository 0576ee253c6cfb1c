"""Pictures from wherever people have them: a file, an http(s) or data: address, bytes, or PIL.

Whatever cannot become a picture ends in one `ImageError` line that names the source and the mend. Sizes are checked on
the header, before anything is decoded, against this module's own limits; Pillow's global ones stay as they are.
"""

import base64
import codecs
import hashlib
import http.client
import os
import re
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent import futures
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urljoin

import numpy as np
from PIL import Image, ImageFile

from assistant.errors import ImageError

ImageSource = str | os.PathLike[str] | bytes | Image.Image

TIMEOUT = 20.0  # seconds for one address, all redirects included
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 80_000_000  # about 1 GB at the peak of the reading
MAX_REDIRECTS = 5

# Never EPS, which runs Ghostscript, nor formats without a signature, which take any text for a picture.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "ICO", "PPM", "QOI")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as both sides keep more pixels than a vision tower sees.
_JPEG_SIDE = 1024
_UPRIGHT = {  # EXIF 2.32, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """A picture that is ready to be looked at.

    Attributes:
        image: mode RGB, upright, without transparency.
        name: the path or address it came from, else "image 1".
        notes: what a person should know about the reading, such as "animated GIF: the first of 12 frames is used".
    """

    image: Image.Image
    name: str
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """The same for the same pixels, wherever they came from."""
        seen = hashlib.blake2b(repr(self.image.size).encode(), digest_size=16)
        seen.update(self.image.tobytes())
        return seen.digest()


def load_pictures(sources: Iterable[ImageSource | Picture]) -> list[Picture]:
    """`load_picture` for each source, in order; what is a `Picture` already stays as it is.

    Raises:
        ImageError: a source cannot be read, or `sources` is a single picture instead of a list.
    """
    if isinstance(sources, (str, bytes, os.PathLike, Image.Image, Picture)):
        raise ImageError(f"pictures are given as a list, not as one {type(sources).__name__}; put it in [ ]")
    return [
        source if isinstance(source, Picture) else load_picture(source, name=_default_name(source, position))
        for position, source in enumerate(sources, start=1)
    ]


def load_picture(
    source: ImageSource,
    *,
    name: str | None = None,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Reads one picture.

    Transparent parts are shown on white, the EXIF orientation is applied, 16-bit values are scaled to 8, of an
    animation the first frame is taken, and a large JPEG comes at a half, quarter or eighth of its size, each side at
    least 1024 pixels.

    Args:
        source: a path (``~`` is expanded), an http(s): or data: address, the bytes of a picture file, or a PIL image.
        name: what the picture and its errors are called; by default the path or address, or "image 1".
        timeout: seconds that an address may take in all.
        max_bytes: limit of the file.
        max_pixels: limit of width x height.

    Raises:
        ImageError: there is no picture, it is over a limit, or it is broken.
    """
    name = _default_name(source, 1) if name is None else name
    shown = _one_line(name) or "(empty path)"
    if isinstance(source, Image.Image):
        _check_pixels(source.size, shown, max_pixels)
        return Picture(_finish(source, shown), name)
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str) and _scheme(source) == "data":
        data = _from_data_address(source, shown)
    elif isinstance(source, str) and (scheme := _scheme(source)):
        if scheme not in ("http", "https"):
            raise ImageError(f"{shown}: {scheme}: addresses are not read; give an http(s) address or a path")
        data = _download(source, shown, timeout, max_bytes)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(source, shown, max_bytes)
    else:
        raise ImageError(f"{shown}: a picture is a path, an address, bytes or a PIL image, not {type(source).__name__}")
    _check_bytes(len(data), shown, max_bytes)
    image = _identify(data, shown)
    kind = image.format or "picture"
    _check_pixels(image.size, shown, max_pixels)
    image.draft(None, (_JPEG_SIDE, _JPEG_SIDE))
    return Picture(_finish(image, shown), name, _frame_notes(image, kind))


def _default_name(source: object, position: int) -> str:
    if isinstance(source, os.PathLike) or (isinstance(source, str) and _scheme(source) != "data"):
        return os.fsdecode(source)
    return f"image {position}"


def _scheme(source: str) -> str:
    """The scheme of an address, lower case; "" for a path (also for ``C:\\x.png`` and ``photo: 1.png``)."""
    match = re.match(r"(data|file)(?=:)|[a-z][a-z0-9+.-]+(?=://)", source, re.IGNORECASE)
    return match[0].lower() if match else ""


def _one_line(text: object, limit: int = 200) -> str:
    line = str(text)
    line = line if line.isprintable() else ascii(line)[1:-1]
    return line if len(line) <= limit else f"{line[: limit // 2]}...{line[-limit // 2 :]}"


def _check_bytes(size: int, name: str, max_bytes: int) -> None:
    if size == 0:
        raise ImageError(f"{name}: is empty (0 bytes); give another file")
    if size > max_bytes:
        raise ImageError(f"{name}: has {size:,} bytes or more, the limit is {max_bytes:,}; make it smaller first")


# ---- bytes from files and addresses


def _read_file(source: str | os.PathLike[str], name: str, max_bytes: int) -> bytes:
    try:
        path = Path(source).expanduser()
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: is a folder; give a picture file, for example one in it")
        if not stat.S_ISREG(status.st_mode):  # a FIFO or a device may block for ever
            raise ImageError(f"{name}: is no regular file; save the picture as a file and give that")
        _check_bytes(status.st_size, name, max_bytes)
        return path.read_bytes()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{name}: may not be read; check the permissions of the file and its folders") from error
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte in the path; `~nobody`
        raise ImageError(f"{name}: cannot be read: {_one_line(error)}; check the path") from error


def _from_data_address(source: str, name: str) -> bytes:
    header, comma, payload = source.partition(",")
    if not comma:
        raise ImageError(f"{name}: the data: address has no comma; it reads data:image/png;base64,...")
    data = unquote_to_bytes(payload)
    if not header.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except ValueError as error:
        raise ImageError(f"{name}: the data: address is no valid base64: {error}; encode it again") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        """None makes every redirect an HTTPError, which `_fetch` follows under its own rules."""


def _download(url: str, name: str, timeout: float, max_bytes: int) -> bytes:
    # urllib's timeout starts anew with every read and leaves out the name look-up, so a server that drips bytes is
    # never over it. The clock runs here instead, and the thread is left behind when the time is up.
    result: futures.Future[bytes] = futures.Future()

    def work() -> None:
        try:
            result.set_result(_fetch(url, name, timeout, max_bytes))
        except Exception as error:  # handed on: `result` raises it in the caller
            result.set_exception(error)

    threading.Thread(target=work, name="picture-download", daemon=True).start()
    try:
        return result.result(timeout)
    except futures.TimeoutError as error:
        raise _too_slow(name, timeout) from error


def _too_slow(name: str, timeout: float) -> ImageError:
    return ImageError(f"{name}: did not arrive within {timeout:g} seconds; download the picture and give the file")


def _fetch(url: str, name: str, timeout: float, max_bytes: int) -> bytes:
    deadline = time.monotonic() + timeout
    opener = urllib.request.build_opener(_NoRedirects)
    headers = {"User-Agent": "Mozilla/5.0 (compatible; flamingo-assistant)", "Accept": "image/*,*/*;q=0.5"}
    for _ in range(MAX_REDIRECTS + 1):
        try:
            # Addresses are pasted from browsers, which show blanks and letters that a request may not contain.
            request = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers=headers)
            try:
                # One second more than `_download` waits, so that a stalled server always ends there.
                with opener.open(request, timeout=timeout + 1) as response:
                    data = _body(response, name, deadline, max_bytes)
                if time.monotonic() > deadline:  # may be seen here before it is seen where the caller waits
                    raise _too_slow(name, timeout)
                return data
            except urllib.error.HTTPError as answer:
                with answer:
                    url = _redirected(url, answer, name)
        except ImageError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, socket.gaierror):
                cause = "its host is not known, or there is no network"
            reason = _one_line(cause) or type(cause).__name__
            raise ImageError(f"{name}: cannot be fetched: {reason}; check the address and the network") from error
    raise ImageError(f"{name}: redirects more than {MAX_REDIRECTS} times; give the picture's own address")


def _redirected(url: str, answer: urllib.error.HTTPError, name: str) -> str:
    target = answer.headers.get("Location")
    if not 300 <= answer.code < 400 or not target:
        status = f"{answer.code} {http.client.responses.get(answer.code, '')}".strip()
        raise ImageError(f"{name}: the server answered {status}; check the address")
    url = urljoin(url, target)
    if _scheme(url) not in ("http", "https"):
        raise ImageError(f"{name}: redirects to {_one_line(url)}, which is not read; give the picture's own address")
    return url


def _body(response: http.client.HTTPResponse, name: str, deadline: float, max_bytes: int) -> bytes:
    if response.length is not None:
        _check_bytes(response.length, name, max_bytes)
    data = bytearray()
    while chunk := response.read1(2**16):
        data += chunk
        if len(data) > max_bytes or time.monotonic() > deadline:
            break  # the first is refused by `load_picture`, the second by `_fetch`
    return bytes(data)


# ---- a picture from bytes


def _identify(data: bytes, name: str) -> ImageFile.ImageFile:
    """Reads the header. Plug-ins are asked one by one, since `Image.open` warns and refuses at Pillow's own limits."""
    Image.init()
    brands = _container_brands(data)
    if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:
        return _identify_heic(data, name)
    for kind in filter(Image.OPEN.__contains__, _FORMATS):  # AVIF came with Pillow 11.3
        opener, accepts = Image.OPEN[kind]
        try:
            # A plug-in that lacks its library answers with a sentence instead of True.
            if accepts and accepts(data[:16]) is True:
                return opener(BytesIO(data), "")
        except Exception as error:  # plug-ins raise nearly anything on broken headers
            raise ImageError(f"{name}: {_content_kind(data) or _broken(kind, error)}") from error
    if brands & _AVIF_BRANDS:
        raise ImageError(f"{name}: is an AVIF picture; run `pip install --upgrade pillow`, or save it as JPEG")
    raise ImageError(f"{name}: {_content_kind(data) or 'is in no format that is read here; save it as PNG or JPEG'}")


def _identify_heic(data: bytes, name: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(f"{name}: is a HEIC picture; run `pip install pillow-heif`, or save it as JPEG") from error
    try:
        return HeifImageFile(BytesIO(data))
    except Exception as error:
        raise ImageError(f"{name}: {_broken('HEIC', error)}") from error


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Decodes, then brings to 8-bit RGB on white and upright. The result shares no memory with `image`."""
    try:
        image.load()
    except Exception as error:  # decoders, too, raise nearly anything
        raise ImageError(f"{name}: {_broken(image.format or 'picture', error)}") from error
    try:
        flat = _to_rgb(image)
    except ValueError as error:
        raise ImageError(f"{name}: colour mode {image.mode} is not read; save it as an RGB picture") from error
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a picture with damaged EXIF is shown as it is stored, as everywhere
        orientation = None
    return flat.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else flat


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height == 0:
        raise ImageError(f"{name}: has no pixels ({width} x {height}); give another picture")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: has {width:,} x {height:,} = {width * height:,} pixels, the limit is {max_pixels:,}; "
            "make it smaller first"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow's own conversion cuts off all that is over 255
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scales to 0..255: 16-bit values by their range, others, whose range is not known, from lowest to highest."""
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 2**16:
        return (values >> 8).astype(np.uint8)
    scaled = np.nan_to_num(values.astype(np.float32), copy=False, posinf=0.0, neginf=0.0)
    low, high = float(scaled.min()), float(scaled.max())
    scale = 255.0 / max(high - low, 1e-30)
    scaled *= scale
    scaled -= low * scale
    return scaled.astype(np.uint8)


def _frame_notes(image: Image.Image, kind: str) -> tuple[str, ...]:
    try:
        count = getattr(image, "n_frames", 1)
    except Exception:  # the first frame is sound; what follows it is not our concern
        return ()
    if count > 1 and kind in ("GIF", "WEBP", "PNG", "AVIF"):
        return (f"animated {kind}: the first of {count} frames is used",)
    if count > 1 and kind == "TIFF":
        return (f"TIFF with {count} pages: the first is used",)
    return ()  # the further pictures of an MPO or HEIC are depth maps and the like


# ---- what is wrong with it


def _broken(kind: str, error: Exception) -> str:
    reason = _one_line(str(error).strip()) or type(error).__name__
    return f"is a broken or cut short {kind} ({reason}); download or save it again"


def _container_brands(data: bytes) -> set[bytes]:
    """The brands of an ISO base media file (ISO 14496-12, 4.3), such as b"heic"; empty for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[start : start + 4] for start in range(8, end, 4)}


def _content_kind(data: bytes) -> str:
    """Names content that people give by mistake and says what to do; "" when it is nothing of the kind."""
    head = data[:4096].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "is a web page, no picture; give the picture's own address"
    if head.startswith(b"<") and b"<svg" in head:
        return "is an SVG drawing, which has no pixels; export it as PNG"
    if head.startswith(b"%pdf"):
        return "is a PDF document; export the page as PNG"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: 4096 bytes may end inside a letter
    except UnicodeDecodeError:
        return ""
    return "is text, no picture; give a picture file" if all(c.isprintable() or c.isspace() for c in text) else ""
