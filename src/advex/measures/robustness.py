"""How much change a classifier bears: accuracy against RMSE, and the area under it.

Everything starts from `rmse` [n]: the smallest change (root mean square) that a search found for
each example; 0 where the goal holds without any change, `inf` where the search found none. For the
attack area a misclassified example so counts 0; for the better-than-random (BTR) area it counts by
its confidence, since it is 0 only when the true class is already below chance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advex.errors import InputError
from advex.measures.intervals import RESAMPLES, bootstrap, percentiles, share_score
from advex.types import Score

__all__ = ["accuracy", "accuracy_curve", "accuracy_robustness_area", "compare_areas", "resampled_area"]


def accuracy(predicted: Tensor, y: Tensor) -> Score:
    """Share of right decisions with its Wilson interval. predicted, y: [n] int64."""
    return share_score("accuracy", predicted == y)


def accuracy_curve(rmse: Tensor) -> tuple[Tensor, Tensor]:
    """The step function A(r) = share of examples whose smallest change exceeds r.

    rmse: [n]. Returns (r [k], A [k]): A holds from r[i] up to, not including, r[i + 1]; r[0] = 0.

    >>> accuracy_curve(torch.tensor([0.0, 0.2, 0.1, 0.1]))
    (tensor([0.0000, 0.1000, 0.2000]), tensor([0.7500, 0.2500, 0.0000]))
    """
    _check(rmse, 0.5)
    edges = torch.cat([rmse.new_zeros(1), rmse[torch.isfinite(rmse)]]).unique()
    above = len(rmse) - torch.searchsorted(rmse.sort().values, edges, right=True)
    return edges, above.to(rmse) / max(len(rmse), 1)


def accuracy_robustness_area(rmse: Tensor, chance: float, *, published: bool = False, seed: int = 0) -> Score:
    """ARA (Woods et al. 2019): the area between A(r) and the naive baseline, where A is above it.

    With r_(1) <= ... <= r_(n) and r_(0) = 0,

        ARA = sum_i max(0, (n - i + 1) / n - chance) (r_(i) - r_(i-1)),

    exactly the integral of the step function. Examples whose search failed have no known radius: they
    are kept at infinity and counted in `failures`. As long as their share is at most `chance` they
    do not touch the area; beyond that it is infinite, and said so.

    rmse: [n]. chance: share of the largest class. published: the papers' estimator instead, a
    histogram of 1,000 bins and a right Riemann sum, which is lower by up to one bin. Its interval is the exact area's,
    and holds it.
    Raises InputError for NaN, negative radii and chance outside [0, 1].
    """
    _check(rmse, chance)
    values = rmse.detach().cpu().double()
    failures = int(torch.isinf(values).sum())
    if not len(values):
        nan = math.nan
        return Score(name="ara", values=values, value=nan, low=nan, high=nan, n=0, better="high")
    value, estimates = resampled_area(values, chance, seed=seed)
    low, high = percentiles(estimates)
    if published:
        value = _histogram_area(values, chance)
        low, high = min(low, value), max(high, value)
    return Score(
        name="ara", values=values, value=value, low=low, high=high, n=len(values), better="high", failures=failures
    )


def resampled_area(rmse: Tensor, chance: float, *, seed: int) -> tuple[float, Tensor]:
    """The area and its bootstrap estimates [RESAMPLES]; NaN without examples. rmse: [n].

    Areas of as many examples with the same seed are of the same resamples: paired, where the examples are the same.
    """
    _check(rmse, chance)
    values = rmse.detach().cpu().double()
    if not len(values):
        return math.nan, torch.full((RESAMPLES,), math.nan, dtype=torch.float64)
    once = torch.ones(1, len(values), dtype=torch.float64)
    estimates = bootstrap(len(values), lambda counts: _areas(values, counts, chance), seed)
    return _areas(values, once, chance).item(), estimates


def compare_areas(first: Tensor, second: Tensor, chance: float, *, seed: int = 0) -> Score:
    """ARA of the first model minus that of the second on the same images, with a paired bootstrap interval.

    first, second: rmse [n], row i of both for the same image. Raises InputError unless they match.
    """
    _check(first, chance)
    _check(second, chance)
    if first.shape != second.shape:
        raise InputError(f"A paired comparison needs the same examples: {len(first)} radii against {len(second)}.")
    first, second = (rmse.detach().cpu().double() for rmse in (first, second))
    areas, estimates = zip(*(resampled_area(rmse, chance, seed=seed) for rmse in (first, second)), strict=True)
    low, high = percentiles(estimates[0] - estimates[1]) if len(first) else (math.nan, math.nan)
    failures = int((torch.isinf(first) | torch.isinf(second)).sum())
    return Score(
        name="ara difference",
        values=first - second,
        value=areas[0] - areas[1],
        low=low,
        high=high,
        n=len(first),
        better="high",
        failures=failures,
    )


def _check(rmse: Tensor, chance: float) -> None:
    if rmse.ndim != 1 or torch.isnan(rmse).any() or (rmse < 0).any():
        raise InputError(
            "Radii must be a tensor [n] of numbers of at least 0 (inf where a search failed), without NaN."
        )
    if not 0 <= chance <= 1:
        raise InputError(f"chance must be the share of the most frequent class, in [0, 1], not {chance}.")


def _areas(rmse: Tensor, counts: Tensor, chance: float) -> Tensor:
    """The area of each weighted sample. rmse: [n]; counts: [samples, n], each row summing to n."""
    radius, order = rmse.sort()
    steps = torch.diff(radius, prepend=radius.new_zeros(1))
    steps[torch.isnan(steps)] = 0.0  # from one infinite radius to the next
    # Accuracy just below radius i: the share of examples at i or above.
    below = 1 - (counts[:, order].cumsum(dim=1) - counts[:, order]) / counts.sum(dim=1, keepdim=True)
    height = (below - chance).clamp_min(0)
    height[height < 1e-12] = 0  # so that 0 times an infinite step is no area, not NaN
    return torch.where(height > 0, height * steps, 0.0).sum(dim=1)


def _histogram_area(rmse: Tensor, chance: float, bins: int = 1000) -> float:
    """The authors' estimator: cumulative histogram over [0, largest radius], right end of each bin."""
    finite = rmse[torch.isfinite(rmse)]
    if 1 - len(finite) / len(rmse) > chance + 1e-12:
        return math.inf  # as the exact area: too many examples without a known radius
    top = finite.max().item() if len(finite) else 0.0
    if top == 0:
        return 0.0
    at_most = torch.histc(finite, bins, 0.0, top).cumsum(0)
    return ((1 - at_most / len(rmse) - chance).clamp_min(0) * (top / bins)).sum().item()
