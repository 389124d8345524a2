"""Pictures in memory, whatever holds them, as the readers of files take them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advex.data.source import Encoded, Unreadable


def is_pixels(given: Any) -> bool:
    """Whether an array is a picture as PIL understands it: uint8, [height, width] or with 1, 3 or 4 channels last."""
    if not isinstance(given, np.ndarray) or given.dtype != np.uint8:
        return False
    return given.ndim == 2 or (given.ndim == 3 and given.shape[2] in (1, 3, 4) and not _is_planes(given))


def _is_planes(array: np.ndarray) -> bool:
    """Whether the channels of an array come first."""
    return array.ndim == 3 and array.shape[0] in (1, 3)


def pixels_of(given: np.ndarray | Tensor) -> list[np.ndarray]:
    """The pictures [height, width(, channels)] in an array or tensor of one or several, with channels first or last.

    Empty where it is not uint8, or holds no pictures.
    """
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) and given.dtype == torch.uint8 else given
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        return []
    several = list(array) if array.ndim == 4 else [array]
    several = [each.transpose(1, 2, 0) if _is_planes(each) else each for each in several]
    return several if all(each.ndim == 2 or each.shape[-1] in (1, 3, 4) for each in several) else []


def is_empty(picture: Any) -> bool:
    """Whether an array, a tensor or a picture of PIL has nothing in it."""
    return 0 in (picture.size if isinstance(picture, Image.Image) else getattr(picture, "shape", ()))


def png_of(picture: Image.Image | np.ndarray) -> bytes:
    """A picture in memory as a file would hold it, with its EXIF orientation."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)
    image, held = picture, io.BytesIO()
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        exif, image = image.getexif(), image.convert("RGB")
        image.save(held, "PNG", exif=exif)
    else:
        image.save(held, "PNG", exif=image.getexif())
    return held.getvalue()


def is_float(value: Any) -> bool:
    """Whether it is an array or a tensor of floats, which is taken as it is."""
    return (
        value.is_floating_point() if isinstance(value, Tensor) else getattr(value, "dtype", np.dtype(int)).kind == "f"
    )


def encoded(value: Any) -> Encoded:
    """A picture as the readers of files take it: a file, its bytes, or pixels [channels, height, width] of bytes."""
    if isinstance(value, Mapping):  # of Hugging Face, where pictures are not decoded
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | Path):
        return Path(value)
    if is_empty(value):
        return Unreadable("it is empty")
    if isinstance(value, Image.Image) or is_pixels(value):
        return png_of(value)
    if not isinstance(value, np.ndarray | Tensor):
        return Unreadable(f"{type(value).__name__} is not a picture")
    array = np.asarray(value)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[0] not in (1, 3) or array.dtype != np.uint8:
        return Unreadable(f"{list(array.shape)} of {array.dtype} is not a picture [1 or 3, height, width]")
    return array
