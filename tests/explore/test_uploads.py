"""Pictures of the owner's own: what is taken, what it becomes, and what is refused in a sentence."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advex.errors import DataError
from advex.explore import uploads
from advex.explore.requests import UPLOAD_BYTES, UPLOAD_PIXELS

COLOUR, GREY = (3, 32, 32), (1, 8, 8)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A file of an image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    """Coloured."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def claimed(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def opened(png: bytes) -> Image.Image:
    """As a viewer sees it."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        image.load()
        return image


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_pictures_of_every_form_become_pngs_of_the_networks_size(form: str) -> None:
    fitted = uploads.fitted(encoded(noise(64, 48), form), COLOUR)
    image = opened(fitted.png)
    assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")
    assert fitted.note == "64x48 pixels scaled to cover 32x32, the centre cut out"
    assert fitted.name == "own picture"
    assert uploads.fitted(encoded(noise(64, 48), form), COLOUR, "cat.png").name == "cat.png"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("C:\\Users\\me\\cat.png", "cat.png"), ("/home/me/cat.png", "cat.png"), ("../../etc/", "own picture"),
        ("a\x1b[31mb.png", "a?[31mb.png"), ("a\nb\u202e.png", "a b?.png"), ("x" * 300, "x" * 255),
        ("  ", "own picture"),
    ],
)  # fmt: skip
def test_a_file_keeps_its_name_without_its_folder_and_without_control_characters(sent: str, shown: str) -> None:
    assert uploads.fitted(encoded(noise(8, 8)), GREY, sent).name == shown


def test_a_picture_that_fits_is_taken_as_it_is() -> None:
    fitted = uploads.fitted(encoded(noise(32, 32)), COLOUR)
    assert np.array_equal(np.asarray(opened(fitted.png)), np.asarray(noise(32, 32)))
    assert fitted.note == ""
    assert opened(uploads.fitted(encoded(noise(8, 8)), GREY).png).mode == "L"


def test_nothing_of_the_file_but_its_pixels_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    fitted = uploads.fitted(encoded(noise(32, 32), "JPEG", exif=exif, comment=b"secret"), COLOUR)
    assert b"home" not in fitted.png
    assert b"secret" not in fitted.png
    assert opened(fitted.png).info == {}


def test_a_photograph_is_turned_upright() -> None:
    upright = np.zeros((8, 8), dtype=np.uint8)
    upright[0] = 255  # a bright sky
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.rot90(upright).copy())
    fitted = uploads.fitted(encoded(lying, exif=exif), GREY)
    assert np.array_equal(np.asarray(opened(fitted.png)), upright)
    wide = uploads.fitted(encoded(noise(20, 10), "JPEG", exif=exif), COLOUR)
    assert wide.note.startswith("10x20 pixels")  # as seen


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    fitted = uploads.fitted(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), COLOUR)
    assert opened(fitted.png).getpixel((5, 5)) == (255, 0, 0)
    assert fitted.note == "the first of 3 frames"


def test_of_16_bits_the_high_byte_counts() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x1234, dtype=np.uint16))
    fitted = uploads.fitted(encoded(deep), GREY)
    assert opened(fitted.png).getpixel((0, 0)) == 0x12
    assert "16 bits" in fitted.note


def test_a_transparent_picture_is_on_white() -> None:
    fitted = uploads.fitted(encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 0))), COLOUR)
    assert opened(fitted.png).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(30_000, 30_000), (UPLOAD_PIXELS // 1000 + 1, 1000), (1, UPLOAD_PIXELS + 1)])
def test_what_would_unpack_into_too_much_is_refused_before_it_is_unpacked(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads.decode, "pixels", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=" 40 "):
        uploads.fitted(claimed(*size), COLOUR)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(DataError, match=" 10 "):
        uploads.fitted(encoded(noise(32, 32)) + bytes(UPLOAD_BYTES), COLOUR)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello", SVG, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.7", b"MZ" + bytes(99),
        encoded(noise(64, 64))[:3000], encoded(noise(64, 64), "JPEG")[:900], encoded(noise(64, 64))[:20],
        claimed(0, 5), bytes(5000),
    ],
    ids=["empty", "text", "svg", "eps", "pdf", "exe", "png cut", "jpeg cut", "head cut", "no width", "zeros"],
)  # fmt: skip
def test_what_is_no_picture_or_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        uploads.fitted(data, COLOUR)
