"""Whether the strongest elements of two maps are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advex.distances.distance import IncomparableError, OfMaps, largest, where_finite
from advex.errors import SpecError
from advex.registry import register


@register("distance", "top_k", cites="ghorbani2019")
@dataclass(frozen=True)
class TopK(OfMaps):
    """1 - the share of the first map's k largest absolute values that are among the second's.

    Which of several equal values is among the largest is left to chance, one random order of the elements for both
    maps, and the overlap is what is expected then: no order of rows or pixels matters, and equal maps are alike.

    k: how many pixels a reader looks at. Zeros are never among the largest, even if fewer than k others are left.
    channels: see `Channels`.
    """

    highest: ClassVar[float] = 1.0
    k: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise SpecError(f"k must be at least 1, not {self.k}.")

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = self.rows(first, second)
        (chosen, tied), (chosen_too, tied_too) = self._top(a), self._top(b)
        together = tied & tied_too  # there the two choices hang together
        overlap = (chosen * chosen_too * ~together).sum(dim=1)
        for row in together.any(dim=1).nonzero()[:, 0].tolist():
            free, free_too = chosen[row][tied[row]], chosen_too[row][tied_too[row]]
            counts = len(free), len(free_too), round(float(free.sum())), round(float(free_too.sum()))
            overlap[row] += _in_both(int(together[row].sum()), *counts)
        return where_finite(a, b, (1 - overlap / (a != 0).sum(dim=1).clamp_max(self.k)).to(b))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The share of the second map that does not lie on the first's largest k elements."""
        a, b = self.rows(first, second)
        size = (b / largest(b)).abs()
        top = self._top(a)[0].to(b)
        total = size.sum(dim=1)
        outside = 1 - (size * top).sum(dim=1) / torch.where(total > 0, total, 1.0)
        return torch.where(top.any(dim=1), outside, math.nan)

    def _top(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """([n, d] float64, how likely each element is among the largest; [n, d] bool, whether chance decides that)."""
        if self.k > rows.shape[1]:
            raise IncomparableError(f"A map of {rows.shape[1]} values has no {self.k} largest values: use a smaller k.")
        size = rows.detach().abs()
        least = size.topk(self.k, dim=1).values[:, -1:]
        sure, last = size > least, (size == least) & (least > 0)
        share = (self.k - sure.sum(dim=1, keepdim=True)).double() / last.sum(dim=1, keepdim=True).clamp_min(1)
        return sure + last * share, last & (share < 1)


def _in_both(m: int, a: int, b: int, first: int, second: int) -> float:
    """How many of m elements are expected among the `first` of a elements and among the `second` of b.

    The m are those that the a and the b have in common; all stand in one random order. For one of the m, the numbers
    before it of the other m - 1 (u), of the a alone (v) and of the b alone (w) are multivariate hypergeometric, given
    its place, and every place is as likely: m / L * sum C(m-1, u) C(a-m, v) C(b-m, w) / C(L-1, u+v+w), for L elements
    in all and over u + v < first and u + w < second.
    """
    if m == a == b:
        return float(min(first, second))
    whole = a + b - m
    factorial = np.concatenate([[0.0], np.log(np.arange(1, whole + 1)).cumsum()])

    def choose(n: int, k: np.ndarray) -> np.ndarray:
        return factorial[n] - factorial[k] - factorial[n - k]

    total = 0.0
    for u in range(min(m, first, second)):
        v = np.arange(min(a - m, first - u - 1) + 1)[:, None]
        w = np.arange(min(b - m, second - u - 1) + 1)
        ways = choose(m - 1, np.array(u)) + choose(a - m, v) + choose(b - m, w) - choose(whole - 1, u + v + w)
        total += float(np.exp(ways).sum())
    return m / whole * total
