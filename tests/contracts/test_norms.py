"""Laws of every norm: what `size`, `project`, `steepest` and `sample` promise one another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from advex import registry
from advex.errors import SpecError
from advex.geometry import L1, L2, LINF, RMSE, Norm, as_norm, as_radius

EVERY = pytest.mark.parametrize("norm", [registry.build("norm", name) for name in registry.entries("norm")], ids=str)
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def changes(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Rows of very different size and sparsity."""
    rng = torch.Generator().manual_seed(seed)
    delta = torch.randn(shape, generator=rng, dtype=torch.float64)
    delta = delta * 10.0 ** torch.randint(-6, 4, (shape[0], *[1] * (len(shape) - 1)), generator=rng)
    delta = delta * (torch.rand(shape, generator=rng) < 0.7)
    return delta.to(dtype)


@EVERY
@PRECISIONS
@given(seed=st.integers(0, 2**31), features=st.sampled_from([1, 2, 7, 64, 3072]), exponent=st.floats(-5, 3))
def test_the_projection_is_inside_and_stays_there(
    norm: Norm, dtype: torch.dtype, seed: int, features: int, exponent: float
) -> None:
    delta, radius = changes((8, features), dtype, seed), 10.0**exponent
    once = norm.project(delta, radius)
    assert (norm.size(once) <= torch.tensor(radius, dtype=dtype)).all()  # exactly, no tolerance
    assert torch.equal(norm.project(once, radius), once)
    inside = norm.size(delta) <= radius
    assert torch.equal(once[inside], delta[inside])


@EVERY
def test_a_large_image_in_single_precision_is_projected_inside(norm: Norm) -> None:
    # Sums over many elements round most: 224 x 224 x 3 of them.
    delta = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for radius in (1e-3, 0.3, 7.0):
        assert (norm.size(norm.project(delta, radius)) <= radius).all()


@EVERY
def test_each_row_has_its_own_radius(norm: Norm) -> None:
    delta = changes((4, 3, 5), torch.float64, 3) + 1
    radius = torch.tensor([0.0, 0.1, 1.0, 100.0], dtype=torch.float64)
    together = norm.project(delta, radius)
    alone = torch.cat([norm.project(delta[i : i + 1], radius[i].item()) for i in range(4)])
    assert torch.equal(together, alone)
    assert not together[0].any()


@EVERY
def test_nothing_inside_the_ball_is_nearer_than_the_projection(norm: Norm) -> None:
    """The projection p of d onto a convex set C is the one point with <d - p, c - p> <= 0 for all c in C."""
    d = changes((6, 10), torch.float64, 5)
    d = d / norm.size(d)[:, None] * 3
    p = norm.project(d, 1.0)
    others = norm.sample(torch.rand(500, 10, dtype=torch.float64), 1.0, 0)
    corners = norm.steepest(torch.randn(500, 10, dtype=torch.float64))
    for c in (others, corners):
        assert (torch.einsum("if,icf->ic", d - p, c[None] - p[:, None]) <= 1e-9).all()


def test_the_l1_projection_is_what_a_root_finder_finds() -> None:
    # Lagrange: every element is pulled towards 0 by one threshold t, at which the size is the radius.
    d = torch.randn(20, 6, dtype=torch.float64) * 2
    for row, ours in zip(d.numpy(), L1.project(d, 1.5).numpy(), strict=True):

        def excess(t: float, row: np.ndarray = row) -> float:
            return np.maximum(np.abs(row) - t, 0).sum() - 1.5

        t = optimize.brentq(excess, 0, np.abs(row).max()) if excess(0) > 0 else 0.0
        assert ours == pytest.approx(np.sign(row) * np.maximum(np.abs(row) - t, 0), abs=1e-11)


@EVERY
@given(seed=st.integers(0, 2**31))
def test_no_unit_step_climbs_faster_than_the_steepest(norm: Norm, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    gradient = torch.randn(3, 9, generator=rng, dtype=torch.float64)
    step = norm.steepest(gradient)
    assert norm.size(step).numpy() == pytest.approx(1.0, rel=1e-12)
    rivals = torch.randn(1000, 9, generator=rng, dtype=torch.float64)
    rivals[::3] = norm.steepest(rivals[::3])  # corners, where the rivals are strongest
    rivals = rivals / norm.size(rivals)[:, None]
    assert ((gradient * step).sum(dim=1)[:, None] >= gradient @ rivals.T - 1e-12).all()


@pytest.mark.parametrize(
    ("norm", "dual"),
    [
        (L1, lambda gradient: gradient.abs().amax(dim=1)),
        (L2, lambda gradient: gradient.norm(dim=1)),
        (LINF, lambda gradient: gradient.abs().sum(dim=1)),
        (RMSE, lambda gradient: gradient.norm(dim=1) * math.sqrt(12)),
    ],
)
def test_the_climb_is_the_dual_norm(norm: Norm, dual: Callable[[Tensor], Tensor]) -> None:
    gradient = torch.randn(5, 12, dtype=torch.float64)
    climb = (gradient * norm.steepest(gradient)).sum(dim=1)
    assert climb.numpy() == pytest.approx(dual(gradient).numpy(), rel=1e-12)


@EVERY
def test_a_norm_is_one(norm: Norm) -> None:
    """Zero for no change alone, twice as large for twice the change, and no detour is shorter."""
    a, b = torch.randn(2, 200, 7, dtype=torch.float64)
    assert norm.size(0 * a).tolist() == [0] * 200
    assert (norm.size(a) > 0).all()
    assert torch.allclose(norm.size(-2 * a), 2 * norm.size(a), rtol=1e-12)
    assert (norm.size(a + b) <= (norm.size(a) + norm.size(b)) * (1 + 1e-12)).all()
    assert as_norm(norm.name) is norm


@EVERY
@PRECISIONS
def test_no_gradient_no_step(norm: Norm, dtype: torch.dtype) -> None:
    gradient = torch.zeros(2, 3, 4, dtype=dtype)
    gradient[1, 0, 0] = -2
    step = norm.steepest(gradient)
    assert not step[0].any()
    assert norm.size(step[1:]).item() == pytest.approx(1.0, rel=1e-6)


@EVERY
@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e30])
def test_the_step_does_not_depend_on_the_scale_of_the_gradient(norm: Norm, scale: float) -> None:
    # 1e-30 squared is 0 in single precision: a saturated softmax has such gradients.
    gradient = torch.randn(4, 20)
    tiny = norm.steepest(gradient * scale)
    assert norm.size(tiny).numpy() == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(tiny, norm.steepest(gradient), rtol=1e-4, atol=1e-6)


