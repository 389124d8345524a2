"""95 % intervals: how far a figure may move with another sample of examples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advex.types import Better, Score

RESAMPLES = 2000
_BLOCK = 4_000_000  # numbers held at a time: 32 MB
_Z = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927). (0, 1) for n = 0.

    >>> tuple(round(bound, 3) for bound in wilson(9, 10))
    (0.596, 0.982)
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def bootstrap(n: int, estimate: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """The estimate on each of `RESAMPLES` resamples of n examples: [RESAMPLES] or [RESAMPLES, k].

    estimate: maps counts [block, n] float64, how often each example was drawn, to [block] or [block, k].
    """
    rng = torch.Generator().manual_seed(seed)
    block = max(min(_BLOCK // max(n, 1), RESAMPLES), 1)
    estimates = []
    for start in range(0, RESAMPLES, block):
        drawn = torch.randint(n, (min(block, RESAMPLES - start), n), generator=rng)
        counts = torch.zeros(drawn.shape, dtype=torch.float64)
        estimates.append(estimate(counts.scatter_add_(1, drawn, torch.ones_like(counts))))
    return torch.cat(estimates)


def percentiles(estimates: Tensor) -> tuple[float, float]:
    """The middle 95 % of bootstrap estimates [resamples]; infinite estimates are kept in order.

    One that is NaN, the difference of two infinite areas, may be anything: it counts as the lowest for the lower end
    and as the highest for the upper one.
    """
    last = len(estimates) - 1
    lowest, highest = (torch.where(estimates.isnan(), end, estimates).sort().values for end in (-math.inf, math.inf))
    return lowest[round(0.025 * last)].item(), highest[round(0.975 * last)].item()


def simultaneous(estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals of k figures that all hold together with 95 %: lower and upper ends, [k] each.

    estimates: [resamples, k], each row from one resample of the examples. Every figure gets the middle of its own
    estimates, and the same share of them: the smallest such that 95 % of the resamples lie inside in all k at once
    (balanced simultaneous confidence sets, Beran 1988). For k = 1 that is `percentiles`, and NaN is treated as there.

    >>> low, high = simultaneous(torch.arange(2000.0)[:, None].expand(-1, 3))
    >>> low.tolist(), high.tolist()  # figures that move together cost nothing
    ([50.0, 50.0, 50.0], [1949.0, 1949.0, 1949.0])
    """
    last, resamples = len(estimates) - 1, len(estimates)
    lowest, highest = (torch.where(estimates.isnan(), end, estimates) for end in (-math.inf, math.inf))
    # How far from the middle of its figure's estimates each estimate lies, in ranks; the worst figure decides.
    below = (last / 2 - lowest.argsort(dim=0, stable=True).argsort(dim=0)).clamp_min(0)
    above = (highest.argsort(dim=0, stable=True).argsort(dim=0) - last / 2).clamp_min(0)
    worst = torch.maximum(below, above).amax(dim=1).sort().values
    reach = worst[math.ceil(0.95 * resamples) - 1].item()
    low, high = math.floor(last / 2 - reach), math.ceil(last / 2 + reach)
    return lowest.sort(dim=0).values[low], highest.sort(dim=0).values[high]


def bootstrap_mean(values: Tensor, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values [n] and its 95 % bootstrap interval; NaN values are left out. NaNs if none is left."""
    values = values[~torch.isnan(values)].detach().cpu().double()
    if not len(values):
        return math.nan, math.nan, math.nan
    means = bootstrap(len(values), lambda counts: counts @ values / len(values), seed)
    return values.mean().item(), *percentiles(means)


def share_score(name: str, holds: Tensor, *, better: Better = "high") -> Score:
    """The share of examples [n] of which something holds (1, else 0), with its Wilson interval; NaN is left out."""
    values = holds.double()
    hits, n = int((values == 1).sum()), int((~values.isnan()).sum())
    low, high = wilson(hits, n)
    value = hits / n if n else math.nan
    return Score(name=name, values=values, value=value, low=low, high=high, n=n, better=better)


def mean_score(name: str, values: Tensor, *, better: Better, seed: int = 0, failures: int | None = None) -> Score:
    """The mean of values [n] over examples with its bootstrap interval; NaN values are left out.

    failures: None counts the values left out.
    """
    values = values.detach().cpu().double()
    value, low, high = bootstrap_mean(values, seed=seed)
    n = int((~values.isnan()).sum())
    failures = len(values) - n if failures is None else failures
    return Score(name=name, values=values, value=value, low=low, high=high, n=n, better=better, failures=failures)
