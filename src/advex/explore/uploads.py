"""Pictures of the owner's own: measured before they are decoded, decoded by a closed list of formats, written anew."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import torch
from PIL import Image

from advex.data.images import decode
from advex.data.images.png import encode_png
from advex.data.source import Unreadable
from advex.errors import DataError, visible
from advex.explore.requests import LONGEST_NAME, UPLOAD_BYTES, UPLOAD_PIXELS, FittedPicture


def fitted(data: bytes, shape: Sequence[int], name: str = "") -> FittedPicture:
    """A picture file as a PNG of a network's size: nothing of the file is kept but its pixels and its name.

    shape: (channels, height, width). name: of the file, which may hold anything. Upright by EXIF, of several frames the
    first, of 16 bits the high byte; scaled to cover and the centre cut out. Raises DataError for what is too large,
    damaged or no picture.
    """
    if len(data) > UPLOAD_BYTES:
        raise DataError(f"The file has {len(data) / 1e6:.1f} MB; at most {UPLOAD_BYTES / 1e6:.0f} MB are allowed.")
    channels, height, width = shape
    try:
        with decode.quiet():
            size, remarks = _measured(data)
            pixels = decode.pixels(data, channels=channels, size=(height, width))
    except Unreadable as error:
        raise DataError(f"The file cannot be read as a picture: {error}.") from None
    if size != (width, height):
        remarks.append(f"{size[0]}x{size[1]} pixels scaled to cover {width}x{height}, the centre cut out")
    shown = visible(re.split(r"[/\\]", name)[-1][:LONGEST_NAME], one_line=True).strip() or "own picture"
    return FittedPicture(png=encode_png(torch.from_numpy(pixels.copy())), name=shown, note="; ".join(remarks))


def _measured(data: bytes) -> tuple[tuple[int, int], list[str]]:
    """Width and height as seen, and what is worth saying. Reads the file's head alone. Raises Unreadable, DataError."""
    try:
        with Image.open(io.BytesIO(data), formats=decode.FORMATS) as image:
            (width, height), mode = image.size, image.mode
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            frames = getattr(image, "n_frames", 1) if width * height <= UPLOAD_PIXELS else 1
    except Image.DecompressionBombWarning:
        raise DataError(_too_many()) from None
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them trip over
        if isinstance(error, Image.DecompressionBombError):
            raise DataError(_too_many()) from None
        raise Unreadable("not an image of a known format, or damaged at its start") from None
    if width * height > UPLOAD_PIXELS:
        raise DataError(_too_many())
    remarks = []
    if frames > 1:
        remarks.append(f"the first of {frames} frames")
    if mode.startswith("I;16") or mode == "I":
        remarks.append("the high byte of 16 bits")
    return (height, width) if turned else (width, height), remarks


def _too_many() -> str:
    return f"The picture has too many pixels: at most {UPLOAD_PIXELS / 1e6:.0f} million are accepted."
