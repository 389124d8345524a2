"""The theory of Chalasani et al. 2020 once more, in the paper's symbols: formulas against slow replicas and our code.

One-layer models: x in R^d, y = +-1, L(x, y; w) = g(-y <w, x>) with g convex and not decreasing (LOSS-CVX). A network
of two classes is such a model: w is the difference of its rows, and y = 1 is class 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scipy import integrate
from torch import Tensor
from torch.nn.functional import softplus

from advex import objectives
from advex.attacks.closed_form import ClosedForm
from advex.classifier import Classifier
from advex.goals import Misclassify
from advex.types import Batch

Function = Callable[[Tensor], Tensor]


class Loss(NamedTuple):
    """g, and its derivative g'."""

    g: Function
    dg: Function


LOSSES = {
    "logistic": Loss(softplus, torch.sigmoid),
    "hinge": Loss(lambda z: (1 + z).clamp_min(0), lambda z: (z > -1).to(z)),
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def L(x: Tensor, y: Tensor, w: Tensor, loss: Loss) -> Tensor:
    """Rows of x [n, d], y and w [n] and [n, d] or [d] -> [n]."""
    return loss.g(-y * (w * x).sum(dim=-1))


def delta_star(y: Tensor, w: Tensor, epsilon: float) -> Tensor:
    """Eq. 7."""
    return -y[:, None] * w.sign() * epsilon


WIDTH = 256.0  # of the box: radii are shares of it; a power of two, so that nothing is rounded


def network(w: Tensor) -> Classifier:
    """The model as a classifier of two classes: w is spread unevenly over both rows; a wide box."""
    classifier = Classifier(f"linear:features={len(w)},classes=2", box=(-WIDTH / 2, WIDTH / 2)).double()
    layer = classifier.network[1]  # pyright: ignore
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-0.3 * w, 0.7 * w]))
        layer.bias.zero_()
    return classifier


# -- Sec. 3: the adversary of a one-layer model --------------------------------------------------------------


