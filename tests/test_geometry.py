"""The box: cutting a change to it, following its walls, and walking to an exact distance inside it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advex.geometry import RMSE, Box

UNIT = Box(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))


def pictures(seed: int, shape: tuple[int, ...] = (6, 2, 5), dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs in the unit box of which a third of the elements are saturated."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    saturated = torch.rand(shape, generator=rng)
    return torch.where(saturated < 0.17, 0.0, torch.where(saturated > 0.83, 1.0, x)).to(dtype)


def directions(seed: int, shape: tuple[int, ...] = (6, 2, 5), dtype: torch.dtype = torch.float64) -> Tensor:
    """Changes of very different size, with zeros."""
    rng = torch.Generator().manual_seed(seed)
    delta = torch.randn(shape, generator=rng, dtype=torch.float64)
    delta = delta * 10.0 ** torch.randint(-4, 4, (shape[0], *[1] * (len(shape) - 1)), generator=rng)
    return (delta * (torch.rand(shape, generator=rng) < 0.8)).to(dtype)


@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_confine_cuts_only_what_leaves_the_box(seed: int, dtype: torch.dtype) -> None:
    x, delta = pictures(seed, dtype=dtype), directions(seed + 1, dtype=dtype)
    box = Box(torch.tensor(0.0, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    cut = box.confine(x, delta)
    assert ((x + cut >= 0) & (x + cut <= 1)).all()
    assert (cut.abs() <= delta.abs()).all()
    stays = (x + delta > 0) & (x + delta < 1)
    assert torch.equal(cut[stays], delta[stays])
    assert torch.equal(box.confine(x, cut), cut)


def test_the_box_may_differ_by_element() -> None:
    box = Box(torch.tensor([[0.0], [-2.0]]), torch.tensor([[1.0], [5.0]]))  # one range per channel
    x = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    cut = box.confine(x, torch.tensor([[[9.0, -9.0], [9.0, -9.0]]]))
    assert (x + cut).tolist() == [[[1.0, 0.0], [5.0, -2.0]]]


@given(seed=st.integers(0, 2**31))
def test_free_drops_exactly_the_blocked_elements(seed: int) -> None:
    x, direction = pictures(seed), directions(seed + 1)
    delta = UNIT.confine(x, directions(seed + 2))
    free = UNIT.free(x, delta, direction)
    for at, wanted, got in zip((x + delta).flatten(), direction.flatten(), free.flatten(), strict=True):
        blocked = (at <= 0 and wanted < 0) or (at >= 1 and wanted > 0)
        assert got == (0 if blocked else wanted)


def farthest(x: Tensor, mask: Tensor | float = 1.0) -> Tensor:
    """The change to the corner of the unit box that is farthest from x."""
    return torch.where(x > 0.5, -x, 1 - x) * mask


@given(seed=st.integers(0, 2**31), rho=st.floats(1e-3, 0.9), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_to_distance_is_exact_and_inside(seed: int, rho: float, dtype: torch.dtype) -> None:
    x, delta = pictures(seed, dtype=dtype), directions(seed + 1, dtype=dtype)
    box = Box(torch.tensor(0.0, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    result = box.to_distance(x, delta, rho)
    assert ((x + result >= 0) & (x + result <= 1)).all()
    limit = RMSE.size(farthest(x))
    # 1e-6 is the relative error of the square at which `to_distance` is content; float32 rounds by 1e-7 per step.
    tolerance = 1e-6 if dtype == torch.float64 else 5e-6
    assert RMSE.size(result).numpy() == pytest.approx(limit.clamp_max(rho).numpy(), rel=tolerance)


@given(seed=st.integers(0, 2**31), rho=st.floats(1e-3, 0.9))
def test_to_distance_keeps_the_direction_wherever_the_box_allows(seed: int, rho: float) -> None:
    x, delta = pictures(seed), directions(seed + 1)
    result = UNIT.to_distance(x, delta, rho)
    corner = UNIT.confine(x, delta.sign() * 1e9)
    reachable = RMSE.size(corner) > rho * (1 + 1e-6)
    for row in reachable.nonzero()[:, 0]:
        r, d = result[row], delta[row]
        inside = (r != corner[row]) & (d != 0)
        scale = (r[inside] / d[inside]).unique()
        assert (r[d == 0] == 0).all()
        assert ((scale - scale.mean()).abs() <= 1e-9 * scale.mean().abs()).all()  # one factor for all of them
        if len(scale):  # and those that are cut would have gone further
            assert (scale.mean() * d.abs() >= r.abs() - 1e-9).all()


def test_to_distance_leaves_the_corner_only_when_the_corner_is_too_near() -> None:
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    x[0, 0] = 0.9
    up = torch.ones_like(x)
    # The corner that `up` points at is sqrt((0.1^2 + 3 * 0.5^2) / 4) = 0.436 away, the farthest 0.625.
    assert UNIT.to_distance(x, up, 0.43)[0].tolist() == pytest.approx([0.1, *[math.sqrt((4 * 0.43**2 - 0.01) / 3)] * 3])
    beyond = UNIT.to_distance(x, up, 0.5)
    assert RMSE.size(beyond).item() == pytest.approx(0.5, rel=1e-9)
    assert beyond[0, 0] < 0 < beyond[0, 1]
    too_far = UNIT.to_distance(x, up, 0.8)
    assert too_far[0].tolist() == pytest.approx([-0.9, 0.5, 0.5, 0.5], abs=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-3, 1.0, 100.0, 1e30])
def test_to_distance_does_not_depend_on_the_length_of_the_change(scale: float) -> None:
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    delta = torch.tensor([[1.0, 2.0, -4.0, 0.0]], dtype=torch.float64)
    assert RMSE.size(UNIT.to_distance(x, delta * scale, 0.2)).item() == pytest.approx(0.2, rel=1e-6)
    if scale:
        expected = UNIT.to_distance(x, delta, 0.2)
        assert torch.allclose(UNIT.to_distance(x, delta * scale, 0.2), expected, rtol=1e-6)


def test_to_distance_with_all_pixels_saturated_against_the_wall() -> None:
    white = torch.ones(2, 8, dtype=torch.float64)
    result = UNIT.to_distance(white, torch.rand(2, 8, dtype=torch.float64), 0.3)  # points out of the box
    assert RMSE.size(result).tolist() == pytest.approx([0.3, 0.3], rel=1e-6)
    assert (result <= 0).all()


@given(seed=st.integers(0, 2**31), rho=st.floats(1e-3, 0.9))
def test_to_distance_changes_only_the_mask(seed: int, rho: float) -> None:
    x, delta = pictures(seed), directions(seed + 1)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    result = UNIT.to_distance(x, delta * mask, rho, mask)
    assert not result[~mask].any()
    limit = RMSE.size(farthest(x, mask))
    assert RMSE.size(result).numpy() == pytest.approx(limit.clamp_max(rho).numpy(), rel=1e-6)


def test_to_distance_treats_rows_alike_alone_and_together() -> None:
    x, delta = pictures(1), directions(2)
    together = UNIT.to_distance(x, delta, 0.3)
    for row in range(len(x)):
        alone = UNIT.to_distance(x[row : row + 1], delta[row : row + 1], 0.3)
        assert torch.allclose(alone[0], together[row], rtol=1e-9, atol=1e-12)
    assert UNIT.to_distance(x[:0], delta[:0], 0.3).shape == (0, 2, 5)
