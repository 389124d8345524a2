"""Algorithm 1 (Woods et al. 2019) once more, slowly: one image at a time, in the paper's symbols."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from advex.attacks import Algorithm1
from advex.classifier import Classifier
from advex.goals import Become, BelowChance, Misclassify

Test = Callable[[Tensor, int], bool]


def g_adv(s: Tensor, t: int) -> bool:
    """Eq. 2."""
    return bool(s[t] - max(s[j] for j in range(len(s)) if j != t) < 0)


def g_btr(s: Tensor, t: int) -> bool:
    """Eq. 3."""
    return bool(s[t] < 1 / len(s))


def rms(v: Tensor) -> Tensor:
    """Root mean square: the length in which the authors' code measures."""
    return (v**2).mean().sqrt()


def printed(
    f: Classifier, x: Tensor, t: int, g: Test, n: int, *, rate: float, momentum: float, eta: float
) -> Tensor | None:
    """As printed, with c the box [0, 1]: the best delta, or None."""

    def c(image: Tensor) -> Tensor:
        return image.clamp(0, 1)

    delta, v, m_best, best = torch.zeros_like(x), torch.zeros_like(x), float("inf"), None
    for k in range(n + 1):
        free = delta.clone().requires_grad_(True)
        x_hat = c(x + free)
        s = f.logits(x_hat[None])[0].softmax(dim=0)
        if g(s, t):
            if rms(c(x + delta) - x) < m_best:  # the size of the image that g saw
                m_best, best = rms(c(x + delta) - x).item(), c(x + delta) - x
            step = 2 * delta
        else:
            # grad s_t, through the clipping; for one image it points where the gradient of log s_t / (1 - s_t) does.
            (gradient,) = torch.autograd.grad(torch.logit(s[t]), free)
            gradient = torch.where((x + delta < 0) | (x + delta > 1), 0.0, gradient)
            step = eta * gradient / rms(gradient) if gradient.any() else torch.zeros_like(x)
        if k < n:  # o(delta, step): SGD with momentum
            v = momentum * v + step
            delta = delta - rate * v
    return best


def published(f: Classifier, x: Tensor, t: int, g: Test, n_steps: int, distance: float = 20.0) -> Tensor | None:
    """As in the authors' code: steps that grow shorter, averaged directions, no box, cross-entropy, 1e-8."""
    delta, average, best = torch.zeros_like(x), torch.zeros_like(x), None
    for n in range(n_steps + 1):
        free = delta.clone().requires_grad_(True)
        y = f.logits((x + free)[None])[0]
        if g(y.softmax(dim=0), t):
            if best is None or rms(delta) < rms(best):
                best = delta
            direction = -delta
        else:
            (direction,) = torch.autograd.grad(-y.log_softmax(dim=0)[t], free)
        direction = direction / (1e-8 + rms(direction))
        average = 0.9 * average + (1 - 0.9) * direction
        if n < n_steps:
            delta = delta + distance * 2 * (n_steps - n) / (n_steps * (n_steps + 1)) * average
    return best


@pytest.fixture
def problem(toys: SimpleNamespace) -> tuple[Classifier, Tensor, Tensor]:
    """(classifier, x, t): eight images near their boundaries, with saturated pixels."""
    f = toys.mlp()
    rng = torch.Generator().manual_seed(2)
    x = (torch.rand(8, 3, 2, 2, generator=rng, dtype=torch.float64) * 1.2 - 0.1).clamp(0, 1)
    with torch.no_grad():
        t = f(x).argmax(dim=1)
    t[3] = (t[3] + 1) % 3  # one is misclassified from the start
    return f, x, t


GOALS = pytest.mark.parametrize(("goal", "g"), [(Misclassify, g_adv), (BelowChance, g_btr)], ids=["adv", "btr"])


def compare(found: Tensor, reached: Tensor, slow: list[Tensor | None]) -> None:
    assert reached.tolist() == [delta is not None for delta in slow]
    for ours, theirs in zip(found, slow, strict=True):
        if theirs is not None:
            # Sums of one image and of eight round differently; 60 steps enlarge that.
            assert torch.allclose(ours, theirs, atol=1e-9, rtol=1e-7)


