"""95 % intervals: how far a figure may move with another sample of examples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from advex.types import Better, Score

RESAMPLES = 2000
_BLOCK = 4_000_000  # numbers held at a time: 32 MB
_ROUNDING = 1e-9  # what varies by less, relative to its size, does not vary
Z = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927). (0, 1) for n = 0.

    >>> tuple(round(bound, 3) for bound in wilson(9, 10))
    (0.596, 0.982)
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(centre - half, 0.0) if successes else 0.0, min(centre + half, 1.0) if successes < n else 1.0


def paired_shares(gained: int, lost: int, n: int, deviations: float = Z) -> tuple[float, float]:
    """Interval of the difference of two shares of the same n examples: the score interval of Tango (1998).

    gained, lost: examples of which the first alone and the second alone is true. deviations: of the standard normal,
    each way. (-1, 1) for n = 0. Where no example tells the two apart the interval is not empty: others may.

    >>> tuple(round(bound, 3) for bound in paired_shares(0, 0, 24))
    (-0.138, 0.138)
    """
    if n == 0:
        return -1.0, 1.0

    def off(difference: float) -> float:
        """By how many standard deviations the counts are off this difference (Tango 1998, Eq. 3.4)."""
        linear = (2 * n - gained + lost) * difference - gained - lost
        root = max(linear**2 + 8 * n * lost * difference * (1 - difference), 0.0)
        share = (math.sqrt(root) - linear) / (4 * n)
        spread = n * (2 * share + difference * (1 - difference))
        far = gained - lost - n * difference
        return far / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, far) if far else 0.0

    def end(bound: float) -> float:
        """Where `off`, which falls, passes the bound."""
        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if off(middle) > bound else (low, middle)
        return (low + high) / 2

    return end(deviations), end(-deviations)


def bootstrap(n: int, estimate: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """The estimate on each of `RESAMPLES` resamples of n examples: [RESAMPLES] or [RESAMPLES, k].

    estimate: maps counts [block, n] float64, how often each example was drawn, to [block] or [block, k]; it leaves them
    as they are.
    """
    if n * RESAMPLES <= _BLOCK:
        return estimate(_all_counts(n, seed))
    return torch.cat([estimate(counts) for counts in _counts(n, seed)])


@functools.lru_cache(maxsize=2)
def _all_counts(n: int, seed: int) -> Tensor:
    """The counts in one block, kept: thousands of differences are of as many examples, drawn by one seed."""
    return next(_counts(n, seed))


def _counts(n: int, seed: int) -> Iterator[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    block = max(min(_BLOCK // max(n, 1), RESAMPLES), 1)
    for start in range(0, RESAMPLES, block):
        drawn = torch.randint(n, (min(block, RESAMPLES - start), n), generator=rng)
        counts = torch.zeros(drawn.shape, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


def percentiles(estimates: Tensor) -> tuple[float, float]:
    """The middle 95 % of bootstrap estimates [resamples]; infinite estimates are kept in order.

    One that is NaN, the difference of two infinite areas, may be anything: it counts as the lowest for the lower end
    and as the highest for the upper one.
    """
    low, high = _ends(estimates, 0.025)
    return low.item(), high.item()


def _ends(estimates: Tensor, beyond: float) -> tuple[Tensor, Tensor]:
    """The ends of the middle of each column, with the share `beyond` of its estimates beyond each end."""
    estimates, last, ends = estimates.detach().cpu().double(), len(estimates) - 1, []
    for place, unknown in ((round(beyond * last), -math.inf), (round((1 - beyond) * last), math.inf)):
        columns = torch.where(estimates.isnan(), unknown, estimates).movedim(0, -1).contiguous()
        ends.append(torch.from_numpy(np.sort(columns.numpy(), axis=-1)[..., place]))  # torch sorts six times as slowly
    return ends[0], ends[1]


def widening(estimates: Tensor) -> float | None:
    """How many standard deviations k figures' intervals must be wide, each way, for joint 95 % coverage.

    estimates: [resamples, k], each row from one resample of the examples. In 95 % of the resamples no figure is farther
    from its mean than that many of its own standard deviations: the single step of Westfall and Young (1993), with the
    largest of k standardised changes. Percentiles stretched about their medians claim too much: with 30 examples two
    equal models are said to differ in 8 % of tables and four in 10 %, where this says so of 3 to 4 %.
    None where but one figure varies: it keeps its percentiles. Figures that are not all finite are left out.
    """
    finite = estimates[:, estimates.isfinite().all(dim=0)]
    if not finite.shape[1]:
        return None if estimates.shape[1] == 1 else 0.0
    varies = finite.std(dim=0) > _ROUNDING * finite.abs().amax(dim=0)
    if estimates.shape[1] == 1 or (finite.shape[1] == estimates.shape[1] and int(varies.sum()) < 2):
        return None
    if not varies.any():
        return 0.0
    change = ((finite - finite.mean(dim=0)).abs() / finite.std(dim=0))[:, varies]
    farthest = change.amax(dim=1).sort().values
    return farthest[math.ceil(0.95 * len(farthest)) - 1].item()


def widened(estimates: Tensor, deviations: float | None) -> tuple[Tensor, Tensor]:
    """Intervals of k figures [resamples, k], as wide as `widening` says and never within `percentiles`: ends, [k] each.

    Of a column with an estimate that is not finite, all its range, unless it stands alone (None).
    """
    low, high = _ends(estimates, 0.025)
    if deviations is None:
        return low, high
    finite = estimates.isfinite().all(dim=0)
    held = torch.where(finite, estimates, 0.0)
    mean, reach = held.mean(dim=0), deviations * held.std(dim=0)
    lowest, highest = _ends(estimates, 0.0)
    return (
        torch.where(finite, torch.minimum(low, mean - reach), lowest),
        torch.where(finite, torch.maximum(high, mean + reach), highest),
    )


def simultaneous(estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals of k figures with joint 95 % coverage, see `widening`: lower and upper ends, [k] each.

    For k = 1 that is `percentiles`.

    >>> low, high = simultaneous(torch.arange(2000.0)[:, None].expand(-1, 3))
    >>> low.tolist(), high.tolist()  # figures that move together cost nothing
    ([50.0, 50.0, 50.0], [1949.0, 1949.0, 1949.0])
    """
    return widened(estimates, widening(estimates))


def bootstrap_mean(values: Tensor, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values [n] and its 95 % bootstrap interval; NaN values are left out. NaNs if none is left."""
    value, estimates = resampled_mean(values, seed=seed)
    return (math.nan, math.nan, math.nan) if math.isnan(value) else (value, *percentiles(estimates))


def resampled_mean(values: Tensor, *, seed: int) -> tuple[float, Tensor]:
    """The mean of values [n], NaN left out, and its bootstrap estimates [RESAMPLES]; NaN if no value is left."""
    values = values[~torch.isnan(values)].detach().cpu().double()
    if not len(values):
        return math.nan, torch.full((RESAMPLES,), math.nan, dtype=torch.float64)
    return values.mean().item(), bootstrap(len(values), lambda counts: counts @ values / len(values), seed)


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
