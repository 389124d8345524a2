"""From an image file, or the bytes of one, to 8-bit pixels."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from advex.data.source import Encoded, Header, Unreadable
from advex.data.window import Cut, Window

# A closed list: Pillow knows formats that start other programs (PostScript).
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
    + (".avif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpc")
)
# Pictures in formats that are not read, by suffix.
UNREAD = {
    ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".jxl": "JPEG XL", ".svg": "SVG", ".psd": "Photoshop",
    ".dng": "raw", ".cr2": "raw", ".cr3": "raw", ".nef": "raw", ".arw": "raw", ".exr": "OpenEXR", ".dcm": "DICOM",
}  # fmt: skip
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "JPEG2000": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_COMPRESSION, _STRIPS = 259, ((273, 279), (324, 325))  # TIFF's tags: where strips or tiles begin, and their lengths
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, Pillow's remarks on odd files are silent, and its first limit on image size raises.

    Python's warning filters belong to the process: enter this around a thread pool, not inside it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def pixels(
    encoded: Encoded,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    formats: tuple[str, ...] = FORMATS,
) -> np.ndarray:
    """[channels, height, width] uint8 of one image: see `decoded`."""
    return decoded(encoded, size=size, channels=channels, formats=formats).pixels


def decoded(
    encoded: Encoded,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    formats: tuple[str, ...] = FORMATS,
    shown: Callable[[tuple[int, int]], Window] | None = None,
) -> Cut:
    """The pixels [channels, height, width] uint8 of one image, and which part of it they are, at which size.

    Float pixels are given back as they are. Of several frames the first; turned upright by its EXIF orientation;
    transparent parts on white; of 16-bit pixels the high byte; colour profiles are not applied. channels: 1 or 3, None
    keeps grey grey and colour colour. size: (height, width) to scale to cover and to cut the centre out of. shown: the
    window of a picture of a given (height, width), in place of `size`.
    Raises Unreadable. Large images are refused only inside `quiet()`.
    """
    if isinstance(encoded, Unreadable):
        raise encoded
    before = encoded.window if isinstance(encoded, Cut) else None
    given = encoded.pixels if isinstance(encoded, Cut) else encoded
    if (
        isinstance(given, np.ndarray)
        and shown is None
        and (given.dtype != np.uint8 or _fits(given.shape, size, channels))
    ):
        return Cut(given, before or Window.whole(given.shape[1:]))
    try:
        image = _from_pixels(given) if isinstance(given, np.ndarray) else _upright(given, formats)
        if channels is not None:
            image = image.convert({1: "L", 3: "RGB"}[channels])
        window = Window.whole((image.height, image.width))
        if shown is not None or (size is not None and window.size != size):
            window = shown(window.of) if shown is not None else Window.centred(window.of, size or window.of)
            image = _scaled(image, window)
        array = _to_pixels(image)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them trip over
        raise _unreadable(error) from None
    return Cut(array, before.then(window) if before else window)


def header(path: Path) -> Header:
    """What the head of an image file says of it, without decoding. Raises Unreadable where that shows that it is none.

    One that breaks off is known by its end; where that is not as it should be, it is decoded to see. Damage elsewhere
    shows only later. Large images are refused only inside `quiet()`.
    """
    try:
        with _opened(path, FORMATS) as image:
            if not _ends(image, path):
                image.load()
            # A PNG that says nothing would be decoded to ask it; the size of a TIFF is upright.
            said = image.format not in ("PNG", "TIFF") or (image.format == "PNG" and "exif" in image.info)
            turned = said and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            size = (image.width, image.height) if turned else (image.height, image.width)
            return Header(size=size, grey=_is_grey(image), stamp=(path.stat().st_size,))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(error) from None


def _ends(image: Image.Image, path: Path) -> bool:
    """Whether a file ends where its picture does; False where that is not known, or more is written behind it."""
    if image.format in ("GIF", "WEBP"):  # Pillow has looked when it opened them
        return True
    length = path.stat().st_size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        strips = [(tags.get(starts, ()), tags.get(lengths, ())) for starts, lengths in _STRIPS]
        ends = [start + count for starts, lengths in strips for start, count in zip(starts, lengths, strict=False)]
        complete = all(len(starts) == len(lengths) for starts, lengths in strips)
        return complete and tags.get(_COMPRESSION) == 1 and max(ends, default=math.inf) <= length
    with path.open("rb") as file:
        file.seek(max(length - 16, 0))
        return image.format in _ENDS and file.read().endswith(_ENDS[image.format])


_LASTING = (
    None, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip


def _unreadable(error: Exception) -> Unreadable:
    unreadable = Unreadable(_reason(error))
    # The system's failures, not Pillow's; what may be read is seen by the file's times.
    number = errno.ENOMEM if "out of memory" in str(error) else getattr(error, "errno", None)
    unreadable.passing = number not in _LASTING
    return unreadable


def scaled(pixels: np.ndarray, window: Window) -> Cut:
    """What a window shows of pixels [1 or 3, height, width] uint8; bilinear, averaging where they shrink."""
    return Cut(_to_pixels(_scaled(_from_pixels(pixels), window)), window)


def _scaled(image: Image.Image, window: Window) -> Image.Image:
    # Only what is shown is ever computed: a picture of 1 x 5,000 pixels costs no more than another.
    box = (window.left, window.top, window.right, window.bottom)
    return image.resize((window.size[1], window.size[0]), Image.Resampling.BILINEAR, box=box)


def _fits(shape: tuple[int, ...], size: tuple[int, int] | None, channels: int | None) -> bool:
    return channels in (None, shape[0]) and size in (None, shape[1:])


def _from_pixels(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def _to_pixels(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _upright(encoded: Path | bytes, formats: tuple[str, ...]) -> Image.Image:
    """The image as seen, in mode L or RGB."""
    with _opened(encoded, formats) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _standard(image)


@contextlib.contextmanager
def _opened(encoded: Path | bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The image of a file, of which only the head is read; of a kind that is read."""
    if isinstance(encoded, Path) and not encoded.is_file():
        if encoded.is_dir():
            raise Unreadable("it is a folder")
        raise Unreadable("not a file that can be opened" if encoded.exists() else "the file does not exist")
    # Always an open file: by its path, Pillow maps an uncompressed TIFF and then forgets to turn it.
    with encoded.open("rb") if isinstance(encoded, Path) else io.BytesIO(encoded) as file:
        start = file.read(12)
        if not start:
            raise Unreadable("empty file")
        if start[4:8] == b"ftyp" and start[8:] in _HEIC:
            raise Unreadable(f"a HEIC picture, which is not supported: save it as one of {', '.join(formats)}")
        file.seek(0)
        image = Image.open(file, formats=formats)
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
            raise Unreadable(f"pixels of type {image.mode} (32 bit), which have no standard white value")
        yield image


def _standard(image: Image.Image) -> Image.Image:
    """Mode L for grey images, RGB for all others; transparent parts on white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("L" if grey else "RGB")
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode == "P" and _grey(image):
        return image.convert("RGB").convert("L")
    return image.convert("RGB")


def _is_grey(image: Image.Image) -> bool:
    """Whether `_standard` makes mode L of it; of one that need not be decoded yet."""
    if image.mode == "P" and not image.has_transparency_data:
        return _grey(image)
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def _grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _reason(error: Exception) -> str:
    text = str(error).rstrip(".")
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"too many pixels: {text.partition(',')[0]}"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)}), or damaged at its start"
    if isinstance(error, PermissionError):
        return "no read permission"
    if "truncated" in text.lower():
        return "truncated file"
    if isinstance(error, OSError) and error.strerror:  # the system's words, without its number and the whole path
        return error.strerror
    return f"damaged: {text or type(error).__name__}"
