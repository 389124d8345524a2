"""Searches within a distance: exact on linear networks, and against the algorithms and formulas of their papers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from advex.attacks import APGD, SPSA, Spatial, Square
from advex.attacks.apgd import _Halving, _LogitRatio
from advex.attacks.search import iterate
from advex.attacks.spatial import posed
from advex.attacks.square import _bump
from advex.classifier import Classifier
from advex.errors import InputError
from advex.geometry import as_norm
from advex.goals import Misclassify

SHAPE = (3, 2, 2)


def project(norm: str, delta: Tensor, epsilon: float, x: Tensor) -> Tensor:
    """P_S, S the ball in the box, as in the authors' code: the ball first, then the box."""
    if norm == "linf":
        delta = delta.clamp(-epsilon, epsilon)
    elif delta.norm() > epsilon:
        delta = delta / delta.norm() * epsilon
    return (x + delta).clamp(0, 1) - x


def algorithm_1(f: Any, x: Tensor, start: Tensor, norm: str, epsilon: float, n_iter: int) -> tuple[Tensor, list[float]]:
    """Auto-PGD of one row, maximising f: (x_max - x, the step sizes of all iterations)."""
    alpha, rho = 0.75, 0.75
    p = [Fraction(0), Fraction(22, 100)]
    while (after := p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100))) <= 1:
        p.append(after)
    w = [math.ceil(share * n_iter) for share in p]

    def ascent(delta: Tensor) -> Tensor:
        at = (x + delta).requires_grad_(True)
        (gradient,) = torch.autograd.grad(f(at), at)
        return gradient.sign() if norm == "linf" else gradient / gradient.norm()

    xs, eta, etas = [start], 2 * epsilon, []
    values = [f(x + start).item()]
    best, f_max = start, values[0]
    eta_at, f_max_at = {0: eta}, {0: f_max}
    for k in range(n_iter):
        if k in w[1:]:
            j = w.index(k)
            improved = sum(values[i + 1] > values[i] for i in range(w[j - 1], w[j]))
            one = improved < rho * (w[j] - w[j - 1])
            two = eta_at[w[j - 1]] == eta and f_max_at[w[j - 1]] == f_max
            eta_at[k], f_max_at[k] = eta, f_max
            if one or two:
                eta, xs[k] = eta / 2, best
        etas.append(eta)
        z = project(norm, xs[k] + eta * ascent(xs[k]), epsilon, x)
        step = (
            z if k == 0 else project(norm, xs[k] + alpha * (z - xs[k]) + (1 - alpha) * (xs[k] - xs[k - 1]), epsilon, x)
        )
        xs.append(step)
        values.append(f(x + step).item())
        if values[-1] > f_max:
            best, f_max = step, values[-1]
    return best, etas


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.04), ("l2", 0.1)])
@pytest.mark.parametrize("steps", [7, 40])
def test_apgd_is_algorithm_1(toys: SimpleNamespace, norm: str, epsilon: float, steps: int) -> None:
    """Rows away from the walls that the radius does not suffice for: the same change as the printed algorithm's."""
    classifier = toys.mlp(SHAPE)
    x = 0.3 + 0.4 * torch.rand(12, *SHAPE, dtype=torch.float64)
    y = classifier.predict(x).argmax(dim=1)
    search = APGD(norm=norm, radius=epsilon, steps=steps)
    stands = ~search(classifier, x, Misclassify(y), seed=4).reached
    x, y = x[stands], y[stands]
    assert len(x) >= 5
    start = as_norm(norm).sample(x, epsilon, 4 << 20)
    found = iterate(
        _Halving(search), classifier, x, Misclassify(y, 1.0), norm=as_norm(norm), steps=steps, start=start
    )  # fmt: skip
    halved = 0
    for i in range(len(x)):

        def cross_entropy(at: Tensor, label: int = int(y[i])) -> Tensor:
            return torch.nn.functional.cross_entropy(classifier.logits(at[None]), torch.tensor([label]))

        best, etas = algorithm_1(cross_entropy, x[i], start[i], norm, epsilon, steps)
        assert torch.allclose(found.delta[i], best, atol=1e-9), i
        halved += etas[-1] < etas[0]
    assert halved or steps == 7
    assert torch.equal(search(classifier, x, Misclassify(y), seed=4).delta, found.delta)


