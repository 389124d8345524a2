"""How different two explanations of one input look: each distance is 0 for equal maps and sees them as one list.

None depends on the scale of both maps together; all but `RelativeL2` do not depend on the scale of either. A first map
of zeros has nothing to be compared with: NaN. Where only the second is zero, everything is gone: 1. Of a map that is
not finite no order and no largest elements are known: NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from advex.errors import InputError, SpecError


class Distance(Protocol):
    """(first, second) -> [n]: how far the second maps [n, *shape] are from the first."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor: ...

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """What a search may climb in its place, [n]: differentiable in `second`, rising with the distance."""
        ...


@dataclass(frozen=True)
class RelativeL2:
    """|b - a|_2 / |a|_2: what share of the map has changed. At least 0, without an upper end."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = _rows(first, second)
        unit = _largest(a)
        norm = torch.linalg.vector_norm(a / unit, dim=1)
        return torch.linalg.vector_norm((b - a) / unit, dim=1) / torch.where(norm > 0, norm, math.nan)

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The distance itself."""
        return self(first, second)


@dataclass(frozen=True)
class Cosine:
    """1 - cos of the angle between the maps: 0 same direction, 1 nothing in common, 2 opposite."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return _one_minus_cosine(*_rows(first, second))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The distance itself."""
        return self(first, second)


@dataclass(frozen=True)
class Spearman:
    """1 - Spearman's rank correlation of absolute values (Ghorbani et al. 2019): 0 same order, 2 reversed.

    Equal values share their mean rank. NaN where all of the first map's are equal.
    """

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = _rows(first, second)
        return _where_finite(a, b, _one_minus_cosine(_centred(_ranks(a)), _centred(_ranks(b))).to(b))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """1 - correlation of the second's absolute values themselves with the first's ranks."""
        a, b = _rows(first, second)
        return _one_minus_cosine(_centred(_ranks(a)), _centred((b / _largest(b)).abs().double())).to(b)


@dataclass(frozen=True)
class TopK:
    """1 - share of the first map's k largest absolute values that are among the second's (Ghorbani et al. 2019).

    k: how many elements a reader looks at. Zeros are never among the largest, even if fewer than k others are left.
    """

    k: int = 100

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SpecError(f"The largest k elements are at least 1, not {self.k}.")

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = _rows(first, second)
        wanted = self._largest(a)
        return _where_finite(a, b, 1 - (wanted & self._largest(b)).sum(dim=1).to(b) / wanted.sum(dim=1))

    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The share of the second map that does not lie on the first's largest k elements."""
        a, b = _rows(first, second)
        size = (b / _largest(b)).abs()
        wanted = self._largest(a)
        total = size.sum(dim=1)
        outside = 1 - (size * wanted).sum(dim=1) / torch.where(total > 0, total, 1.0)
        return torch.where(wanted.any(dim=1), outside, math.nan)

    def _largest(self, rows: Tensor) -> Tensor:
        """[n, d] bool."""
        if self.k > rows.shape[1]:
            raise InputError(f"A map of {rows.shape[1]} elements has no {self.k} largest: use a smaller k.")
        values, places = rows.detach().abs().topk(self.k, dim=1)
        return torch.zeros_like(rows, dtype=torch.bool).scatter(1, places, values > 0)


def _rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape != second.shape or first.ndim < 2 or not math.prod(first.shape[1:]):
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise InputError(f"Two sets of maps [n, *shape] of the same inputs can be compared, not {shapes}.")
    return first.flatten(1), second.flatten(1)


def _largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each row, a constant: [n, 1]; 1 for rows of zeros."""
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    return torch.where(largest == 0, 1.0, largest)


def _where_finite(a: Tensor, b: Tensor, apart: Tensor) -> Tensor:
    """apart [n], NaN where either row is not finite: comparisons with NaN give an order all the same."""
    return torch.where((torch.isfinite(a) & torch.isfinite(b)).all(dim=1), apart, math.nan)


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    # As half the squared distance of the directions: exact for nearly equal ones, where 1 - cos would be rounding.
    apart = (_direction(a) - _direction(b)).square().sum(dim=1) / 2
    apart = torch.where((b == 0).all(dim=1), 1.0, apart)
    return torch.where((a == 0).all(dim=1), math.nan, apart)


def _direction(rows: Tensor) -> Tensor:
    scaled = rows / _largest(rows)  # no square can overflow or vanish
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(0.5)  # at least 1 unless zero


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=1, keepdim=True)


def _ranks(rows: Tensor) -> Tensor:
    """Mean ranks of absolute values, from 1 to d, float64: equal values share one."""
    size = rows.detach().abs().contiguous()
    ordered = size.sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, size, right=right) for right in (False, True))
    return (below + upto + 1).double() / 2
