"""Whether a network's gradient is the slope of what it answers: finite differences beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advex import randomness
from advex.classifier import Classifier
from advex.goals import Goal
from advex.layers import input_gradient

DIRECTIONS = 4
_STEPS = (1e-4, 1e-3, 1e-2)  # shares of the box's width
_ROUNDING = 0.05  # share of the difference that rounding may spoil
_TINY, _FEW = 1e-6, 500  # where a piecewise constant network answers the same to the last digit


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """How far gradients are from differences, row by row.

    error: [n], the root mean square of (difference - gradient) in random directions, relative to that of the
    differences; infinite of a gradient that is not finite; NaN where nothing can be said: no digits, or nothing changes
    and no gradient says otherwise.
    constant: [n] bool, the answers around the input are the same to the last digit, while the gradient is not zero: a
    straight-through gradient.
    """

    error: Tensor
    constant: Tensor


def compare_slopes(classifier: Classifier, goal: Goal, x: Tensor, seed: int = 0) -> Slopes:
    """The gradient of the goal's loss at x [n, *shape] against symmetric differences along four random sign vectors.

    The step is the smallest of 1e-4, 1e-3 and 1e-2 of the box's width whose difference rounding does not spoil: kinks
    count little then. Of honest networks the error is at most 0.1; half of the elements cut off from the graph give
    0.7, a random gradient 1 and more.
    """
    gradient, aim = input_gradient(lambda at: goal(classifier, at), x)
    with torch.no_grad():
        logits = classifier.logits(x)
        digits = torch.finfo(torch.float32 if classifier.reduced_precision else classifier.network_dtype).eps
        noise = 4 * digits * torch.maximum(logits.abs().amax(dim=1), aim.loss.abs())
        error = torch.full_like(noise, torch.nan)
        for step in (share * classifier.width for share in _STEPS):
            differences, slopes = _along(classifier, goal, x, gradient, step, seed)
            size, own = (values.square().mean(dim=1).sqrt() for values in (differences, slopes))
            apart = (differences - slopes).square().mean(dim=1).sqrt() / size
            clear = noise / (2 * step) < _ROUNDING * torch.maximum(size, own)
            error = torch.where(error.isnan() & clear, apart, error)
        error = torch.where(gradient.flatten(1).isfinite().all(dim=1), error, math.inf)
        still = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for k in range(DIRECTIONS):
            few = randomness.uniform(x, seed, f"few {k}") < _FEW / x[0].numel()
            moved = x + _TINY * classifier.width * _signs(classifier, x, _TINY * classifier.width, seed, k) * few
            still += (classifier.logits(moved) == logits).all(dim=1)
    return Slopes(error=error, constant=gradient.flatten(1).any(dim=1) & (2 * still >= DIRECTIONS))


def _along(
    classifier: Classifier, goal: Goal, x: Tensor, gradient: Tensor, step: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Along each direction the difference of the goal's loss, per unit, and the gradient's: [n, DIRECTIONS] each."""
    differences, slopes = [], []
    for k in range(DIRECTIONS):
        direction = _signs(classifier, x, step, seed, k)
        ahead, behind = (goal(classifier, x + sign * step * direction).loss for sign in (1, -1))
        differences.append((ahead - behind) / (2 * step))
        slopes.append((gradient * direction).flatten(1).sum(dim=1))
    return torch.stack(differences, dim=1), torch.stack(slopes, dim=1)


def _signs(classifier: Classifier, x: Tensor, step: float, seed: int, k: int) -> Tensor:
    """The k-th direction: signs at random, and 0 where the box leaves no room for a step to both sides."""
    room = (x - step >= classifier.box.lower) & (x + step <= classifier.box.upper)
    return randomness.normal(x, seed, f"slope {k}").sign() * room
