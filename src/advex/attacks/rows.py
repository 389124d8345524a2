"""Changes of a table's rows, made valid rows: whole steps, one category of each column, nothing immutable moved."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advex.features import FeatureSpec
from advex.geometry import per_row

# How far a minimal search goes on along the change it found, until the valid row nearest to there reaches the goal.
_FARTHER = (1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)


def made_valid(
    features: FeatureSpec, x: Tensor, delta: Tensor, judge: Callable[[Tensor], Tensor], believed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(the changes [n, d] that lead from valid rows x to valid ones, [n] bool whether these reach the goal).

    judge: delta -> [n] bool. believed: of a search for the smallest change, [n] bool, the rows in which it succeeded:
    these may go farther until a valid row reaches the goal. None: of a search within a given distance; no element
    of the change grows.
    """
    if believed is None:
        delta = features.inward(x + delta, x) - x
        return delta, judge(delta)
    valid, reached = torch.zeros_like(delta), torch.zeros_like(believed)
    for factor in _FARTHER:
        valid = torch.where(per_row(reached, x), valid, features.nearest(x + factor * delta, x) - x)
        reached = judge(valid)
        if not (believed & ~reached).any():
            break
    return valid, reached
