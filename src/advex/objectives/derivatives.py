"""Penalties on input gradients, and two ways to what they mean for the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from advex import batch_norm, processes
from advex.classifier import Classifier, input_gradient
from advex.errors import SpecError
from advex.layers import derivatives
from advex.objectives.step import Step

Derivative = Literal["exact", "finite_difference"]
# (logits [n, classes], the same at x as constants, by which choices such as "the best other class" are made) -> [n]
Score = Callable[[Tensor, Tensor], Tensor]
PenaltyOf = Callable[[Tensor], Tensor]  # input gradient [n, *shape] -> []

COMPILER = "inductor"  # torch's name of what `torch.compile` compiles with


def of_gradient(step: Step, score: Score, penalty: PenaltyOf, *, derivative: Derivative, probe: float) -> Tensor:
    """penalty(g) [] at g = d(sum of score)/dx, with a gradient in the parameters.

    derivative: "exact" differentiates twice. "finite_difference" holds g constant: the parameter
    gradient of penalty(g) is that of the derivative of F = sum of score along v = dpenalty/dg,

        dpenalty/dtheta = <v, dg/dtheta> = d/dtheta d/dh F(x + h v)  at h = 0,

    taken as (F(x + h v) - F(x)) / h: no second derivative, and no more memory than a step without
    penalty. Two passes suffice: one backward pass at x gives g and dF/dtheta, and the pass at x + h v is
    the one the loss is taken of. probe: L2 length, in data space, by which the row that moves farthest
    is moved. Direction and h are the whole batch's: batch norm mixes its rows, so F of one row alone has
    no derivative.

    Raises SpecError where floats are too coarse for a finite difference, or a network cannot be compiled.
    """
    if derivative == "finite_difference":
        return _by_difference(step, score, penalty, probe)
    return penalty(_compiled_gradient(step, score) if step.classifier.compiled else _gradient(step, score))


def _gradient(step: Step, score: Score) -> Tensor:
    if step.has_logits and not step.x.requires_grad:  # that pass was made without this derivative: make another
        x = step.x.detach().requires_grad_(True)
        logits = step.glance(x)
        return input_gradient(lambda x: score(logits, logits.detach()), x, create_graph=True)[0]
    if not step.x.requires_grad:
        step.x = step.x.detach().requires_grad_(True)
    return input_gradient(lambda x: score(step.logits, step.logits.detach()), step.x, create_graph=True)[0]


def _compiled_gradient(step: Step, score: Score) -> Tensor:
    from torch._dynamo.exc import TorchDynamoException

    together = step.classifier.fast(logits_and_gradient, fullgraph=True, backend=_differentiable)
    try:
        with batch_norm.noting(step.classifier):
            step.rewind()
            logits, gradient, moments = together(step.classifier, step.x, score)
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).splitlines()[0].rstrip(".")
        raise SpecError(
            f"The network cannot be compiled together with its input gradient: {reason}. Train with compiled=false, or "
            "with derivative=finite_difference."
        ) from error
    if not step.has_logits:  # this pass is the recorded one
        step.logits = logits
        batch_norm.record_noted(step.classifier, moments)
    return gradient


def logits_and_gradient(
    classifier: Classifier, x: Tensor, score: Score
) -> tuple[Tensor, Tensor, list[list[batch_norm.Moments]]]:
    """Logits, d(sum of score)/dx and batch norm's moments, as one function that can be compiled whole.

    Compiled code cannot be differentiated twice, but code that holds a derivative can be compiled, as
    long as it changes nothing in place: call it inside `batch_norm.noting`.
    """

    def scored(x: Tensor) -> tuple[Tensor, tuple[Tensor, list[list[batch_norm.Moments]]]]:
        logits = classifier.logits(x)
        return score(logits, logits.detach()).sum(), (logits, batch_norm.noted(classifier))

    gradient, (logits, moments) = torch.func.grad(scored, has_aux=True)(x)
    return logits, gradient, moments


def _differentiable(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """A compiler whose result can be differentiated: it refuses what would lose that derivative without a word."""
    for part in graph.modules():
        nodes = part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ()
        if any(str(node.target) == "autograd_function_apply" for node in nodes):
            raise SpecError("it has a torch.autograd.Function, whose second derivative is lost in compiled code")
    return torch._dynamo.lookup_backend(COMPILER)(graph, inputs)


def _by_difference(step: Step, score: Score, penalty: PenaltyOf, probe: float) -> Tensor:
    if step.classifier.reduced_precision:
        raise SpecError(
            "Finite differences need all digits of float32: bfloat16 and TF32 round the small step away. Set "
            "precision=float32 (in Python `classifier.accelerated(tf32=False)`), or derivative=exact."
        )
    x = step.x.detach().requires_grad_(True)
    logits = step.glance(x)
    at_x = logits.detach()
    here, gradient = _differentiated(score(logits, at_x).sum(), x, step.classifier)
    gradient.requires_grad_(True)
    value = penalty(gradient)
    weight = len(x) * processes.count() / step.rows  # of this process's mean in the mean over all rows
    (v,) = derivatives(weight * value, [gradient])
    lengths = torch.linalg.vector_norm(v.flatten(1), dim=1, dtype=torch.float64)  # squares underflow in float32
    longest = processes.largest(lengths.amax().item())
    if longest == 0:  # nothing to penalise: inside a dead zone, or no gradient at all
        return value.detach()
    h = probe / longest
    moved = x.detach() + h * v
    if step.has_logits:  # the second of several penalties: the loss's pass is taken
        moved.requires_grad_(True)
        ahead, _ = _differentiated(score(step.glance(moved), at_x).sum(), moved, step.classifier)
    else:
        step.point = moved
        ahead = score(step.logits, at_x).sum()
    slope = (ahead - here) / (h * weight)
    return value.detach() + (slope - slope.detach())


def _differentiated(value: Tensor, x: Tensor, classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Zero, but with the parameter gradients of `value`, already taken so that its graph can go; and dvalue/dx."""
    wanted = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    *gradients, gradient = derivatives(value, [*wanted, x])
    terms = [((p - p.detach()) * slope).sum() for p, slope in zip(wanted, gradients, strict=True)]
    return torch.stack(terms).sum(), gradient