def corners(d: int) -> Tensor:
    """[2^d, d] of -1 and 1."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d)), dtype=torch.float64)


@EVERY_LOSS
def test_no_corner_of_the_cube_is_worse_than_equation_7(loss: Loss) -> None:
    """A convex function is largest at a corner, so these are all that could be. And Eq. 8 is the loss there."""
    x, w, epsilon = normal(50, 5, seed=1), normal(50, 5, seed=2), 0.3
    y = normal(50, seed=3).sign()
    tried = L(x + epsilon * corners(5)[:, None], y, w, loss)
    worst = L(x + delta_star(y, w, epsilon), y, w, loss)
    assert torch.allclose(tried.amax(dim=0), worst, rtol=1e-12)
    equation_8 = loss.g(epsilon * w.abs().sum(dim=1) - y * (w * x).sum(dim=1))
    assert torch.allclose(worst, equation_8, rtol=1e-12)


@EVERY_LOSS
def test_equation_9_is_the_gradient_of_equation_8(loss: Loss) -> None:
    x, w, epsilon = normal(50, 5, seed=1), normal(50, 5, seed=2).requires_grad_(True), 0.3
    y = normal(50, seed=3).sign()
    (found,) = torch.autograd.grad(L(x + delta_star(y, w.detach(), epsilon), y, w, loss).sum(), w)
    slope = loss.dg(epsilon * w.abs().sum(dim=1) - y * (w * x).sum(dim=1))
    assert torch.allclose(found, -slope[:, None] * (y[:, None] * x - w.sign() * epsilon), rtol=1e-12)


def test_our_adversary_is_equation_7() -> None:
    """Where a weight is 0 it stays: sgn(0) = 0, which the first case of Theorem 3.1 takes for granted."""
    w, x = torch.tensor([0.5, -2.0, 0.0, 1e-9]).double(), normal(6, 4, seed=4)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    found = ClosedForm(radius=0.25 / WIDTH)(network(w), x, Misclassify(y, temperature=1.0))
    assert torch.equal(found.delta, delta_star(2.0 * y - 1, w, 0.25))


# -- Theorem 3.1: the expected update ------------------------------------------------------------------------


class Draws(NamedTuple):
    """x [n, d], y [n], a [d], and the features S, which are independent of the rest given y, but not of one another."""

    x: Tensor
    y: Tensor
    a: Tensor
    S: list[int]


def drawn(n: int = 200_000) -> Draws:
    """Three features in S, of which one is strong, one weak and one says nothing; two others. FEAT-TRANS holds."""
    a = torch.tensor([0.8, 0.1, 0.0, 0.5, -0.4], dtype=torch.float64)
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.4, 0.9]], dtype=torch.float64)
    rest = torch.tensor([[0.6, 0.0], [0.5, 1.0]], dtype=torch.float64)
    noise = torch.block_diag(mix, rest)
    y = torch.where(torch.rand(n, generator=rng(0)) < 0.3, 1.0, -1.0).double()  # classes need not be equal
    return Draws(y[:, None] * a + normal(n, 5, seed=1) @ noise.T, y, a, [0, 1, 2])


class Mean(NamedTuple):
    """Of values that are drawn: the mean, and the standard error of it."""

    value: float
    sigma: float


def mean(values: Tensor) -> Mean:
    return Mean(values.mean().item(), (values.std() / len(values) ** 0.5).item())


def slopes(at: Draws, w: Tensor, epsilon: float, loss: Loss) -> Tensor:
    """g'(epsilon ||w||_1 - y <w, x>) [n], whose mean is g'-bar of Eq. 10."""
    return loss.dg(epsilon * w.abs().sum() - at.y * (at.x @ w))


@EVERY_LOSS
def test_theorem_3_1_where_all_weights_of_S_are_zero(loss: Loss) -> None:
    """Eq. 11: each grows in proportion to its strength, whatever the other weights are."""
    at, epsilon = drawn(), 0.2
    for others in ([0.0, 0.0], [0.7, -0.2], [-1.0, 2.0]):
        w = torch.tensor([0.0, 0.0, 0.0, *others], dtype=torch.float64)
        dg = slopes(at, w, epsilon, loss)
        for i in at.S:
            delta_w = dg * (at.y * at.x[:, i] - w[i].sign() * epsilon)  # one update each, -Eq. 9
            excess = mean(delta_w - dg * at.a[i])  # of E[Delta w_i] over g'-bar a_i
            assert abs(excess.value) < 3 * excess.sigma, (others, i)


def excess_of_equation_12(at: Draws, w: Tensor, epsilon: float, loss: Loss) -> Mean:
    """Delta_S^w - g'-bar (a_S^w - epsilon), with the w-weighted averages over S of Eq. 6."""
    w_S, x_S = w[at.S], at.x[:, at.S]
    dg = slopes(at, w, epsilon, loss)
    delta_w = dg[:, None] * (at.y[:, None] * x_S - w_S.sign() * epsilon)
    averaged = (delta_w @ w_S) / w_S.abs().sum()
    a_S = (at.a[at.S] @ w_S) / w_S.abs().sum()
    return mean(averaged - dg * (a_S - epsilon))


@EVERY_LOSS
@pytest.mark.parametrize("w_S", [[1.0, 1.0, 1.0], [0.5, -0.5, 0.2], [-0.6, 0.0, 0.0], [0.0, 0.0, 1.5]], ids=str)
def test_theorem_3_1_bounds_the_weighted_average(loss: Loss, w_S: list[float]) -> None:
    """Eq. 12, here with distance to spare; equality in the limit of small weights of S."""
    at = drawn()
    for epsilon in (0.0, 0.3):
        w = torch.tensor([*w_S, 0.4, -0.3], dtype=torch.float64)
        excess = excess_of_equation_12(at, w, epsilon, loss)
        assert excess.value < -3 * excess.sigma
        w[:3] *= 1e-4
        excess = excess_of_equation_12(at, w, epsilon, loss)
        assert abs(excess.value) < 3 * excess.sigma


