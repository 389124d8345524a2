"""Whether the strongest elements of two maps are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex.distances.distance import largest, rows, where_finite
from advex.errors import InputError, SpecError
from advex.registry import register


@register("distance", "top_k", cites="ghorbani2019")
@dataclass(frozen=True)
class TopK:
    """1 - the share of the first map's k largest absolute values that are among the second's.

    k: how many elements a reader looks at. Zeros are never among the largest, even if fewer than k others are left.
    """

    highest: ClassVar[float] = 1.0
    k: int = 100

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SpecError(f"The largest k elements are at least 1, not {self.k}.")

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = rows(first, second)
        top = self._top(a)
        return where_finite(a, b, 1 - (top & self._top(b)).sum(dim=1).to(b) / top.sum(dim=1))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The share of the second map that does not lie on the first's largest k elements."""
        a, b = rows(first, second)
        size = (b / largest(b)).abs()
        top = self._top(a)
        total = size.sum(dim=1)
        outside = 1 - (size * top).sum(dim=1) / torch.where(total > 0, total, 1.0)
        return torch.where(top.any(dim=1), outside, math.nan)

    def _top(self, rows: Tensor) -> Tensor:
        """[n, d] bool."""
        if self.k > rows.shape[1]:
            raise InputError(f"A map of {rows.shape[1]} elements has no {self.k} largest: use a smaller k.")
        values, places = rows.detach().abs().topk(self.k, dim=1)
        return torch.zeros_like(rows, dtype=torch.bool).scatter(1, places, values > 0)