def test_the_checkpoints_are_the_papers() -> None:
    """N_iter = 100: 22, 41, 57, 70, 80, 87, 93, 99 (p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06))."""
    assert list(_Halving(APGD(steps=100)).checkpoints) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_difference_of_logits_ratio(toys: SimpleNamespace, classes: int) -> None:
    """Eq. 6 and 7, row by row; of two classes the margin, of three z_pi4 is z_pi3."""
    weight = torch.randn(classes, 8, dtype=torch.float64)
    classifier = toys.affine(weight, torch.randn(classes, dtype=torch.float64))
    x = torch.rand(20, 8, dtype=torch.float64)
    y, t = torch.randint(classes, (20,)), torch.randint(classes, (20,))
    t = torch.where(t == y, (t + 1) % classes, t)
    z = classifier(x).detach()
    plain, targeted = _LogitRatio(y, None)(classifier, x), _LogitRatio(y, t)(classifier, x)
    for i in range(20):
        pi = z[i].sort(descending=True).values
        own = z[i, y[i]]
        highest = max(z[i, j] for j in range(classes) if j != y[i])
        last = pi[min(3, classes - 1)]
        expected = (own - highest) / (pi[0] - pi[2] if classes > 2 else 1)
        towards = (own - z[i, t[i]]) / (pi[0] - (pi[2] + last) / 2 if classes > 2 else 1)
        assert plain.loss[i].item() == pytest.approx(expected.item())
        assert targeted.loss[i].item() == pytest.approx(towards.item())
        assert plain.reached[i] == targeted.reached[i] == (z[i].argmax() != y[i])
    # Neither a scale nor a shift of the logits matters.
    if classes > 2:
        other = toys.affine(7 * weight, 7 * classifier.network[1].bias.detach() + 3)
        assert torch.allclose(_LogitRatio(y, t)(other, x).loss, targeted.loss)


# -- exact answers ------------------------------------------------------------------------------------------


def two_classes(toys: SimpleNamespace, n: int = 40) -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """(linear classifier, x [n, 12] far from the walls, y, w): the margin of x is w x + b."""
    w = torch.randn(12, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(n, 3, 2, 2, dtype=torch.float64)
    bias = -(x.flatten(1) @ w).median()
    classifier = toys.affine(torch.stack([-w, w]) / 2, torch.stack([-bias, bias]) / 2)
    return classifier, x, classifier.predict(x).argmax(dim=1), w


DUAL = {"linf": lambda w: w.abs().sum(), "l2": lambda w: w.norm(), "l1": lambda w: w.abs().max()}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "targeted_dlr"])
def test_apgd_moves_exactly_the_rows_within_the_radius(toys: SimpleNamespace, norm: str, loss: Any) -> None:
    """On a linear network those whose margin is below the radius times the dual norm of w."""
    classifier, x, y, w = two_classes(toys)
    margin = (classifier(x)[:, 1] - classifier(x)[:, 0]).abs().detach()
    distance = margin / DUAL[norm](w)
    radius = distance.median().item()
    result = APGD(norm=norm, radius=radius, loss=loss)(classifier, x, Misclassify(y))
    clear = (distance / radius - 1).abs() > 0.02
    assert torch.equal(result.reached[clear], (distance < radius)[clear])
    assert (as_norm(norm).size(result.delta) <= radius * (1 + 1e-9)).all()
    assert (result.gradients[result.reached] < 100).any()  # a row that is moved is finished


def test_square_moves_exactly_the_rows_within_the_radius(toys: SimpleNamespace) -> None:
    """Squares of one element turn every element to its better end, on which the margin of a linear network is least."""
    classifier, x, y, w = two_classes(toys)
    distance = (classifier(x)[:, 1] - classifier(x)[:, 0]).abs().detach() / DUAL["linf"](w)
    radius = distance.median().item()
    result = Square(radius=radius, queries=600)(classifier, x, Misclassify(y))
    clear = (distance / radius - 1).abs() > 0.02
    assert torch.equal(result.reached[clear], (distance < radius)[clear])
    assert (result.queries[~result.reached] == 600).all()
    assert (result.queries[result.reached] < 600).all()
    assert not result.gradients.any()


