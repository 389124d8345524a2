"""Laws of every registered goal: one aim per row, a loss that leads there and does not saturate."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from advex import registry
from advex.classifier import input_gradient
from advex.errors import InputError
from advex.types import take

GOALS = registry.entries("goal")
EVERY = pytest.mark.parametrize("make", [entry.make for entry in GOALS.values()], ids=list(GOALS))
Make = Callable[..., Any]


@pytest.fixture
def linear(toys: SimpleNamespace) -> Any:
    """Four classes on eight features, in a wide box."""
    return toys.affine(torch.randn(4, 8), torch.randn(4), box=(-50.0, 50.0))


def problem(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(n, 8, generator=rng, dtype=torch.float64), torch.randint(4, (n,), generator=rng)


@EVERY
def test_one_loss_and_one_verdict_per_row(make: Make, linear: Any) -> None:
    x, classes = problem()
    aim = make(classes)(linear, x)
    assert aim.loss.shape == aim.reached.shape == (12,)
    assert aim.reached.dtype == torch.bool
    for n in (0, 1):
        aim = make(classes[:n])(linear, x[:n])
        assert aim.loss.shape == aim.reached.shape == (n,)


@EVERY
def test_rows_do_not_mix(make: Make, linear: Any) -> None:
    x, classes = problem()
    goal = make(classes)
    together = goal(linear, x)
    for i in range(len(x)):
        alone = take(goal, slice(i, i + 1))(linear, x[i : i + 1])
        assert alone.loss.item() == pytest.approx(together.loss[i].item(), rel=1e-12)
        assert alone.reached.item() == together.reached[i].item()
    backwards = take(goal, torch.arange(11, -1, -1))(linear, x.flip(0))
    assert torch.allclose(backwards.loss.flip(0), together.loss, rtol=1e-12)


@EVERY
def test_going_downhill_reaches_the_goal(make: Make, linear: Any) -> None:
    """On a linear network a small step against the gradient lowers every loss, and enough of them succeed."""
    x, classes = problem()
    goal = make(classes)
    for _ in range(400):
        gradient, aim = input_gradient(lambda at: goal(linear, at), x)
        if aim.reached.all():
            break
        step = 0.02 * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
        after = goal(linear, x - step)
        # Loss goes down by about the step; where two classes swap the lead it may stand still for one step.
        assert (after.loss <= aim.loss + 1e-9)[~aim.reached].double().mean() > 0.8
        x = (x - step).detach()
    assert aim.reached.all()
    assert (goal(linear, x).loss < 0).all()


@EVERY
def test_the_loss_does_not_saturate(make: Make, toys: SimpleNamespace) -> None:
    """Logits of size 1000, where every softmax is exactly 0 or 1, still tell the way to those who need it."""
    x, classes = problem(64)
    for dtype in (torch.float32, torch.float64):
        huge = toys.affine(torch.randn(4, 8) * 1e3, torch.randn(4), box=(-50.0, 50.0)).to(dtype)
        gradient, aim = input_gradient(lambda at: make(classes)(huge, at), x.to(dtype))  # noqa: B023
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(aim.loss).all()
        lost = ~aim.reached
        assert lost.sum() >= 8
        assert (gradient[lost] != 0).any(dim=1).all()


@EVERY
def test_labels_that_do_not_fit_are_named(make: Make, linear: Any) -> None:
    x, classes = problem(3)
    for wrong in (classes[:2], classes + 4, classes - 5, classes.double(), classes[:, None]):
        with pytest.raises(InputError, match=r"one class per input, int64 in \[0, 4\), for 3 inputs"):
            make(wrong)(linear, x)


@EVERY
def test_a_verdict_carries_no_gradient(make: Make, linear: Any) -> None:
    x, classes = problem()
    aim = make(classes)(linear, x.requires_grad_(True))
    assert aim.loss.requires_grad
    assert not aim.reached.requires_grad
