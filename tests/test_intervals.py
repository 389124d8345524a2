"""Intervals of several figures at once: no more is claimed of k figures than k intervals may claim together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from advex.measures import intervals
from advex.measures.intervals import RESAMPLES, bootstrap, percentiles, simultaneous


def test_one_figure_has_the_interval_that_it_has_alone() -> None:
    estimates = torch.randn(RESAMPLES, 1, dtype=torch.float64)
    low, high = simultaneous(estimates)
    assert (low.item(), high.item()) == percentiles(estimates[:, 0])


@pytest.mark.slow
def test_independent_figures_have_the_intervals_of_sidak() -> None:
    """Of k independent normal figures each needs 0.95 ** (1 / k); an order statistic of 200,000 is good to 0.02."""
    k = 20
    low, high = simultaneous(torch.randn(200_000, k, dtype=torch.float64))
    share = torch.tensor((1 + 0.95 ** (1 / k)) / 2, dtype=torch.float64)
    quantile = math.sqrt(2) * torch.erfinv(2 * share - 1).item()
    assert torch.allclose(high, torch.full((k,), quantile, dtype=torch.float64), atol=0.09)
    assert torch.allclose(low, -high, atol=0.09)


def test_it_holds_for_all_at_once() -> None:
    """By its definition: 95 % of the resamples lie within all k intervals, hardly more, whatever the dependence."""
    common = torch.randn(RESAMPLES, 1, dtype=torch.float64)
    estimates = common * torch.rand(12, dtype=torch.float64) + torch.randn(RESAMPLES, 12, dtype=torch.float64) ** 3
    low, high = simultaneous(estimates)
    inside = ((estimates >= low) & (estimates <= high)).all(dim=1).double().mean().item()
    assert 0.95 <= inside < 0.953


def test_what_is_not_known_widens_both_ends() -> None:
    estimates = torch.randn(RESAMPLES, 2, dtype=torch.float64)
    estimates[:200, 1] = math.nan
    low, high = simultaneous(estimates)
    assert low[1] == -math.inf
    assert high[1] == math.inf
    assert torch.isfinite(low[0])


def test_what_does_not_vary_keeps_its_value_and_widens_nothing() -> None:
    """Differences that are the same of every example vary by rounding alone."""
    estimates = torch.randn(RESAMPLES, 4, dtype=torch.float64)
    alone = simultaneous(estimates[:, :3])
    estimates[:, 3] = 0.17 + 1e-17 * torch.randn(RESAMPLES, dtype=torch.float64)
    estimates[0, 3] = 0.17 + 2**-54
    low, high = simultaneous(estimates)
    assert torch.allclose(torch.stack([low[:3], high[:3]]), torch.stack(alone))
    assert torch.allclose(torch.stack([low[3], high[3]]), torch.tensor(0.17, dtype=torch.float64))


@pytest.mark.slow
def test_equal_models_are_rarely_said_to_differ() -> None:
    """Eight equal models, 28 pairs, means of 100 examples: uncorrected, about half of such tables claim something."""
    n, pairs = 100, list(itertools.combinations(range(8), 2))
    first, second = torch.tensor(pairs).T

    def claims(values: Tensor) -> tuple[bool, bool]:
        means = bootstrap(n, lambda counts: counts @ values.T / n, seed=0)
        differences = means[:, first] - means[:, second]
        low, high = simultaneous(differences)
        alone = [percentiles(column) for column in differences.T]
        return bool(((low > 0) | (high < 0)).any()), any(low > 0 or high < 0 for low, high in alone)

    together, alone = (
        torch.tensor([claims(torch.randn(8, n, dtype=torch.float64)) for _ in range(100)]).double().mean(0)
    )
    assert together <= 0.12  # 0.05 and three standard errors of 100 tables
    assert alone > 0.3


def test_figures_of_equally_many_examples_share_their_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in one block and kept, or in blocks too large to keep: the same estimates."""
    values = [torch.rand(30, dtype=torch.float64) for _ in range(50)]
    drawn: list[int] = []
    draw = intervals._counts

    def counts(n: int, seed: int) -> Iterator[Tensor]:
        drawn.append(n)
        return draw(n, seed)

    monkeypatch.setattr(intervals, "_counts", counts)
    intervals._all_counts.cache_clear()
    kept = [intervals.resampled_mean(each, seed=3)[1] for each in values]
    assert drawn == [30]
    monkeypatch.setattr(intervals, "_BLOCK", 30 * 7)
    again = [intervals.resampled_mean(each, seed=3)[1] for each in values[:2]]
    assert drawn == [30, 30, 30]
    assert all(len(each) == intervals.RESAMPLES for each in again)
    spread, other = (torch.stack(each).std(dim=1) for each in (kept[:2], again))
    torch.testing.assert_close(spread, other, rtol=0.1, atol=0)
