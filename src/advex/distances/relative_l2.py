"""The length of the difference, relative to that of the first map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex.distances.distance import OfMaps, largest, where_finite
from advex.registry import register


@register("distance", "relative_l2")
@dataclass(frozen=True)
class RelativeL2(OfMaps):
    """|b - a|_2 / |a|_2: the share of the map that has changed. At least 0, without an upper limit.

    channels: see `Channels`.
    """

    highest: ClassVar[float] = math.inf

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = self.rows(first, second)
        unit = largest(a)
        norm = torch.linalg.vector_norm(a / unit, dim=1)
        apart = torch.linalg.vector_norm((b - a) / unit, dim=1) / torch.where(norm > 0, norm, math.nan)
        return where_finite(a, b, apart)

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The distance itself."""
        return self(first, second)
