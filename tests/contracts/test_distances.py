"""Laws of every registered distance: what it is of equal, empty and broken maps, and what a search climbs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from advex import registry
from advex.distances import Distance, as_distance
from advex.errors import InputError

EVERY = pytest.mark.parametrize(
    "distance", [registry.build("distance", name) for name in registry.entries("distance")], ids=registry.describe
)
SHAPE = (3, 24, 24)  # large enough for every default


def maps(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Signed maps, from dense to sparse: the larger the power, the fewer elements carry it."""
    rng = torch.Generator().manual_seed(seed)
    power = torch.linspace(1, 5, n, dtype=torch.float64).reshape(-1, 1, 1, 1)
    values = torch.randn(n, *SHAPE, generator=rng, dtype=torch.float64)
    return (values.sign() * values.abs() ** power).to(dtype)


@EVERY
def test_equal_maps_are_at_no_distance(distance: Distance) -> None:
    assert distance(maps(5), maps(5)).tolist() == [0] * 5


@EVERY
def test_a_distance_is_in_its_range(distance: Distance) -> None:
    first, second = maps(30), maps(30, seed=1)
    for other in (second, -first, 100 * second, first + 1e-3 * second, first.flip(1)):
        values = distance(first, other)
        assert values.shape == (30,)
        assert (values >= 0).all()
        assert (values <= distance.highest * (1 + 1e-12)).all()


@EVERY
def test_rows_do_not_mix(distance: Distance) -> None:
    first, second = maps(6), maps(6, seed=1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for measured in (distance, distance.smooth):
        together = measured(first, second)
        assert torch.allclose(measured(first[order], second[order]), together[order], rtol=1e-12)
        for i in range(6):
            assert torch.allclose(measured(first[i : i + 1], second[i : i + 1]), together[i : i + 1], rtol=1e-12)
        assert measured(first[:0], second[:0]).shape == (0,)


@EVERY
def test_maps_of_zeros(distance: Distance) -> None:
    zeros, some = torch.zeros(1, *SHAPE), maps(1, dtype=torch.float32)
    for measured in (distance, distance.smooth):
        assert measured(zeros, some).isnan().all()
        assert measured(some, zeros).item() == pytest.approx(1)
    assert distance(zeros, zeros).isnan().all()


@EVERY
@pytest.mark.parametrize("element", [math.nan, math.inf])
def test_maps_that_are_not_finite_are_at_no_known_distance(distance: Distance, element: float) -> None:
    whole = maps(3)
    broken = whole.clone()
    broken[1, 0, 0, 0] = element
    for pair in ((whole, broken), (broken, whole)):
        assert distance(*pair).isnan().tolist() == [False, True, False]


@EVERY
@pytest.mark.parametrize("scale", [1e-35, 1e33])
def test_the_scale_of_both_does_not_matter(distance: Distance, scale: float) -> None:
    first, second = maps(4, dtype=torch.float32), maps(4, seed=1, dtype=torch.float32)
    for measured in (distance, distance.smooth):
        assert torch.allclose(measured(first * scale, second * scale), measured(first, second), rtol=1e-4)


@EVERY
def test_the_layout_in_memory_does_not_matter(distance: Distance) -> None:
    first, second = maps(4), maps(4, seed=1)
    turned = [each.transpose(1, 3).contiguous().transpose(1, 3) for each in (first, second)]
    assert not turned[0].is_contiguous()
    assert torch.allclose(distance(*turned), distance(first, second), rtol=1e-12)


@EVERY
def test_what_is_climbed_has_derivatives(distance: Distance) -> None:
    first, second = maps(2), maps(2, seed=1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda changed: distance.smooth(first, changed), second, rtol=1e-2, fast_mode=True)


@EVERY
def test_what_is_climbed_rises_with_the_distance(distance: Distance) -> None:
    """On the way from the first map to another one both grow, and together."""
    first, other = maps(8), maps(8, seed=1)
    way = [torch.lerp(first, other, share) for share in torch.linspace(0, 1, 21).tolist()]
    distances = torch.stack([distance(first, at) for at in way])
    smooth = torch.stack([distance.smooth(first, at) for at in way])
    assert (distances[-1] > distances[0]).all()
    for i in range(8):
        correlation: Any = stats.spearmanr(distances[:, i], smooth[:, i])
        assert correlation.statistic > 0.9


@EVERY
def test_a_climb_leads_away(distance: Distance) -> None:
    first = maps(6)
    changed = first + 0.05 * maps(6, seed=1)
    before = distance(first, changed)
    for _ in range(60):
        changed.requires_grad_(True)
        (gradient,) = torch.autograd.grad(distance.smooth(first, changed).sum(), changed)
        step = 0.05 * first.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
        changed = (changed + step.reshape(-1, 1, 1, 1) * gradient).detach()
    assert (distance(first, changed) > before).all()


@EVERY
def test_what_cannot_be_compared_is_refused(distance: Distance) -> None:
    with pytest.raises(InputError, match=r"\(2, 3, 24, 24\) and \(2, 3, 24, 7\)"):
        distance(maps(2), maps(2)[..., :7])
    for wrong in (torch.ones(4), torch.ones(4, 0)):
        with pytest.raises(InputError, match="of the same inputs"):
            distance(wrong, wrong)


@EVERY
def test_a_distance_is_given_as_itself_or_as_its_spec(distance: Distance) -> None:
    assert as_distance(distance) is distance
    assert as_distance(registry.describe(distance)) == distance


@pytest.mark.parametrize("averaged", ["lens_kendall", "lens_spearman"])
def test_averages_of_equal_values_are_equal(averaged: str) -> None:
    """Of nine values in float32 they are not: the order of a plateau's pixels would be one of rounding."""
    distance, other = as_distance(averaged), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance(torch.full((1, 1, 8, 8), 0.1), other).isnan().all()
    halves = torch.full((1, 1, 8, 8), 0.1)
    halves[..., 4:] = 0.3
    assert distance(halves, 3 * halves).item() == pytest.approx(0.0, abs=1e-6)
    plateaus = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)).repeat_interleave(4, 2)
    plateaus = plateaus.repeat_interleave(4, 3)
    assert distance(plateaus, 0.7 * plateaus).item() == pytest.approx(0.0, abs=1e-6)
