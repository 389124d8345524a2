"""The default search against exact optima: of linear networks, spheres, spirals, and ReLU networks by enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from advex.attacks import Minimal
from advex.attacks.minimal import _detours  # pyright: ignore[reportPrivateUsage]
from advex.attacks.rays import crossing
from advex.attacks.search import SearchResult
from advex.classifier import Classifier
from advex.geometry import as_norm
from advex.goals import Aim, Become, BelowChance, Misclassify

BUDGETS = (40, 100, 300, 1000)


def margins(classifier: Classifier, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a linear network: the decisions [n], the rises w [n, K, d] towards each class, and what they lack [n, K]."""
    layer: Any = classifier.network[1]  # pyright: ignore
    logits = classifier(x).detach()
    y = logits.argmax(dim=1)
    return y, (layer.weight[None] - layer.weight[y][:, None]).detach(), logits.gather(1, y[:, None]) - logits


def cheapest(norm: str, w: Tensor, lack: Tensor, x: Tensor) -> Tensor:
    """[n]: the size of the smallest delta with <w, delta> = lack and x + delta in [0, 1].

    L1: the elements of the largest slopes first, each up to its wall. Otherwise each element goes as far as the
    Lagrange multiplier, or the bound itself, says (bisection finds either), or to its wall.
    """
    room = torch.where(w > 0, 1 - x, x)
    if norm == "l1":
        slope, order = w.abs().sort(dim=1, descending=True)
        room = room.gather(1, order)
        before = (slope * room).cumsum(dim=1) - slope * room
        return torch.minimum(((lack[:, None] - before) / slope).clamp_min(0), room).sum(dim=1)
    low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e4, dtype=x.dtype)
    for _ in range(100):
        middle = (low + high) / 2
        moved = torch.minimum(middle.expand_as(w) if norm == "linf" else middle * w.abs(), room)
        short = ((moved * w.abs()).sum(dim=1) < lack)[:, None]
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    moved = torch.minimum(high.expand_as(w) if norm == "linf" else high * w.abs(), room)
    return as_norm(norm).size(moved)


def linear(toys: SimpleNamespace, walls: bool, norm: str = "rmse", d: int = 300) -> tuple[Classifier, Tensor, Tensor]:
    """Ten classes; walls: a third of the elements stand at 0 or 1."""
    rng = torch.Generator().manual_seed(5)
    weight = torch.randn(10, d, generator=rng, dtype=torch.float64)
    x = 0.35 + 0.3 * torch.rand(12, d, generator=rng, dtype=torch.float64)
    if walls:
        place = torch.rand(12, d, generator=rng, dtype=torch.float64)
        x = torch.where(place < 1 / 6, 0.0, torch.where(place < 1 / 3, 1.0, x))
    classifier = toys.affine(weight, -weight @ x.mean(dim=0))
    y, w, lack = margins(classifier, x)
    sizes = torch.stack([cheapest(norm, w[:, c], lack[:, c], x) for c in range(10)], dim=1)
    return classifier, x, sizes.scatter(1, y[:, None], math.inf).amin(dim=1)


