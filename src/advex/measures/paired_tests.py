"""Paired tests: whether the means of two values of the same examples differ, and of many such questions which do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLIPS, _OF_EACH, MOST_FLIPS = 20_000, 400, 50_000  # draws, for each of many questions (few survive Holm), at most
_BLOCK = 250_000  # signs or sums at a time: 2 MB, which a cache holds
_ROUNDING = 1e-9  # sums that differ by less, relative to what they are compared with, are equal


def sign_flips(changes: Tensor, seed: int) -> Tensor:
    """[k] two-sided p of the means of changes [n, k] being 0, where each example's change may have either sign.

    The share of 20,000 draws of all signs (of many questions 400 for each, at most 50,000), and of those observed,
    whose sum is as far from 0 (Fisher 1935): of changes of -1, 0 and 1 that is McNemar's test. One draw serves all k.
    What so few draws cannot tell has Hoeffding's bound (1963) of the share among all signs, 2 exp(-s^2 / 2 sum c^2) for
    the sum s of changes c. NaN are left out; without any change p is 1.

    >>> round(float(sign_flips(torch.ones(5, 1), seed=0)), 2)  # 2 of 32
    0.06
    """
    changes = changes.detach().cpu().double().nan_to_num(0.0, 0.0, 0.0)
    sums = changes.sum(dim=0).abs()
    limit = sums - _ROUNDING * changes.abs().sum(dim=0)
    rng = torch.Generator().manual_seed(seed)
    beyond = torch.ones_like(sums)
    flips = max(FLIPS, min(_OF_EACH * changes.shape[1], MOST_FLIPS))
    block = min(max(_BLOCK // max(*changes.shape, 1), 1), flips)
    for start in range(0, flips, block):
        signs = 2.0 * torch.randint(2, (min(block, flips - start), len(changes)), generator=rng).double() - 1
        beyond += ((signs @ changes).abs() >= limit).sum(dim=0)
    bound = 2 * torch.exp(-sums.square() / (2 * changes.square().sum(dim=0)).clamp_min(torch.finfo(sums.dtype).tiny))
    return torch.minimum(beyond / (flips + 1), bound)


def holm(values: Sequence[float]) -> list[float]:
    """p values so that of all that are below 0.05 none is false with 95 % (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    result, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min((len(values) - rank) * values[place], 1.0))
        result[place] = largest
    return result
