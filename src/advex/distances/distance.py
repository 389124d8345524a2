"""What all distances between two maps of one input share. Channels are part of a distance: a reader sees pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from advex.distances.channels import Channels, check_channels, per_pixel
from advex.errors import InputError


class IncomparableError(InputError):
    """Maps of this shape have no such distance."""


class Distance(Protocol):
    """(first, second) -> [n]: how far the second maps [n, *shape] are from the first; 0 where they are equal.

    Row i depends on row i of both alone, and not on the scale of both maps together. NaN where the first map is zero,
    since there is nothing to compare with, and where a map is not finite; 1 where only the second map is zero. Raises
    InputError for maps of different shapes.

    highest: the largest value that it can take.
    """

    highest: ClassVar[float]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor: ...

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """What a search climbs in place of the distance: [n], differentiable in `second`, rising with the distance."""
        ...


@dataclass(frozen=True)
class OfMaps:
    """What distances have in common that know of channels. channels: see `Channels`; maps of rows have none."""

    channels: Channels = field(default="sum_abs", kw_only=True)

    def __post_init__(self) -> None:
        check_channels(self.channels)

    def rows(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Both sets of maps as lists of the numbers that are compared: [n, d] each. Raises InputError."""
        rows(first, second)  # of other shapes is refused
        return rows(per_pixel(first, self.channels), per_pixel(second, self.channels))


def rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets of maps as lists: [n, d] each. Raises InputError unless they have one shape."""
    if first.shape != second.shape or first.ndim < 2 or not math.prod(first.shape[1:]):
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise InputError(f"Distances need two sets of maps [n, *shape] of the same inputs, not {shapes}.")
    return first.flatten(1), second.flatten(1)


def largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each row [n, d], a constant: [n, 1]; 1 for rows of zeros."""
    values = rows.detach().abs().amax(dim=1, keepdim=True)
    return torch.where(values == 0, 1.0, values)


def where_finite(first: Tensor, second: Tensor, distance: Tensor) -> Tensor:
    """distance [n], NaN where a map [n, d] is not finite: sorting gives an order all the same."""
    return torch.where((torch.isfinite(first) & torch.isfinite(second)).all(dim=1), distance, math.nan)