def test_our_training_makes_the_expected_update() -> None:
    """The gradient of the adversarial objective on all draws at once: weak features shrink, the strong one grows."""
    at, epsilon, loss = drawn(), 0.3, LOSSES["logistic"]
    w = torch.tensor([0.2, 0.2, 0.2, 0.4, -0.3], dtype=torch.float64)
    classifier = network(w).train()
    objective = objectives.build(f"adversarial:attack=(closed_form:radius={epsilon / WIDTH}),share=1")
    batch = Batch(x=at.x, y=(at.y > 0).long())
    value, _, _ = objective(classifier, batch, objective.start(), rng=rng(0))
    value.backward()
    update = -classifier.network[1].weight.grad  # pyright: ignore
    dg = slopes(at, w, epsilon, loss)
    by_hand = (dg[:, None] * (at.y[:, None] * at.x - w.sign() * epsilon)).mean(dim=0)
    assert torch.allclose(update[1], by_hand, atol=1e-12)
    assert torch.allclose(update[0], -by_hand, atol=1e-12)
    assert (by_hand[at.S] > 0).tolist() == [True, False, False]


def test_without_slope_nothing_shrinks() -> None:
    """The paper's text has (12) imply a shrinkage below 0; where g' is 0 everywhere (a hinge that all meet) it is 0."""
    at = drawn(1000)
    x = at.y[:, None] * torch.full((1, 5), 3.0, dtype=torch.float64)
    w = torch.full((5,), 1.0, dtype=torch.float64)
    assert not slopes(at._replace(x=x), w, 0.2, LOSSES["hinge"]).any()


# -- Lemma 4.1: integrated gradients of a one-layer model ----------------------------------------------------

ACTIVATIONS = {"sigmoid": torch.sigmoid, "poisson": torch.exp, "logistic loss": softplus, "square": torch.square}


def IG(F: Function, x: Tensor, u: Tensor) -> Tensor:
    """Eq. 13, element by element with an adaptive rule: F maps [d] to a number."""

    def slope(alpha: float, i: int) -> float:
        z = (u + alpha * (x - u)).requires_grad_(True)
        return torch.autograd.grad(F(z), z)[0][i].item()

    return torch.stack([(x[i] - u[i]) * integrate.quad(slope, 0, 1, (i,))[0] for i in range(len(x))])