@GOALS
@pytest.mark.parametrize("steps", [1, 60])
def test_the_printed_form(problem: tuple[Classifier, Tensor, Tensor], goal: type, g: Test, steps: int) -> None:
    f, x, t = problem
    options: dict[str, Any] = {"rate": 0.02, "momentum": 0.8, "eta": 0.7}
    found = Algorithm1(steps=steps, **options)(f, x, goal(t))
    slow = [printed(f, image, int(c), g, steps, **options) for image, c in zip(x, t, strict=True)]
    if steps == 60:
        assert found.reached.sum() >= 6
    compare(found.delta, found.reached, slow)


@GOALS
@pytest.mark.parametrize("steps", [1, 60])
def test_the_published_form(problem: tuple[Classifier, Tensor, Tensor], goal: type, g: Test, steps: int) -> None:
    f, x, t = problem
    found = Algorithm1(steps=steps, published=True, distance=3.0)(f, x, goal(t))
    slow = [published(f, image, int(c), g, steps, 3.0) for image, c in zip(x, t, strict=True)]
    if steps == 60:
        assert found.reached.sum() >= 6
    compare(found.delta, found.reached, slow)


def test_the_published_form_leaves_the_box_and_the_printed_one_does_not(
    problem: tuple[Classifier, Tensor, Tensor],
) -> None:
    f, x, t = problem
    for form, leaves in ((True, True), (False, False)):
        found = Algorithm1(steps=60, published=form, distance=3.0, rate=0.02)(f, x, Misclassify(t)).adversarial
        assert ((found < 0) | (found > 1)).any().item() == leaves


def test_the_published_steps_add_up_to_their_distance() -> None:
    steps, distance = 450, 20.0
    lengths = [distance * 2 * (steps - n) / (steps * (steps + 1)) for n in range(steps)]
    assert sum(lengths) == pytest.approx(distance)
    # "from 0.0887 to 0.000197 RMSE"
    assert (lengths[0], lengths[-1]) == (pytest.approx(0.0887, abs=1e-4), pytest.approx(0.000197, abs=1e-6))


def test_cross_entropy_stalls_where_the_published_form_is_saturated(toys: SimpleNamespace) -> None:
    """1e-8 in the denominator stops the published form where the softmax is saturated; the printed form goes on."""
    w = torch.ones(12, dtype=torch.float64) * 40
    steep = toys.affine(torch.stack([w, -w]), torch.tensor([-200.0, 200.0]))  # logits apart by up to 560
    x = torch.full((1, 3, 2, 2), 0.9, dtype=torch.float64)
    goal = Misclassify(torch.tensor([0]))
    assert not Algorithm1(published=True)(steep, x, goal).reached.item()
    assert Algorithm1()(steep, x, goal).reached.item()


def test_the_published_form_does_not_stall_on_the_way_to_a_class(toys: SimpleNamespace) -> None:
    """The cross-entropy of a class that is far away has a slope of 1, so becoming it works where losing one stalls."""
    w = torch.ones(12, dtype=torch.float64) * 40
    steep = toys.affine(torch.stack([w, -w]), torch.tensor([-200.0, 200.0]))
    x = torch.full((1, 3, 2, 2), 0.9, dtype=torch.float64)
    assert Algorithm1(published=True)(steep, x, Become(torch.tensor([1]))).reached.item()


def test_become_is_algorithm_1_with_another_test(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    """With two classes, becoming the other one is losing the own."""
    f, x, _ = problem
    two = Classifier(torch.nn.Sequential(f, torch.nn.Linear(3, 2).double())).eval()
    with torch.no_grad():
        t = two(x).argmax(dim=1)
    lose = Algorithm1(steps=60)(two, x, Misclassify(t))
    become = Algorithm1(steps=60)(two, x, Become(1 - t))
    assert torch.equal(lose.reached, become.reached)
    assert torch.allclose(lose.delta, become.delta, atol=1e-9)
