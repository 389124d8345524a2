"""8-bit PNG pictures: what is claimed of a saved picture is judged on the bytes that were saved."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advex.data.images import decode
from advex.data.source import Unreadable
from advex.errors import DataError, InputError


def quantise(x: Tensor) -> Tensor:
    """x as it comes back from an 8-bit picture: the nearest multiples of 1/255, of x's own float type.

    x: any shape, float in [0, 1]. Halves round to even. Equals `decode_png(encode_png(x)) / 255`,
    exactly. Raises InputError for values outside [0, 1] or not finite.
    """
    return _levels(x).div_(255)


def encode_png(x: Tensor) -> bytes:
    """A lossless 8-bit PNG of one picture [channels, height, width], 1 or 3 channels, on any device.

    uint8 is saved as it is, float in [0, 1] rounded as by `quantise`. Raises InputError.
    """
    if x.ndim != 3 or x.shape[0] not in (1, 3) or x.numel() == 0:
        raise InputError(f"A picture must be [channels, height, width] with 1 or 3 channels; got {tuple(x.shape)}.")
    pixels = (x if x.dtype == torch.uint8 else _levels(x).to(torch.uint8)).detach().cpu().numpy()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def decode_png(data: bytes) -> Tensor:
    """The picture [channels, height, width] uint8 in a PNG. Raises DataError."""
    try:
        with decode.quiet():
            return torch.from_numpy(decode.pixels(data, formats=("PNG",)).copy())
    except Unreadable as error:
        raise DataError(f"The PNG cannot be read: {error}.") from None


def _levels(x: Tensor) -> Tensor:
    """The nearest of 0, 1, ... 255 for each value in [0, 1]. A new tensor of x's type."""
    if not x.is_floating_point():
        raise InputError(f"Expected float in [0, 1], got {x.dtype}.")
    # Half precision cannot tell neighbouring levels apart after the product: work in float32 at least.
    levels = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) * 255).round_()
    if x.numel() and not (levels.amin().item() >= 0 and levels.amax().item() <= 255):  # also true for NaN
        raise InputError(f"Pictures must be in [0, 1]; got values in [{x.amin().item():.4g}, {x.amax().item():.4g}].")
    return levels.to(x.dtype)