def test_square_in_l2_keeps_to_the_ball_and_comes_near_the_exact_radius(toys: SimpleNamespace) -> None:
    w = torch.randn(1, 8, 8, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(40, 1, 8, 8, dtype=torch.float64)
    flat = w.flatten()
    bias = -(x.flatten(1) @ flat).median()
    classifier = toys.affine(torch.stack([-flat, flat]) / 2, torch.stack([-bias, bias]) / 2)
    y = classifier.predict(x).argmax(dim=1)
    distance = (x.flatten(1) @ flat + bias).abs() / flat.norm()
    radius = distance.median().item()
    result = Square(norm="l2", radius=radius, queries=2000)(classifier, x, Misclassify(y))
    assert (as_norm("l2").size(result.delta) <= radius * (1 + 1e-9)).all()
    assert not result.reached[distance > radius].any()
    # Bumps of alternating sign are far from the direction of w: what they reach is a good share of the radius.
    assert result.reached[distance < 0.4 * radius].all()
    scaled = replace(Square(norm="rmse", radius=radius / 8, queries=50))
    assert (as_norm("rmse").size(scaled(classifier, x, Misclassify(y)).delta) <= radius / 8 * (1 + 1e-9)).all()


def eta(h: int, w: int) -> Tensor:
    """Eq. 2 as printed, with r and s from 1: sum_{k=0}^{M(r,s)} 1 / (n + 1 - k)^2, n the half of the larger side."""
    n = max(h // 2, w // 2)
    values = torch.zeros(h, w, dtype=torch.float64)
    for r in range(1, h + 1):
        for s in range(1, w + 1):
            m = n - max(abs(r - h // 2 - 1), abs(s - w // 2 - 1))
            values[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
    return values


@pytest.mark.parametrize("side", [3, 5, 7, 9])
def test_the_bumps_are_the_papers(side: int) -> None:
    half = side // 2
    for draw, dim in ((0.2, 0), (0.8, 1)):
        parts = [(half, side), (side - half, side)] if dim == 0 else [(side, half), (side, side - half)]
        first, second = (eta(*part) for part in parts)
        expected = torch.cat([first / first.norm(), -second / second.norm()], dim=dim)
        found = _bump((side, side), torch.tensor([draw], dtype=torch.float64))[0]
        assert torch.allclose(found, expected / expected.norm(), atol=1e-12)


# -- other searches within limits ---------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_spsa_moves_the_rows_within_the_radius(toys: SimpleNamespace, norm: str) -> None:
    """Estimated slopes of a linear network are its slopes, up to the noise of the other directions."""
    classifier, x, y, w = two_classes(toys)
    distance = (classifier(x)[:, 1] - classifier(x)[:, 0]).abs().detach() / DUAL[norm](w)
    radius = distance.median().item()
    result = SPSA(norm=norm, radius=radius, queries=2000, samples=8, step=radius / 10)(classifier, x, Misclassify(y))
    assert not result.reached[distance > radius].any()
    assert result.reached[distance < 0.9 * radius].all()
    assert (as_norm(norm).size(result.delta) <= radius * (1 + 1e-9)).all()
    assert not result.gradients.any()
    assert (result.queries[~result.reached] == 2000).all()


def test_poses_are_what_they_say() -> None:
    """A quarter turn is the picture's own, anticlockwise; a whole number of pixels moves it, with 0 behind it."""
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(posed(x, math.pi / 2, 0, 0), torch.rot90(x, 1, dims=(2, 3)), atol=1e-12)
    moved = posed(x, 0, 2 / 6, 4 / 6)  # a pixel to the right and two down, in half sides of three pixels
    assert torch.allclose(moved[:, :, 2:, 1:], x[:, :, :-2, :-1], atol=1e-12)
    assert moved[:, :, :2].abs().max() < 1e-12
    assert moved[:, :, :, 0].abs().max() < 1e-12


def test_spatial_finds_the_mildest_pose_that_suffices(toys: SimpleNamespace) -> None:
    """A network that looks at one dark pixel beside a bright one: moving by a pixel shows it the bright one."""
    w = torch.zeros(1, 5, 5, dtype=torch.float64)
    w[0, 2, 2] = 1.0
    classifier = toys.affine(torch.stack([-w.flatten(), w.flatten()]), torch.tensor([0.5, -0.5]))
    x = torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 2, 3], x[1, 0, 1, 2] = 1.0, 1.0  # to the right of the middle; above it; nowhere
    search = Spatial(angle=0, angles=1, shift=0.2, shifts=3)
    result = search(classifier, x, Misclassify(torch.zeros(3, dtype=torch.int64)))
    assert result.reached.tolist() == [True, True, False]
    assert torch.allclose(result.adversarial[0], posed(x[:1], 0, -0.4, 0)[0], atol=1e-12)
    assert torch.allclose(result.adversarial[1], posed(x[1:2], 0, 0, 0.4)[0], atol=1e-12)
    assert result.queries[2].item() == len(search.poses) + 1 == 9
    with pytest.raises(InputError, match="needs pictures"):
        search(classifier, x.flatten(1), Misclassify(torch.zeros(3, dtype=torch.int64)))
