"""JSRT's score: five candidate points per radiograph, and whether one lies near the nodule.

Woods et al. 2019, Sec. II-B: an output "is considered correct if a tumor center is within 2.5 cm, or 143 px,
of any such candidate point"; the score is the "sensitivity given at most 5 false positives per X-ray".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advex.errors import InputError, SpecError
from advex.measures.intervals import mean_score, share_score
from advex.types import Score

WITHIN = 143.0  # pixels of 0.175 mm: 2.5 cm
MOST = 5


def candidates(points: Tensor, scores: Tensor, *, count: int = MOST, apart: float = WITHIN) -> Tensor:
    """The best points of one picture, best first: [count, 2] float64, NaN where there are fewer.

    points: [m, 2] (x, y), such as the centres of a sliding window. scores: [m]; where several are equal the first
    point counts. A point within `apart` pixels of a better one is passed over: it could only find the same
    nodule. (The paper does not say how its candidates were chosen; apart=0 takes the best points as they are.)
    Raises InputError.

    >>> line = torch.tensor([[0, 0], [100, 0], [200, 0], [300, 0]])
    >>> candidates(line, torch.tensor([0.9, 0.8, 0.1, 0.7]), count=3)[:, 0]
    tensor([  0., 300.,  nan], dtype=torch.float64)
    """
    if points.ndim != 2 or points.shape[1] != 2 or scores.shape != points.shape[:1] or torch.isnan(scores).any():
        raise InputError(
            f"Candidates need points [m, 2] and one score for each, none of them NaN; got {tuple(points.shape)} and "
            f"{tuple(scores.shape)}."
        )
    if count < 1 or apart < 0:
        raise SpecError(f"count must be at least 1 and apart at least 0, not count={count}, apart={apart}.")
    points = points.double()
    best = points.new_full((count, 2), math.nan)
    left = scores.argsort(descending=True, stable=True)
    for place in range(count):
        if not len(left):
            break
        best[place] = points[left[0]]
        left = left[1:]
        if apart:
            left = left[(points[left] - best[place]).norm(dim=1) > apart]
    return best


def near(points: Tensor, nodules: Tensor, *, within: float = WITHIN) -> Tensor:
    """[n, k] bool: candidate k of picture i lies at most `within` pixels from the picture's nodule.

    points: [n, k, 2] (x, y), NaN where a picture has fewer candidates. nodules: [n, 2], NaN for a picture without one.
    Raises InputError.
    """
    if points.ndim != 3 or points.shape[2] != 2 or nodules.shape != (len(points), 2):
        raise InputError(
            f"Candidates are [n, k, 2] and nodules [n, 2]; got {tuple(points.shape)} and {tuple(nodules.shape)}."
        )
    return (points.double() - nodules.double()[:, None]).norm(dim=2) <= within  # a NaN is near nothing


def nodule_sensitivity(points: Tensor, nodules: Tensor, *, within: float = WITHIN) -> Score:
    """Share of the nodules that a candidate lies near, with its Wilson interval.

    points, nodules: as for `near`. values: 1 or 0, NaN for a picture without a nodule; n counts those with one.
    Raises InputError, also for more than five candidates per picture: the score allows no more false positives.
    """
    if points.ndim == 3 and points.shape[1] > MOST:
        raise InputError(f"{points.shape[1]} candidates per picture; the score is defined for at most {MOST}.")
    hit = near(points, nodules, within=within).any(dim=1).double()
    return share_score("nodule_sensitivity", torch.where(torch.isnan(nodules).any(dim=1), math.nan, hit))


def false_positives(points: Tensor, nodules: Tensor, *, within: float = WITHIN, seed: int = 0) -> Score:
    """Candidates per picture that lie near no nodule: the mean over all pictures and its bootstrap interval.

    points, nodules: as for `near`. seed: of the resampling. Raises InputError.
    """
    is_point = ~torch.isnan(points).any(dim=2) if points.ndim == 3 else points
    wrong = (is_point & ~near(points, nodules, within=within)).sum(dim=1).double()
    return mean_score("false_positives", wrong, better="low", seed=seed)
