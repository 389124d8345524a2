"""From values per example to figures with intervals. Asks no model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advex import measures
from advex.record import Better, Figure
from advex.types import Score


def share(holds: Tensor, better: Better = "high") -> Figure:
    """The share of [n] truths with its Wilson interval."""
    hits, n = int(holds.sum()), len(holds)
    low, high = measures.wilson(hits, n)
    return Figure(value=hits / n if n else math.nan, low=low, high=high, n=n, better=better)


def figure_of(score: Score) -> Figure:
    """A score as the record keeps it."""
    return Figure(
        value=score.value, low=score.low, high=score.high, n=score.n, failures=score.failures, better=score.better
    )


def mean(values: Tensor, better: Better, seed: int) -> Figure:
    """The mean over the examples [n] that have a value, with its bootstrap interval; the others are its failures.

    Of differences of pairs it is a paired bootstrap.
    """
    value, low, high = measures.bootstrap_mean(values, seed=seed)
    failures = int(torch.isnan(values).sum())
    return Figure(value=value, low=low, high=high, n=len(values) - failures, failures=failures, better=better)


def area_between(first: Tensor, second: Tensor, chance: float, seed: int) -> Figure:
    """The area of the first less that of the second, [n] radii each, paired."""
    figure = figure_of(measures.compare_areas(first, second, chance, seed=seed))
    if math.isnan(figure.value):  # two infinite areas: nothing is known about their difference
        return figure.model_copy(update={"low": math.nan, "high": math.nan})
    return figure


def median(rmse: Tensor) -> Figure:
    """The middle radius (of two the smaller) and the order statistics that enclose the true one in 95 % of samples.

    The examples below the median number Binomial(n, 1/2); its 2.5 % point is the rank of the lower bound.
    Failed searches are infinite radii.
    """
    from scipy.stats import binom  # heavy: only here

    n = len(rmse)
    if not n:
        return Figure(value=math.nan, low=math.nan, high=math.nan, n=0)
    ordered = rmse.double().sort().values.tolist()
    rank = int(binom.ppf(0.025, n, 0.5))  # 0 where the sample is too small for a bound
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank else (0.0, math.inf)
    return Figure(value=ordered[(n - 1) // 2], low=low, high=high, n=n, failures=int(torch.isinf(rmse).sum()))
