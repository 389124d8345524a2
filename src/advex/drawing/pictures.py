"""Pictures as the report embeds them: the PNG that was checked, its difference to the input, a useful size."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PERCENTILE = 99.5  # of all differences shown together: where their common scale ends
_LARGEST = 16_000_000  # pixels
_AIM, _LEAST = 96, 72  # pixels on the screen, of the longer side

# Darker than the input, unchanged, lighter: blue, near white, vermilion. Told apart by all common colour visions.
_DARKER = ((8, 48, 107), (33, 113, 181), (107, 174, 214), (198, 219, 239), (247, 247, 247))
_LIGHTER = ((247, 247, 247), (253, 208, 162), (253, 141, 60), (217, 72, 1), (127, 39, 4))


@dataclass(frozen=True)
class Picture:
    """A PNG and its pixels. png: the file's bytes. pixels: [height, width, 1 or 3] uint8."""

    png: bytes
    pixels: np.ndarray


@dataclass(frozen=True)
class ShownPicture:
    """A picture on the page. width, height: as shown. crisp: pixels stay squares. alt: what it is, in words."""

    uri: str
    width: int
    height: int
    crisp: bool
    alt: str


@dataclass(frozen=True)
class SymmetricScale:
    """The symmetric scale that a set of differences shares. reach: the change (0 to 1) drawn at its ends."""

    reach: float

    @property
    def amplification(self) -> float:
        """How many times a colour difference is drawn larger than it is."""
        return 0.5 / self.reach


def read_picture(folder: Path, name: str | None) -> Picture | None:
    """A picture of a record; None where it is missing, is no PNG, or would lie outside the folder."""
    path = locate(folder, name)
    if path is None:
        return None
    png = path.read_bytes()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.width * image.height > _LARGEST:
                return None
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Picture(png, pixels.reshape(*pixels.shape[:2], -1))


def picture_of(pixels: np.ndarray) -> Picture:
    """Pixels [height, width, 1 or 3] uint8 as a picture."""
    return Picture(_png(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)), pixels)


def locate(folder: Path, name: str | None) -> Path | None:
    """The file of a picture, named relative to the record or to its `pictures`; never one outside."""
    if not name or "\0" in name:
        return None
    root = folder.resolve()
    for path in ((root / name).resolve(), (root / "pictures" / name).resolve()):
        if path.is_relative_to(root) and path.is_file():
            return path
    return None


def data_uri(png: bytes) -> str:
    """PNG bytes, written into the page itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def show(picture: Picture, alt: str) -> ShownPicture:
    """A picture at a useful size."""
    height, width = picture.pixels.shape[:2]
    return ShownPicture(data_uri(picture.png), *zoom(width, height), alt)


def zoom(width: int, height: int) -> tuple[int, int, bool]:
    """Size on the screen, and whether pixels stay squares: small pictures are enlarged by a whole factor.

    >>> zoom(8, 8), zoom(32, 32), zoom(64, 64), zoom(120, 90), zoom(224, 224)
    ((96, 96, True), (96, 96, True), (128, 128, True), (120, 90, True), (144, 144, False))
    """
    side = max(width, height)
    if side > 1.5 * _AIM:
        return max(round(144 * width / side), 1), max(round(144 * height / side), 1), False
    factor = max(round(_AIM / side), math.ceil(_LEAST / side), 1)
    return width * factor, height * factor, True


def change(picture: Picture, clean: Picture) -> np.ndarray | None:
    """What was added to the input, [height, width, channels] from -255 to 255; None if the sizes differ."""
    if picture.pixels.shape != clean.pixels.shape:
        return None
    return picture.pixels.astype(np.int16) - clean.pixels.astype(np.int16)


def common_scale(changes: Iterable[np.ndarray]) -> SymmetricScale:
    """The scale for differences that shall be compared by eye: the 99.5th percentile of their sizes, at least 1/255."""
    counts = np.zeros(256, dtype=np.int64)
    for values in changes:
        counts += np.bincount(np.abs(values).ravel(), minlength=256)
    total = int(counts.sum())
    if not total:
        return SymmetricScale(1.0)
    reach = int(np.searchsorted(np.cumsum(counts), PERCENTILE / 100 * total))
    return SymmetricScale(max(reach, 1) / 255)


def show_change(values: np.ndarray, scale: SymmetricScale, alt: str) -> ShownPicture:
    """A difference as a picture.

    One channel: blue where it became darker, orange where lighter, near white where nothing changed.
    Three: mid-grey plus the amplified difference. Beyond the scale's end it stays at the end's colour.
    """
    relative = np.clip(values / (255 * scale.reach), -1, 1)
    if values.shape[2] == 1:
        image = _coloured(np.round((relative[:, :, 0] + 1) * 127).astype(np.uint8))
    else:
        image = Image.fromarray(np.round(127 + 127 * relative).astype(np.uint8))
    return ShownPicture(data_uri(_png(image)), *zoom(image.width, image.height), alt)


def show_scale(scale: SymmetricScale, colours: bool) -> ShownPicture:
    """The scale itself as a bar, from darker to lighter. colours: of three-channel pictures."""
    shades = np.arange(255, dtype=np.uint8)[None]
    end = f"{scale.reach:.2f}"
    alt = f"Scale of the differences, from {end} darker to {end} lighter."
    image = Image.fromarray(shades) if colours else _coloured(shades)
    return ShownPicture(data_uri(_png(image)), 204, 12, False, alt)


def colour_map() -> np.ndarray:
    """The diverging colours from darker to lighter, [255, 3] uint8; row 127 is no change."""
    stops = np.array(_DARKER + _LIGHTER[1:], dtype=np.float64)
    places = np.linspace(0, 254, len(stops))
    channels = [np.interp(np.arange(255), places, stops[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def _coloured(shades: np.ndarray) -> Image.Image:
    """Places in the colour map, [height, width] from 0 to 254, as a picture with that palette."""
    image = Image.frombytes("P", (shades.shape[1], shades.shape[0]), shades.tobytes())
    image.putpalette(colour_map().ravel().tolist())
    return image


def encoded(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 [height, width] or [height, width, 3]."""
    return _png(Image.fromarray(pixels))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=9)
    return file.getvalue()
