"""Searches on classifiers whose nearest boundary is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from advex import attacks, registry
from advex.classifier import Classifier
from advex.geometry import L0, RMSE, as_norm
from advex.goals import Misclassify

Search = Callable[..., Any]
DUAL = {
    "l1": lambda w: w.abs().amax(dim=-1),
    "l2": lambda w: w.norm(dim=-1),
    "linf": lambda w: w.abs().sum(dim=-1),
    "rmse": lambda w: w.norm(dim=-1) * math.sqrt(w.shape[-1]),
}


def affine_problem(toys: SimpleNamespace, classes: int) -> tuple[Classifier, Tensor, Tensor]:
    """(classifier, x, y) on twelve features; x near the middle of the box, so that no wall is in the way."""
    rng = torch.Generator().manual_seed(5)
    weight = torch.randn(classes, 12, generator=rng, dtype=torch.float64)
    x = 0.35 + 0.3 * torch.rand(32, 3, 2, 2, generator=rng, dtype=torch.float64)
    bias = -(weight @ x.mean(dim=0).flatten())
    classifier = toys.affine(weight, bias)
    with torch.no_grad():
        return classifier, x, classifier(x).argmax(dim=1)


@pytest.fixture
def linear(toys: SimpleNamespace) -> tuple[Classifier, Tensor, Tensor]:
    """Four classes: (classifier, x, y)."""
    return affine_problem(toys, 4)


def nearest(classifier: Classifier, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """|y_t - y_j| / ||w_t - w_j||_dual, the least over j: the exact distance to the decision boundary.

    In l0 as few elements, those first that help most when they are moved to the walls of the unit box, as cross it.
    """
    layer: Any = classifier.network[1]  # pyright: ignore
    logits = classifier(x).detach()
    margins = logits.gather(1, y[:, None]) - logits
    normals = layer.weight[y][:, None] - layer.weight[None]
    if norm == "l0":
        helps = torch.where(normals > 0, normals * x.flatten(1)[:, None], -normals * (1 - x.flatten(1)[:, None]))
        crossed = helps.sort(dim=-1, descending=True).values.cumsum(dim=-1) > margins[..., None]
        distance = 1.0 + (~crossed).sum(dim=-1)
    else:
        distance = margins / DUAL[norm](normals)
    return distance.detach().to(margins).scatter(1, y[:, None], math.inf).amin(dim=1)


def strides(search: Search) -> float:
    """Up to where a search may end that crosses the boundary in steps and does not draw in: 0 for one that does."""
    return 1.5 * getattr(search, "stride", 0.0)


def test_nothing_is_nearer_than_the_boundary(linear: tuple[Classifier, Tensor, Tensor], search: Search) -> None:
    classifier, x, y = linear
    result = search(classifier, x, Misclassify(y))
    for norm in (*map(as_norm, registry.entries("norm")), L0):
        least = nearest(classifier, x, y, norm.name)
        # 1e-9 for rounding: the boundary itself is not yet a success.
        assert (norm.size(result.delta)[result.reached] >= least[result.reached] * (1 - 1e-9)).all(), norm


@pytest.mark.parametrize("classes", [2, 4])
def test_the_smallest_change_of_a_linear_classifier(
    toys: SimpleNamespace, classes: int, smallest_search: Search
) -> None:
    classifier, x, y = affine_problem(toys, classes)
    result = smallest_search(classifier, x, Misclassify(y))
    exact = nearest(classifier, x, y, as_norm(getattr(smallest_search, "norm", RMSE)).name)
    assert result.reached.all()
    if coarse := strides(smallest_search):
        # With more classes, the direction of cross-entropy mixes them and is not the shortest way.
        assert classes > 2 or (result.size - exact).max() <= coarse
        return
    ratio = result.size / exact
    # Of several classes it may choose one that is not the nearest.
    assert ratio.mean() <= (1.003 if classes == 2 else 1.01)
    assert ratio.max() <= (1.003 if classes == 2 else 1.05)


def nearest_in_the_box(w: Tensor, margin: Tensor, x: Tensor) -> Tensor:
    """RMSE of the smallest delta with <w, delta> = -margin and x + delta in [0, 1], by bisection.

    Lagrange: delta_i = cut(-lambda w_i) to the box, with the one lambda that meets the constraint.
    """
    low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e6, dtype=x.dtype)
    for _ in range(200):
        middle = (low + high) / 2
        delta = (-middle * w).clamp(-x, 1 - x)
        short = (delta @ w + margin)[:, None] > 0
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (-high * w).clamp(-x, 1 - x).square().mean(dim=1).sqrt()


def test_the_smallest_change_where_the_box_is_in_the_way(toys: SimpleNamespace, smallest_search: Search) -> None:
    if not getattr(smallest_search, "clip", True) or as_norm(getattr(smallest_search, "norm", RMSE)).name not in (
        "rmse",
        "l2",
    ):
        return  # does not know the box, or is of another norm than the exact answer
    rng = torch.Generator().manual_seed(2)
    w = torch.randn(20, generator=rng, dtype=torch.float64)
    x = torch.rand(32, 20, generator=rng, dtype=torch.float64)
    x = torch.where(x < 0.3, 0.0, torch.where(x > 0.7, 1.0, x))  # most elements at a wall
    bias = -0.5 * w.clamp_max(0).sum() - 0.5 * w.clamp_min(0).sum()
    classifier = toys.affine(torch.stack([w, -w]) / 2, torch.tensor([bias / 2, -bias / 2]))
    margin = x @ w + bias
    side = (margin < 0).long()
    sign = 1 - 2 * side.double()
    exact = nearest_in_the_box(w, margin, x)
    exact = torch.where(side == 0, exact, nearest_in_the_box(-w, -margin, x))
    assert (sign * margin > 0).all()
    result = smallest_search(classifier, x, Misclassify(side))
    ratio = result.rmse / exact
    assert result.reached.all()
    assert (ratio >= 1 - 1e-9).all()
    coarse = strides(smallest_search)
    assert ratio.mean() <= (1.05 if coarse else 1.003)
    assert (result.rmse - exact).max() <= (coarse or 1e-3)


@pytest.mark.parametrize("outside", [False, True], ids=["outwards", "inwards"])
def test_the_smallest_change_between_two_spheres(toys: SimpleNamespace, smallest_search: Search, outside: bool) -> None:
    x = torch.randn(24, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    length = torch.linspace(1.1, 1.9, 24, dtype=torch.float64) if outside else torch.linspace(0.2, 0.9, 24).double()
    x = x / x.norm(dim=1, keepdim=True) * length[:, None]
    if as_norm(getattr(smallest_search, "norm", RMSE)).name not in ("rmse", "l2"):
        return
    result = smallest_search(toys.spheres(1.0), x, Misclassify(torch.full((24,), int(outside))))
    exact = (length - 1).abs() / math.sqrt(10) / 6  # the box's width
    assert result.reached.all()
    assert (result.rmse >= exact * (1 - 1e-9)).all()
    # The gradient points straight at the sphere.
    assert (result.rmse - exact).max() <= (strides(smallest_search) or 3e-4)


@pytest.mark.parametrize("norm", list(registry.entries("norm")))
@pytest.mark.parametrize("random_start", [False, True], ids=["from x", "random start"])
def test_pgd_succeeds_exactly_beyond_the_boundary(toys: SimpleNamespace, norm: str, random_start: bool) -> None:
    """All rows stand at the same known distance: a radius 2 % beyond it suffices, 2 % short of it does not."""
    rng = torch.Generator().manual_seed(7)
    w = torch.randn(12, generator=rng, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(16, 12, generator=rng, dtype=torch.float64)
    bias = -(x.mean(dim=0) @ w)
    margin = 0.3
    x = x - ((x @ w + bias - margin) / w.square().sum())[:, None] * w
    classifier = toys.affine(torch.stack([w, -w]) / 2, torch.stack([bias, -bias]) / 2)
    distance = margin / DUAL[norm](w).item()
    goal = Misclassify(torch.zeros(16, dtype=torch.int64))
    for radius, expected in ((1.02 * distance, True), (0.98 * distance, False)):
        # The steps add up to twelve radii: long enough to forget where it started.
        search = attacks.PGD(norm=norm, radius=radius, random_start=random_start, steps=60, step=0.2 * radius)
        result = search(classifier, x, goal)
        assert (result.reached == expected).all(), radius
        assert (as_norm(norm).size(result.delta) <= radius).all()
