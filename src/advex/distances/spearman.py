"""The rank correlation of two maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex.distances.cosine import one_minus_cosine
from advex.distances.distance import OfMaps, largest, where_finite
from advex.registry import register


@register("distance", "spearman", cites="ghorbani2019")
@dataclass(frozen=True)
class Spearman(OfMaps):
    """1 - Spearman's rank correlation of absolute values: 0 same order, 1 no relation, 2 reversed.

    Equal values share their mean rank. NaN where all values of the first map are equal. channels: see `Channels`.
    """

    highest: ClassVar[float] = 2.0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = self.rows(first, second)
        return where_finite(a, b, one_minus_cosine(_centred(_ranks(a)), _centred(_ranks(b))).to(b))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """1 - the correlation of the second map's absolute values themselves with the first's ranks."""
        a, b = self.rows(first, second)
        return one_minus_cosine(_centred(_ranks(a)), _centred((b / largest(b)).abs().double())).to(b)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=1, keepdim=True)


def _ranks(rows: Tensor) -> Tensor:
    """Mean ranks of absolute values, from 1 to d, float64: equal values share one."""
    size = rows.detach().abs().contiguous()
    ordered = size.sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, size, right=right) for right in (False, True))
    return (below + upto + 1).double() / 2
