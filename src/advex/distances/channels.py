"""From a map with channels to one value per pixel: what a reader sees."""

from __future__ import annotations

import typing
from typing import Literal

from torch import Tensor

from advex.errors import SpecError, did_you_mean

# How the channels of a pixel become its one value; none: each element counts by itself.
Channels = Literal["sum_abs", "none", "sum", "mean_abs", "max_abs", "relu"]


def per_pixel(maps: Tensor, channels: Channels) -> Tensor:
    """Maps [n, c, height, width] with one value per pixel: [n, height, width]; as they are for `none`.

    sum_abs, mean_abs, max_abs: of the channels' sizes. sum: of their signed values. relu: that sum where it is above 0,
    else 0. Maps of rows [n, d], and any without an axis of channels, have one value per element already: they are left
    as they are, but for relu. Differentiable.
    """
    if channels == "none":
        return maps
    if maps.ndim != 4:
        return maps.relu() if channels == "relu" else maps
    if channels == "sum":
        return maps.sum(dim=1)
    if channels == "relu":
        return maps.sum(dim=1).relu()
    size = maps.abs()
    if channels == "max_abs":
        return size.amax(dim=1)
    return size.sum(dim=1) if channels == "sum_abs" else size.mean(dim=1)


def check_channels(channels: str) -> None:
    """Raise SpecError unless it is one of `Channels`."""
    if channels not in (known := typing.get_args(Channels)):
        raise SpecError(
            f"channels must be one of {', '.join(known)}, not {channels!r}: {did_you_mean(channels, known)}"
        )
