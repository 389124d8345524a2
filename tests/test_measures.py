"""Areas against a slow integral, their limits, and intervals against scipy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advex.errors import InputError
from advex.measures import (
    accuracy,
    accuracy_curve,
    accuracy_robustness_area,
    bootstrap_mean,
    compare_areas,
    wilson,
)

radii = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.5, width=32)), min_size=1, max_size=40)


def slow_area(values: list[float], chance: float) -> float:
    """Integral of max(0, A(r) - naive), A(r) = share of images with radius > r, piece by piece."""
    edges = sorted({0.0, *values})
    total = 0.0
    for left, right in zip(edges, edges[1:], strict=False):
        middle = (left + right) / 2
        share = sum(value > middle for value in values) / len(values)
        total += max(0.0, share - chance) * (right - left)
    return total


@given(radii, st.floats(0, 1))
def test_area_is_the_integral_of_the_curve(values: list[float], chance: float) -> None:
    score = accuracy_robustness_area(torch.tensor(values, dtype=torch.float64), chance)
    assert score.value == pytest.approx(slow_area(values, chance), abs=1e-12)


@given(radii, st.floats(0, 1))
def test_published_estimator_is_lower_by_at_most_one_bin(values: list[float], chance: float) -> None:
    rmse = torch.tensor(values, dtype=torch.float64)
    exact = accuracy_robustness_area(rmse, chance).value
    score = accuracy_robustness_area(rmse, chance, published=True)
    published = score.value
    assert score.low <= published <= score.high
    bin_width = max(values) / 1000
    assert exact - bin_width - 1e-9 <= published <= exact + 1e-9


def test_published_estimator_equals_a_histogram_replica() -> None:
    # The authors' code, in plain steps: 1,000 bins over [0, max], accuracy after each, right end of each bin.
    generator = torch.Generator().manual_seed(0)
    rmse = torch.rand(300, generator=generator, dtype=torch.float64) * 0.04
    rmse[:60] = 0
    top = rmse.max().item()
    accuracy_left, area = 1.0, 0.0
    for k in range(1000):
        low, high = k * top / 1000, (k + 1) * top / 1000
        inside = ((rmse >= low) & ((rmse < high) if k < 999 else (rmse <= high))).sum().item()
        accuracy_left -= inside / 300
        area += max(0.0, accuracy_left - 0.1) * top / 1000
    assert accuracy_robustness_area(rmse, 0.1, published=True).value == pytest.approx(area, rel=1e-6)


def test_curve_counts_examples_strictly_above() -> None:
    r, a = accuracy_curve(torch.tensor([0.0, 0.2, 0.1, 0.1, math.inf]))
    assert r.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert a.tolist() == pytest.approx([0.8, 0.4, 0.2])


def test_failures_are_counted_and_never_zero() -> None:
    rmse = torch.full((100,), 0.02, dtype=torch.float64)
    without = accuracy_robustness_area(rmse, 0.1)
    few = rmse.clone()
    few[:10] = math.inf  # as many as the chance share: nothing above the baseline beyond 0.02
    assert accuracy_robustness_area(few, 0.1).value == pytest.approx(without.value)
    assert accuracy_robustness_area(few, 0.1).failures == 10
    few[10] = math.inf
    many = accuracy_robustness_area(few, 0.1)
    assert math.isinf(many.value)
    assert many.failures == 11
    assert math.isinf(accuracy_robustness_area(few, 0.1, published=True).value)


def test_area_of_known_cases() -> None:
    assert accuracy_robustness_area(torch.full((8,), 0.25), 0.5).value == pytest.approx(0.125)
    assert accuracy_robustness_area(torch.zeros(8), 0.1).value == 0
    # Uniform radii on [0, 1]: integral of (1 - r - c) over [0, 1 - c] = (1 - c)^2 / 2.
    many = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    assert accuracy_robustness_area(many, 0.1).value == pytest.approx(0.405, abs=1e-4)
    empty = accuracy_robustness_area(torch.empty(0), 0.1)
    assert math.isnan(empty.value)
    assert empty.n == 0


def test_area_interval_covers_the_truth() -> None:
    # Uniform radii have area 0.405 at chance 0.1; a 95 % interval from 100 of them covers it about 95 times in 100.
    generator = torch.Generator().manual_seed(3)
    covered = 0
    for _ in range(200):
        score = accuracy_robustness_area(torch.rand(100, generator=generator, dtype=torch.float64), 0.1)
        covered += score.low <= 0.405 <= score.high
    # Binomial(200, 0.95) lies in [180, 199] with probability 0.998.
    assert 178 <= covered <= 199


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(200, generator=generator, dtype=torch.float64) * 0.02
    second = first * 0.9
    paired = compare_areas(first, second, 0.1)
    alone = accuracy_robustness_area(first, 0.1)
    assert paired.value == pytest.approx(alone.value * 0.1)
    assert 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 5
    same = compare_areas(first, first, 0.1)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_difference_of_two_infinite_areas_widens_the_interval_at_both_ends() -> None:
    # 9 failures of 100 at a chance of 10 %: about 3 of 10 resamples have an infinite area in both models.
    first, second = torch.linspace(0.01, 0.02, 100), torch.linspace(0.03, 0.05, 100)
    first[:9] = second[:9] = math.inf
    for pair in ((first, second), (second, first)):
        score = compare_areas(*pair, 0.1)
        assert math.isfinite(score.value)
        assert (score.low, score.high) == (-math.inf, math.inf)


@pytest.mark.gpu
def test_results_of_a_gpu_are_measured_as_they_come() -> None:
    rmse = torch.rand(50)
    assert str(accuracy_robustness_area(rmse.cuda(), 0.1)) == str(accuracy_robustness_area(rmse, 0.1))
    assert str(compare_areas(rmse.cuda(), rmse.cuda() / 2, 0.1)) == str(compare_areas(rmse, rmse / 2, 0.1))
    assert bootstrap_mean(rmse.cuda()) == bootstrap_mean(rmse)


def test_paired_difference_is_the_difference_of_resampled_areas() -> None:
    # A slow paired bootstrap with the same draws.
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 30, generator=generator, dtype=torch.float64)
    draws = torch.randint(30, (2000, 30), generator=torch.Generator().manual_seed(0))
    differences = sorted(slow_area(first[row].tolist(), 0.1) - slow_area(second[row].tolist(), 0.1) for row in draws)
    score = compare_areas(first, second, 0.1, seed=0)
    assert score.low == pytest.approx(differences[round(0.025 * 1999)], abs=1e-9)
    assert score.high == pytest.approx(differences[round(0.975 * 1999)], abs=1e-9)


@pytest.mark.parametrize("bad", [torch.tensor([math.nan]), torch.tensor([-0.1]), torch.zeros(2, 2)])
def test_impossible_radii_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(InputError, match="Radii"):
        accuracy_robustness_area(bad, 0.1)
    with pytest.raises(InputError, match="same examples"):
        compare_areas(torch.zeros(3), torch.zeros(4), 0.1)
    with pytest.raises(InputError, match="chance"):
        accuracy_robustness_area(torch.zeros(3), 1.1)


@given(st.integers(0, 60), st.integers(0, 60))
def test_wilson_agrees_with_scipy(successes: int, more: int) -> None:
    n = successes + more
    if n == 0:
        assert wilson(0, 0) == (0.0, 1.0)
        return
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_counts_and_bounds() -> None:
    score = accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 3]))
    assert score.value == 0.75
    assert score.values.tolist() == [1, 1, 1, 0]
    assert (score.low, score.high) == wilson(3, 4)


def test_bootstrap_mean_matches_the_normal_interval() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with_gaps = torch.cat([values, torch.full((5,), math.nan, dtype=torch.float64)])
    mean, low, high = bootstrap_mean(with_gaps)
    half = 1.96 * values.std().item() / math.sqrt(1000)
    assert mean == pytest.approx(values.mean().item())
    # 2,000 resamples place a 2.5 % quantile within about 5 % of the half-width.
    assert high - mean == pytest.approx(half, rel=0.1)
    assert mean - low == pytest.approx(half, rel=0.1)