@EVERY
@pytest.mark.parametrize("features", [1, 5])
def test_samples_fill_the_ball_uniformly(norm: Norm, features: int) -> None:
    """The size of a uniform point of a d-dimensional ball has the distribution function (s / r)^d."""
    x = torch.rand(2000, features, dtype=torch.float64)
    sizes = norm.size(norm.sample(x, 0.7, 0))
    assert (sizes <= 0.7).all()
    # One fixed seed, so no chance of a false alarm; p below 1e-3 would mean another law.
    assert stats.kstest((sizes / 0.7) ** features, "uniform").pvalue > 1e-3


@EVERY
def test_samples_point_everywhere(norm: Norm) -> None:
    points = norm.sample(torch.rand(4000, 3, dtype=torch.float64), 1.0, 0)
    octants = (points > 0).long() @ torch.tensor([1, 2, 4])
    assert stats.chisquare(torch.bincount(octants, minlength=8)).pvalue > 1e-3
    # By symmetry no coordinate is preferred.
    comparison: Any = stats.ks_2samp(points[:, 0], points[:, 2])
    assert comparison.pvalue > 1e-3


@EVERY
def test_samples_never_leave_the_ball(norm: Norm) -> None:
    # In many dimensions nearly all of a ball is next to its surface, where rounding decides.
    x = torch.rand(40, 100_000)
    assert (norm.size(norm.sample(x, 8 / 255, 0)) <= 8 / 255).all()


@EVERY
def test_a_sample_depends_on_its_own_row_and_the_seed(norm: Norm) -> None:
    x = torch.rand(6, 3, 2)
    before = torch.get_rng_state()
    all_at_once = norm.sample(x, 0.5, 7)
    assert torch.equal(torch.get_rng_state(), before)
    for i in range(6):
        assert torch.equal(norm.sample(x[i : i + 1], 0.5, 7)[0], all_at_once[i])
    assert torch.equal(norm.sample(x.flip(0), 0.5, 7), all_at_once.flip(0))
    assert not torch.equal(norm.sample(x, 0.5, 8), all_at_once)


@EVERY
def test_no_rows_and_scalars_per_row(norm: Norm) -> None:
    nothing = torch.zeros(0, 3, 4)
    assert norm.size(nothing).shape == (0,)
    for result in (norm.project(nothing, 1.0), norm.steepest(nothing), norm.sample(nothing, 1.0, 0)):
        assert result.shape == nothing.shape


def test_rmse_is_the_root_of_the_mean_square() -> None:
    delta = torch.randn(3, 4, 5, dtype=torch.float64)
    assert torch.allclose(RMSE.size(delta), delta.square().mean(dim=(1, 2)).sqrt())


@pytest.mark.parametrize(("text", "name"), [("LINF", "linf"), ("inf", "linf"), (2, "l2"), ("1", "l1"), ("rms", "rmse")])
def test_norms_go_by_several_names(text: str, name: str) -> None:
    assert as_norm(text) is registry.build("norm", name)


def test_an_unknown_norm_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match="no norm 'l3'.*[Kk]nown(?: are|:) l1, l2, linf, rmse"):
        as_norm("l3")


@pytest.mark.parametrize("value", ["8/255", " 8 / 255 ", 8 / 255])
def test_radii_may_be_fractions(value: str | float) -> None:
    assert as_radius(value) == 8 / 255


@pytest.mark.parametrize(
    "value", [-1, "-1/255", math.nan, math.inf, "nan", "1/0", "8/", "1e999999999", 10**400, "wide", None, [1]]
)
def test_impossible_radii_are_refused(value: object) -> None:
    with pytest.raises(SpecError, match="A radius must be a number of at least 0"):
        as_radius(value)  # pyright: ignore[reportArgumentType]