def equation_15(A: Function, w: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Lemma 4.1, and where its denominator is 0 the limit A'(<w, x>) (x - u) * w."""
    moved = (x - u) @ w
    if abs(moved) > 1e-12:
        return (A(x @ w) - A(u @ w)) * (x - u) * w / moved
    z = (x @ w).requires_grad_(True)
    return torch.autograd.grad(A(z), z)[0] * (x - u) * w


@pytest.mark.parametrize("A", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
def test_lemma_4_1(A: Function) -> None:
    for seed in range(5):
        w, x, u = normal(3, 4, seed=seed)
        assert torch.allclose(IG(lambda z: A(z @ w), x, u), equation_15(A, w, x, u), rtol=1e-8, atol=1e-10)  # noqa: B023


@pytest.mark.parametrize("A", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
def test_lemma_4_1_where_its_denominator_vanishes(A: Function) -> None:
    w, x, u = torch.tensor([[1.0, -2.0, 0.5], [0.4, 0.3, 0.0], [0.0, 0.1, 0.0]], dtype=torch.float64)
    assert ((x - u) @ w).abs() < 1e-15
    limit = equation_15(A, w, x, u)
    assert torch.isfinite(limit).all()
    assert limit.any()
    assert torch.allclose(IG(lambda z: A(z @ w), x, u), limit, rtol=1e-8, atol=1e-10)
    nudged = x + torch.tensor([1e-7, 0.0, 0.0]).double()
    assert torch.allclose(equation_15(A, w, nudged, u), limit, rtol=1e-5)  # it is the limit


# -- Theorem 5.1: stable attributions of the loss and robustness ---------------------------------------------

DRAWS, D = 1000, 4


class Case(NamedTuple):
    """1,000 random models, each with one example."""

    x: Tensor
    y: Tensor
    w: Tensor
    epsilon: Tensor


def cases() -> Case:
    scale = torch.rand(DRAWS, 1, generator=rng(5), dtype=torch.float64) * 3
    return Case(
        x=normal(DRAWS, D, seed=6),
        y=normal(DRAWS, seed=7).sign(),
        w=normal(DRAWS, D, seed=8) * scale,
        epsilon=torch.rand(DRAWS, 1, generator=rng(9), dtype=torch.float64),
    )


def size_of_IG(g: Function, at: Case, delta: Tensor) -> Tensor:
    """||IG^{L_y}(x, x + delta)||_1 by Lemma 4.1: delta [..., n, d] -> [..., n]."""
    before = -at.y * (at.w * at.x).sum(dim=-1)
    moved = -at.y * (at.w * delta).sum(dim=-1)
    share = (at.w * delta).abs().sum(dim=-1) / moved.abs()
    return (g(before + moved) - g(before)).abs() * share


def tried(at: Case) -> Tensor:
    """All corners of the cube around each x, and 500 points within: [16 + 500, n, d]."""
    inside = 2 * torch.rand(500, DRAWS, D, generator=rng(10), dtype=torch.float64) - 1
    return torch.cat([corners(D)[:, None].expand(-1, DRAWS, -1), inside]) * at.epsilon


@EVERY_LOSS
def test_theorem_5_1(loss: Loss) -> None:
    """To 1e-6 on 1,000 draws: the maximum over corners and points within, against the worst loss."""
    at = cases()
    delta = tried(at)
    stable = L(at.x, at.y, at.w, loss) + size_of_IG(loss.g, at, delta).amax(dim=0)
    adversarial = L(at.x + delta, at.y, at.w, loss).amax(dim=0)
    assert (stable - adversarial).abs().amax() < 1e-6
    assert (adversarial - L(at.x, at.y, at.w, loss)).amax() > 1


def test_theorem_5_1_needs_a_convex_loss() -> None:
    """A loss that saturates: the attribution of the way *down* is larger, and so is the stable-IG risk."""
    at, delta = cases(), tried(cases())
    loss = Loss(torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z))
    stable = L(at.x, at.y, at.w, loss) + size_of_IG(loss.g, at, delta).amax(dim=0)
    adversarial = L(at.x + delta, at.y, at.w, loss).amax(dim=0)
    assert (stable - adversarial).amin() > -1e-12  # never below: |sum of a map| is at most its L1 norm
    assert (stable - adversarial).amax() > 0.1


def test_theorem_5_1_needs_the_whole_cube() -> None:
    """At the wall of a box that forbids the worst change, the loss can rise no further, but the map can still move."""
    loss = LOSSES["logistic"]
    x, y, w = torch.ones(1, 1).double(), torch.tensor([-1.0]).double(), torch.ones(1).double()  # x is at its upper end
    within = torch.linspace(-0.5, 0, 50, dtype=torch.float64)[:, None, None]
    adversarial = L(x + within, y, w, loss).amax()
    stable = L(x, y, w, loss) + (L(x, y, w, loss) - L(x + within, y, w, loss)).abs().amax()
    assert adversarial == L(x, y, w, loss)
    assert stable > adversarial + 0.3


def test_our_stable_ig_training_is_adversarial_training() -> None:
    """Loss and gradient of both objectives, 1,000 examples on 20 networks."""
    for seed in range(20):
        w, x = 2 * normal(6, seed=seed), normal(50, 6, seed=100 + seed)
        batch = Batch(x=x, y=(normal(50, seed=200 + seed) > 0).long())
        found = []
        for terms in (
            "adversarial:attack=(closed_form:radius=0.2),share=1",
            "stable_ig:attack=(closed_form:radius=0.2)",
        ):
            classifier, objective = network(w).train(), objectives.build(terms)
            value, _, _ = objective(classifier, batch, objective.start(), rng=rng(0))
            value.backward()
            found.append((value.item(), classifier.network[1].weight.grad))  # pyright: ignore
        (adversarial, one), (stable, other) = found
        assert stable == pytest.approx(adversarial, abs=1e-6)
        assert torch.allclose(one, other, atol=1e-9)


def test_several_classes_are_not_covered() -> None:
    """Cross-entropy of three classes is no function of one <w, x>: the stable-IG risk can lie far above the other."""
    weight, x, epsilon = 3 * normal(3, D, seed=389), normal(D, seed=1389), 1.5

    def F(z: Tensor) -> Tensor:
        return torch.logsumexp(weight @ z, dim=0) - weight[0] @ z  # the label is class 0

    around = x + epsilon * corners(D)
    stable = [IG(F, to, x).abs().sum().item() for to in around]
    adversarial = [(F(to) - F(x)).item() for to in around]
    assert all(norm >= rise - 1e-9 for norm, rise in zip(stable, adversarial, strict=True))  # at each x'
    assert max(stable) > max(adversarial) + 4
