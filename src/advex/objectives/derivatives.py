"""Penalties on input gradients, and two ways to what they mean for the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from advex import batch_norm, processes
from advex.classifier import Classifier, input_gradient
from advex.errors import SpecError
from advex.objectives.step import Step

Derivative = Literal["exact", "finite_difference"]
Score = Callable[[Tensor], Tensor]  # logits [n, classes] -> [n]
PenaltyOf = Callable[[Tensor], Tensor]  # input gradient [n, *shape] -> []


def of_gradient(step: Step, score: Score, penalty: PenaltyOf, *, derivative: Derivative, probe: float) -> Tensor:
    """penalty(g) [] at g = d(sum of score(logits))/dx, with a gradient in the parameters.

    derivative: "exact" differentiates twice. "finite_difference" holds g constant: the parameter
    gradient of penalty(g) is that of the derivative of F = sum of score along v = dpenalty/dg,

        dpenalty/dtheta = <v, dg/dtheta> = d/dtheta d/dh F(x + h v)  at h = 0,

    taken as (F(x + h v) - F(x)) / h: no second derivative, and no more memory than a step without
    penalty. Two passes suffice: one backward pass at x gives g and dF/dtheta, and the pass at x + h v is
    the one the loss is taken of. probe: L2 length, in data space, by which the row that moves farthest
    is moved; the default is a hundredth of what rounding to 8 bits moves a CIFAR image by. Direction and
    h are the whole batch's: batch norm mixes its rows, so F of one row alone has no derivative.
    """
    if derivative == "exact":
        return penalty(_exact(step, score))
    return _by_difference(step, score, penalty, probe)


def _exact(step: Step, score: Score) -> Tensor:
    if not step.x.requires_grad:
        step.x = step.x.detach().requires_grad_(True)
    if not step.classifier.compiled:
        return input_gradient(lambda x: score(step.logits), step.x, create_graph=True)[0]
    with batch_norm.replaced(step.classifier, batch_norm.noting):
        torch.manual_seed(step.seed)
        together = step.classifier.fast(logits_and_gradient)
        logits, gradient, moments = together(step.classifier, step.x.detach(), score)
    if not step.asked:  # this pass is the recorded one
        step.logits = logits
        batch_norm.record_noted(step.classifier, moments)
    return gradient


def logits_and_gradient(classifier: Classifier, x: Tensor, score: Score) -> tuple[Tensor, Tensor, list[Any]]:
    """Logits, d(sum of score)/dx and batch norm's moments, as one function that can be compiled whole.

    Compiled code cannot be differentiated twice, but code that holds a derivative can be compiled, as
    long as it changes nothing in place: batch norm layers must be under `batch_norm.noting`.
    """

    def scored(x: Tensor) -> tuple[Tensor, tuple[Tensor, list[Any]]]:
        logits = classifier.logits(x)
        return score(logits).sum(), (logits, batch_norm.noted(classifier))

    gradient, (logits, moments) = torch.func.grad(scored, has_aux=True)(x)
    return logits, gradient, moments


def _by_difference(step: Step, score: Score, penalty: PenaltyOf, probe: float) -> Tensor:
    if step.classifier.reduced_precision:
        raise SpecError(
            "Finite differences need float32: bfloat16 rounds the small step away. Set precision=float32, or "
            "derivative=exact."
        )
    x = step.x.detach().requires_grad_(True)
    here, gradient = _differentiated(score(step.glance(x)).sum(), x, step.classifier)
    gradient.requires_grad_(True)
    value = penalty(gradient)
    (v,) = torch.autograd.grad(value, gradient)
    value = value.detach()
    longest = processes.largest(v.flatten(1).norm(dim=1).amax().item() if len(v) else 0.0)
    if longest == 0:  # nothing to penalise: inside a dead zone, or no gradient at all
        return value
    h = probe / longest
    moved = x.detach() + h * v
    if step.asked:  # the second of several penalties: the loss's pass is taken
        ahead, _ = _differentiated(score(step.glance(moved)).sum(), None, step.classifier)
    else:
        step.point = moved
        ahead = score(step.logits).sum()
    slope = (ahead - here) / h
    return value + (slope - slope.detach())


def _differentiated(value: Tensor, x: Tensor | None, classifier: Classifier) -> tuple[Tensor, Tensor]:
    """The same number with its parameter gradients already taken, so that the graph behind it can go; and dvalue/dx."""
    wanted = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    asked = wanted if x is None else [*wanted, x]
    gradients = torch.autograd.grad(value, asked, materialize_grads=True)
    known = _Differentiated.apply(value.detach(), gradients[: len(wanted)], *wanted)  # pyright: ignore
    return known, gradients[-1]


class _Differentiated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        return None, None, *(outer * gradient for gradient in ctx.gradients)
