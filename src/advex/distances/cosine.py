"""The angle between two maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex.distances.distance import OfMaps, largest
from advex.registry import register


@register("distance", "cosine")
@dataclass(frozen=True)
class Cosine(OfMaps):
    """1 - cos of the angle between the maps: 0 same direction, 1 nothing in common, 2 opposite.

    channels: see `Channels`. Values without a sign are never opposite.
    """

    highest: ClassVar[float] = 2.0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return one_minus_cosine(*self.rows(first, second))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The distance itself."""
        return self(first, second)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of rows [n, d]: [n]; 0, and with no slope, where one of them is zero. For losses, which NaN would spoil."""
    sizes = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / torch.where(sizes == 0, math.inf, sizes)


def one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of rows [n, d]: [n]. NaN where a is zero, 1 where only b is."""
    # As half the squared distance of the directions: exact for nearly equal ones, where 1 - cos would be rounding.
    half = (_direction(a) - _direction(b)).square().sum(dim=1) / 2
    half = torch.where((b == 0).all(dim=1), 1.0, half)
    return torch.where((a == 0).all(dim=1), math.nan, half)


def _direction(rows: Tensor) -> Tensor:
    scaled = rows / largest(rows)  # no square can overflow or vanish
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(0.5)  # at least 1 unless zero