def spheres(toys: SimpleNamespace) -> tuple[Classifier, Tensor, Tensor]:
    """500 dimensions, from within and from without."""
    x = torch.randn(12, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    length = torch.cat([torch.linspace(0.2, 0.9, 6), torch.linspace(1.1, 1.9, 6)]).double()
    return toys.spheres(1.0), x / x.norm(dim=1, keepdim=True) * length[:, None], (length - 1).abs() / math.sqrt(500) / 6


class Spiral(nn.Module):
    """Two classes, wound around (0.5, 0.5): the sign of sin(16 r - angle)."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = nn.Parameter(torch.tensor(16.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x, y = (x - 0.5).unbind(dim=1)
        side = torch.sin(self.turns * (x.square() + y.square()).sqrt() - torch.atan2(y, x))
        return torch.stack([side, -side], dim=1)


def spirals(toys: SimpleNamespace) -> tuple[Classifier, Tensor, Tensor]:
    """The boundary is r = (angle + m pi) / 16: the nearest point of lines between 200,001 of its points."""
    x = torch.rand(16, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    nearest = torch.full((16,), math.inf, dtype=torch.float64)
    for m in (0, 1):
        angle = torch.linspace(-m * math.pi, 8 * math.pi, 200_001, dtype=torch.float64)
        points = 0.5 + (angle + m * math.pi)[:, None] / 16 * torch.stack([angle.cos(), angle.sin()], dim=1)
        begin, along = points[:-1], points.diff(dim=0)
        for i, row in enumerate(x):
            share = (((row - begin) * along).sum(dim=1) / along.square().sum(dim=1)).clamp(0, 1)
            gap = (begin + share[:, None] * along - row).norm(dim=1).amin()
            nearest[i] = torch.minimum(nearest[i], gap)
    return Classifier(Spiral(), box=(-1.0, 2.0)).eval(), x, nearest / math.sqrt(2) / 3


def least(rows: np.ndarray, at_least: np.ndarray) -> float:
    """The length of the shortest z with rows @ z >= at_least, inf if there is none: Lawson and Hanson 1974, Ch. 23."""
    lhs, rhs = np.vstack([rows.T, at_least]), np.zeros(rows.shape[1] + 1)
    rhs[-1] = 1
    weights, residual = nnls(lhs, rhs)
    gap = lhs @ weights - rhs
    return math.inf if residual < 1e-9 else float(np.linalg.norm(gap[:-1] / gap[-1]))


def relu(seed: int) -> Callable[[SimpleNamespace], tuple[Classifier, Tensor, Tensor]]:
    """One hidden layer of nine, six inputs, three classes; within each of the 2^9 patterns the network is linear."""

    def make(toys: SimpleNamespace) -> tuple[Classifier, Tensor, Tensor]:
        d, hidden = 6, 9
        rng = torch.Generator().manual_seed(seed)
        first = torch.randn(hidden, d, generator=rng, dtype=torch.float64) * 1.5
        shift = torch.randn(hidden, generator=rng, dtype=torch.float64) - first.sum(dim=1) / 2
        second = torch.randn(3, hidden, generator=rng, dtype=torch.float64)
        x = torch.rand(500, d, generator=rng, dtype=torch.float64)
        bias = -((x @ first.T + shift).relu() @ second.T).mean(dim=0)
        network = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, 3)).double()
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), (first, shift, second, bias), strict=True):
                parameter.copy_(value)
        classifier, x = Classifier(network).eval(), x[:12]
        y = classifier(x).argmax(dim=1).numpy()
        a, b, c, e = (value.numpy() for value in (first, shift, second, bias))
        patterns = (np.arange(2**hidden)[:, None] >> np.arange(hidden)) & 1
        sizes = []
        for row, own in zip(x.numpy(), y, strict=True):
            box, walls, parts = np.vstack([np.eye(d), -np.eye(d)]), np.concatenate([-row, row - 1]), []
            for pattern in patterns:
                sign, slopes = 2 * pattern - 1, (c * pattern) @ a
                level = (c * pattern) @ b + e + slopes @ row
                before = -sign * (a @ row + b)
                for other in range(3):
                    rise, lack = slopes[other] - slopes[own], level[own] - level[other]
                    bound = max(0, lack / max(np.linalg.norm(rise), 1e-12), (before / np.linalg.norm(a, axis=1)).max())
                    parts.append((bound, np.vstack([sign[:, None] * a, rise, box]), np.r_[before, lack, walls], other))
            shortest = math.inf
            for bound, rows, at_least, _ in sorted((part for part in parts if part[3] != own), key=lambda p: p[0]):
                if bound >= shortest:
                    break  # no part that is farther away can hold a shorter change
                shortest = min(shortest, least(rows, at_least))
            sizes.append(shortest / math.sqrt(d))
        return classifier, x, torch.tensor(sizes)

    return make


TOYS = {
    "linear": lambda toys: linear(toys, walls=False),
    "linear, walls": lambda toys: linear(toys, walls=True),
    "spheres": spheres,
    "spirals": spirals,
    "relu, 0": relu(0),
    "relu, 1": relu(1),
}


@pytest.mark.parametrize("toy", TOYS)
def test_more_gradients_never_do_worse_and_many_reach_the_optimum(toy: str, toys: SimpleNamespace) -> None:
    classifier, x, exact = TOYS[toy](toys)
    goal = Misclassify(classifier(x).argmax(dim=1))
    before = math.inf
    for budget in BUDGETS:
        result = Minimal(gradients=budget)(classifier, x, goal)
        assert (result.gradients <= budget).all()
        assert (result.size >= exact * (1 - 1e-6)).all()
        assert result.size.mean() <= before * (1 + 1e-6), budget
        before = result.size.mean()
    assert result.reached.all()
    ratio = result.size / exact
    assert result.size.mean() <= 1.001 * exact.mean()
    assert ratio.max() <= 1.01


@pytest.mark.parametrize("norm", ["l1", "l2", "linf", "rmse"])
@pytest.mark.parametrize("walls", [False, True], ids=["inside", "a third at the walls"])
def test_every_norm_has_its_own_optimum(norm: str, walls: bool, toys: SimpleNamespace) -> None:
    classifier, x, exact = linear(toys, walls, norm, d=60)
    goal = Misclassify(classifier(x).argmax(dim=1))
    result = Minimal(norm=norm, gradients=300)(classifier, x, goal)
    assert result.reached.all()
    assert torch.equal(result.size, as_norm(norm).size(result.delta))
    assert (result.size >= exact * (1 - 1e-9)).all()
    assert result.size.mean() <= 1.01 * exact.mean()
    # The smallest change in one norm is none in another: L1 moves few elements, LINF all of them.
    moved = (result.delta.abs() > 0.01 * result.delta.abs().amax(dim=1, keepdim=True)).double().mean()
    assert moved < 0.2 if norm == "l1" else moved > 0.6


def test_a_first_success_far_beyond_the_boundary_costs_no_steps(toys: SimpleNamespace) -> None:
    """The linearised boundary of a sphere lies beyond it from within, and at no place at all from its centre."""
    classifier, x, exact = spheres(toys)
    result = Minimal(gradients=20)(classifier, x, Misclassify(classifier(x).argmax(dim=1)))
    assert result.size.mean() <= 1.001 * exact.mean()


def test_the_passes_without_a_gradient_are_few(toys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 gradients: the logits, four for the first success, four at the end, and the two of `run_search`."""
    classifier, x, _ = linear(toys, walls=False, d=60)
    goal, passes = Misclassify(classifier(x).argmax(dim=1)), 0

    def counted(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passes
        passes += len(inputs[0])

    handle = classifier.network.register_forward_pre_hook(counted)
    result = Minimal(gradients=20)(classifier, x, goal)
    handle.remove()
    assert (result.gradients <= 20).all()
    assert (result.queries <= 8).all()
    assert passes <= int(result.gradients.sum()) + 11 * len(x)


def test_legs_by_single_classes_come_in_an_order_that_goes_by_the_first_two(toys: SimpleNamespace) -> None:
    """Logits are the input. Of both rows, the first leg arrives at class 2 and the second at class 1."""
    x = torch.tensor([[0.9, 0.5, 0.6, 0.1, 0.2]] * 2, dtype=torch.float64)
    classifier = toys.affine(torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    first = torch.tensor([[-0.2, 0.0, 0.2, 0.3, -0.1]] * 2, dtype=torch.float64)  # then 3 before 4, other than at x
    second = torch.tensor([[-0.2, 0.3, 0.0, 0.0, 0.0]] * 2, dtype=torch.float64)
    made = SearchResult.nothing(x)
    legs = [replace(made, delta=first, size=torch.tensor([1.0, 1.0]))]
    detours = _detours(Misclassify(torch.tensor([0, 0])), classifier, x, x, legs)
    avoided: Any = next(detours)
    assert avoided.avoided.tolist() == [2, 2]
    legs.append(replace(made, delta=second, size=torch.tensor([1.05, 1.3])))
    every = torch.arange(5)
    order = [[int(c) for c in every if c not in (0, *row.tolist())] for goal in detours for row in goal.avoided]  # pyright: ignore[reportAttributeAccessIssue]
    assert order[0::2] == [[3], [4], [1], [2]]  # the second leg came near: other classes next
    assert order[1::2] == [[2], [3], [4], [1]]  # it stayed far behind: the class of the first alone


@pytest.mark.parametrize("goal", [Misclassify, BelowChance, Become])
def test_more_legs_help_every_goal(goal: Any, toys: SimpleNamespace) -> None:
    classifier = toys.mlp()
    x = torch.rand(12, 3, 2, 2, dtype=torch.float64)
    y = classifier(x).argmax(dim=1)
    aim = goal((y + 1) % 3 if goal is Become else y)
    few, many = (Minimal(gradients=budget)(classifier, x, aim, seed=1) for budget in (40, 200))
    assert many.reached.all()
    assert (many.size <= few.size).all()
    assert (many.gradients > few.gradients)[few.size > 0].all()


@pytest.mark.parametrize("misleads", [False, True])
def test_false_position_finds_where_a_goal_begins_to_hold(misleads: bool) -> None:
    root = torch.tensor([0.001, 0.2, 0.5, 0.77, 0.999], dtype=torch.float64)

    def ask(scale: Tensor, rows: Tensor, counts: Tensor | None = None) -> Aim:
        loss = root[rows] ** 3 - scale**3
        return Aim(loss=-loss.abs() if misleads else loss, reached=loss < 0)

    near, far, every = torch.zeros_like(root), torch.ones_like(root), torch.arange(5)
    passes = 30 if misleads else 12
    found = crossing(ask, near, far, ask(near, every).loss, ask(far, every).loss, passes)
    assert (found > root).all()
    assert (found - root).max() <= (2.0**-29 if misleads else 1e-5)
