import base64
import io
import os
import socket
import struct
import sys
import threading
import time
import warnings
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageFile

from assistant.errors import ImageError
from assistant.images import Picture, load_picture, load_pictures

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width=48, height=32):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def red_then_blue(width=60, height=20):
    """Red on the left, blue on the right, so that every way of turning shows."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    return start + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def refusal(source, **options):
    """The one line that refuses the source; it comes fast."""
    start = time.monotonic()
    with pytest.raises(ImageError) as caught:
        load_picture(source, **options)
    assert time.monotonic() - start < 5
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600
    assert caught.value.exit_code == 2
    return line


# ---- where pictures come from


def test_a_path_a_string_bytes_and_a_pil_image_give_the_same_picture(tmp_path):
    path = tmp_path / "photo one.png"
    path.write_bytes(encode(noise()))
    for source in (path, str(path), path.read_bytes(), noise()):
        picture = load_picture(source)
        assert picture.image.mode == "RGB"
        assert np.array_equal(picture.image, noise())
        assert picture.notes == ()


def test_names_are_paths_or_positions(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise()))
    ready = Picture(noise(), "ready")
    pictures = load_pictures([str(path), path.read_bytes(), ready, noise()])
    assert [picture.name for picture in pictures] == [str(path), "image 2", "ready", "image 4"]
    assert load_picture(path.read_bytes(), name="upload.png").name == "upload.png"
    with pytest.raises(ImageError, match="image 2: is empty"):
        load_pictures([path, b""])


def test_one_source_instead_of_a_list_is_refused():
    with pytest.raises(ImageError, match="as a list"):
        load_pictures("photo.png")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(encode(noise()))
    assert load_picture("~/a.png").image.size == (48, 32)
    assert "~nobody-of-that-name/a.png" in refusal("~nobody-of-that-name/a.png")


def test_a_pil_image_is_copied():
    source = noise()
    picture = load_picture(source)
    source.paste(WHITE, (0, 0, 48, 32))
    assert np.array_equal(picture.image, noise())


def test_a_data_address():
    data = base64.b64encode(encode(noise())).decode()
    picture = load_picture(f"data:image/png;base64,{data[:40]}\n{data[40:]}")
    assert np.array_equal(picture.image, noise())
    assert picture.name == "image 1"
    assert "base64" in refusal("data:image/png;base64,!!!")
    assert "no comma" in refusal("data:image/png;base64")
    assert "SVG" in refusal("data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'/%3E")


@pytest.mark.parametrize("source", [None, 3, ["a.png"]])
def test_other_types_are_refused(source):
    assert type(source).__name__ in refusal(source)


# ---- files that are no picture


def test_a_missing_file(tmp_path):
    line = refusal(tmp_path / "none.png")
    assert str(tmp_path / "none.png") in line and "no such file" in line
    assert "a\\nb.png" in refusal("a\nb.png")
    assert "cannot be read" in refusal("a\0b.png")


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.png").touch()
    assert "empty.png: is empty" in refusal(tmp_path / "empty.png")
    assert "is empty" in refusal(b"")


def test_a_folder_and_an_empty_path(tmp_path):
    assert "is a folder" in refusal(tmp_path)
    assert "empty path" in refusal("")


def test_a_fifo_and_a_device_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "no regular file" in refusal(tmp_path / "pipe.png")
    assert "no regular file" in refusal("/dev/zero")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def deny(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(encode(noise()))
    monkeypatch.setattr(Path, "read_bytes", deny)
    assert "permissions" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"Dear all, this is a letter.\n", "is text"),
        (("\ufeff" + "Just text, größer als nötig. " * 500).encode(), "is text"),
        (b"BMW makes cars, and this starts like a BMP.", "is text"),
        (b"P", "is text"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='3'></svg>", "SVG"),
        (b"<!DOCTYPE html><html><body><svg/></body></html>", "web page"),
        (b"\n<html><body>404</body></html>", "web page"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is text"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00", "no format that is read here"),
    ],
)
def test_files_that_are_no_picture_are_named(tmp_path, content, word):
    (tmp_path / "photo.png").write_bytes(content)
    line = refusal(tmp_path / "photo.png")
    assert "photo.png" in line and word in line


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_picture_is_an_error_at_every_length(kind):
    data = encode(noise(), kind)
    assert load_picture(data).image.size == (48, 32)
    for length in range(1, len(data) - 16, max(1, len(data) // 23)):
        assert "image 1" in refusal(data[:length])
    assert "cut short" in refusal(data[: len(data) * 3 // 4])


def test_a_lazy_pil_image_that_is_cut_is_an_error():
    data = encode(noise())
    assert "cut short PNG" in refusal(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_heic_without_the_plug_in_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"mif1"):
        assert "pip install pillow-heif" in refusal(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100))


def test_heic_with_the_plug_in_is_read(monkeypatch):
    plug_in = SimpleNamespace(HeifImageFile=lambda file: Image.open(io.BytesIO(encode(noise()))))
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    assert load_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)).image.size == (48, 32)


def test_avif_where_pillow_lacks_it(monkeypatch):
    data = encode(noise(), "AVIF")
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    assert "is an AVIF picture; run `pip install --upgrade pillow`" in refusal(data)


# ---- limits


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line = refusal(tmp_path / "bomb.png")
        refusal(png_header(10_000, 10_000))  # in the range in which `Image.open` warns
    assert "bomb.png" in line and "3,600,000,000" in line and "80,000,000" in line
    assert before == Image.MAX_IMAGE_PIXELS


def test_limits_can_be_set():
    data = encode(noise())
    assert load_picture(data, max_pixels=48 * 32, max_bytes=len(data)).image.size == (48, 32)
    assert "1,536 pixels, the limit is 1,535" in refusal(data, max_pixels=48 * 32 - 1)
    assert "1,536 pixels, the limit is 1,535" in refusal(noise(), max_pixels=48 * 32 - 1)
    assert f"the limit is {len(data) - 1:,}" in refusal(data, max_bytes=len(data) - 1)


def test_a_large_file_is_refused_unread(tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(200 * 2**20)
    line = refusal(tmp_path / "large.png")
    assert "209,715,200" in line and "52,428,800" in line


def test_no_pixels():
    assert "has no pixels (0 x 5)" in refusal(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_tiny_and_narrow_pictures_work(size):
    for kind in ("PNG", "JPEG"):
        assert load_picture(encode(Image.new("RGB", size, RED), kind)).image.size == size


def test_a_large_jpeg_is_decoded_smaller_but_not_too_small():
    assert load_picture(encode(Image.new("RGB", (4096, 2048), RED), "JPEG")).image.size == (2048, 1024)
    assert load_picture(encode(Image.new("RGB", (2047, 1500), RED), "JPEG")).image.size == (2047, 1500)


# ---- colour


def test_cmyk():
    for kind in ("JPEG", "TIFF"):
        pixel = load_picture(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)).image.getpixel((8, 8))
        assert np.abs(np.subtract(pixel, RED)).max() < 12


def test_sixteen_bits_are_scaled_and_not_cut():
    values = np.array([[0, 255, 257 * 100, 32768, 65535]], dtype=np.uint16)
    want = [0, 0, 100, 128, 255]
    gray = Image.fromarray(values)
    wide = Image.fromarray(values.astype(np.int32))
    sources = [encode(gray), encode(gray, "TIFF"), encode(wide, "PPM"), gray, wide]
    for source in sources:
        assert np.asarray(load_picture(source).image)[0, :, 0].tolist() == want
    big_endian = Image.frombytes("I;16B", (5, 1), values.astype(">u2").tobytes())
    assert np.asarray(load_picture(big_endian).image)[0, :, 2].tolist() == want


def test_thirty_two_bits_are_spread_over_what_they_hold():
    values = np.array([[-1.0, 0.0, 1.0, np.nan]], dtype=np.float32)
    assert np.asarray(load_picture(Image.fromarray(values)).image)[0, :, 0].tolist() == [0, 127, 255, 127]
    flat = Image.fromarray(np.full((2, 2), 7.5, dtype=np.float32))
    assert load_picture(encode(flat, "TIFF")).image.getpixel((0, 0)) == (0, 0, 0)
    extremes = np.array([[-3e38, 3e38, np.inf]], dtype=np.float32)
    assert np.asarray(load_picture(Image.fromarray(extremes)).image)[0, :, 0].tolist() == [0, 255, 127]
    integers = np.array([[-5, 100_000]], dtype=np.int32)
    assert np.asarray(load_picture(Image.fromarray(integers)).image)[0, :, 0].tolist() == [0, 255]


def test_transparency_is_shown_on_white():
    rgba = Image.new("RGBA", (4, 1), (*RED, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 128))
    pixels = np.asarray(load_picture(encode(rgba)).image)[0].tolist()
    assert pixels == [[255, 0, 0], [255, 255, 255], [127, 127, 127], [255, 0, 0]]


def test_palette_with_alpha_and_gray_with_alpha():
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *BLUE, 0, 0, 0])
    for x in range(3):
        palette.putpixel((x, 0), x)
    want = [[255, 0, 0], [0, 0, 255], [255, 255, 255]]
    for transparency in (2, bytes([255, 255, 0])):
        image = load_picture(encode(palette, transparency=transparency)).image
        assert np.asarray(image)[0].tolist() == want
    gray = Image.merge("LA", [Image.new("L", (2, 1), 0), Image.frombytes("L", (2, 1), bytes([255, 0]))])
    assert np.asarray(load_picture(encode(gray)).image)[0, :, 1].tolist() == [0, 255]


def test_one_bit():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert np.asarray(load_picture(encode(image)).image)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_a_colour_mode_that_does_not_convert_is_named():
    assert "colour mode La" in refusal(Image.new("La", (2, 2)))


# ---- frames and orientation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_is_used_and_said_so(kind):
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    picture = load_picture(encode(first, kind, save_all=True, append_images=[second, first], duration=50))
    assert np.abs(np.subtract(picture.image.getpixel((8, 8)), RED)).max() < 12
    assert picture.notes == (f"animated {kind}: the first of 3 frames is used",)


def test_a_tiff_has_pages_and_an_mpo_has_none():
    first, second = red_then_blue(), Image.new("RGB", (60, 20), BLUE)
    pages = load_picture(encode(first, "TIFF", save_all=True, append_images=[second]))
    assert pages.notes == ("TIFF with 2 pages: the first is used",)
    assert np.array_equal(pages.image, first)
    assert load_picture(encode(first, "MPO", save_all=True, append_images=[second])).notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied(kind, orientation):
    # Each way of storing the upright picture, by hand: what a camera turned like that would have written.
    upright = np.asarray(red_then_blue())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = load_picture(encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif))
    assert picture.image.size == (60, 20)
    assert np.abs(np.asarray(picture.image, dtype=int) - upright)[:, [5, 15, 45, 55]].max() < 16


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_lose_the_picture():
    picture = load_picture(encode(red_then_blue(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert picture.image.size == (60, 20)


# ---- addresses


class Handler(BaseHTTPRequestHandler):
    """A server with every vice: slow, endless, circular, lying."""

    def do_GET(self):
        getattr(self, self.path.split("/")[1].split("?")[0].split("%")[0])()

    def answer(self, status=200, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def picture(self):
        self.answer(body=encode(noise()))

    def hops(self):
        left = int(self.path.rpartition("/")[2])
        self.answer(302, Location=f"/hops/{left - 1}" if left else "/picture")

    def circle(self):
        self.answer(301, Location="/circle")

    def to_file(self):
        self.answer(302, Location=f"file://{__file__}")

    def to_data(self):
        self.answer(308, Location="data:image/png;base64,AAAA")

    def to_nowhere(self):
        self.answer(300, Location="http://[::1")

    def page(self):
        self.answer(body=b"<!doctype html><html>no picture</html>", Content_Type="image/png")

    def nothing(self):
        self.answer()

    def missing(self):
        self.answer(404, b"<html>")

    def cut(self):
        data = encode(noise())
        self.answer(body=data[: len(data) // 2], Content_Length=str(len(data)))

    def announced(self):
        self.answer(Content_Length=str(10**12))

    def endless(self):
        self.drip(bytes(2**16), 0.0)

    def slow(self):
        self.drip(b"x", 0.02)

    def slow_headers(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        self.drip(b"x", 0.02, head=False)

    def silent(self):
        time.sleep(20)

    def drip(self, data, pause, head=True):
        if head:
            self.answer()
        end = time.monotonic() + 20
        try:
            while time.monotonic() < end:
                self.wfile.write(data)
                time.sleep(pause)
        except OSError:  # the reader is gone, as it should be
            pass

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.block_on_close = False
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_an_address_is_read(server):
    for path in ("/picture", "/picture?x=ä b", "/hops/4", "/picture#part"):
        picture = load_picture(server + path)
        assert np.array_equal(picture.image, noise())
        assert picture.name == server + path


@pytest.mark.parametrize("path", ["slow", "slow_headers", "silent"])
def test_a_slow_server_is_left_after_the_time_limit(server, path):
    start = time.monotonic()
    line = refusal(f"{server}/{path}", timeout=0.3)
    assert time.monotonic() - start < 10  # the server would go on for 20
    assert path in line and "0.3 seconds" in line


@pytest.mark.parametrize("path", ["endless", "announced"])
def test_a_huge_answer_is_refused(server, path):
    assert "the limit is 1,000,000" in refusal(f"{server}/{path}", max_bytes=1_000_000)


@pytest.mark.parametrize("path", ["circle", "hops/5"])
def test_redirects_end(server, path):
    line = refusal(f"{server}/{path}")
    assert path in line and "redirects more than 5 times" in line


def test_redirects_to_other_schemes_are_refused(server):
    assert "redirects to file:" in refusal(f"{server}/to_file")
    assert "redirects to data:" in refusal(f"{server}/to_data")
    assert "to_nowhere: cannot be fetched" in refusal(f"{server}/to_nowhere")


@pytest.mark.parametrize(
    ("path", "word"),
    [("page", "web page"), ("nothing", "is empty"), ("missing", "404 Not Found"), ("cut", "cut short PNG")],
)
def test_answers_that_are_no_picture(server, path, word):
    line = refusal(f"{server}/{path}")
    assert path in line and word in line


def test_no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "refused" in refusal(f"http://127.0.0.1:{port}/a.png")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "no network" in refusal("https://pictures.example/a.png")


def test_a_name_look_up_that_hangs_counts(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(2))
    assert "0.2 seconds" in refusal("http://pictures.example/a.png", timeout=0.2)


@pytest.mark.parametrize("address", ["http://", "http://[::1", "https:///a.png", "http://127.0.0.1:port/a.png"])
def test_broken_addresses(address):
    assert address in refusal(address)


@pytest.mark.parametrize("scheme", ["file", "ftp", "FILE", "gopher", "s3"])
def test_other_schemes_are_refused(tmp_path, scheme):
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise()))
    assert f"{scheme.lower()}: addresses are not read" in refusal(f"{scheme}://{path}")


# ---- whatever else

SOUND = [encode(noise(12, 9), kind) for kind in FORMATS] + [encode(Image.new("P", (9, 9)), "ICO")]
SIGNATURES = [data[:12] for data in SOUND]
SIGNATURES += [b"", b"P5 ", b"\0\0\0\x18ftypheic", b"qoif", b"II*\0", b"<svg"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_image_errors(signature, data):
    try:
        assert load_picture(signature + data, max_pixels=10_000).image.mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("image 1: ")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8))
def test_damaged_pictures_raise_nothing_but_image_errors(data, changes):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        assert load_picture(bytes(damaged), max_pixels=10_000).image.mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("image 1: ")
