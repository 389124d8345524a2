"""Integrated Gradients (Sundararajan, Taly and Yan 2017): gradients along the straight path from a baseline."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import PlainValidator
from torch import Tensor

from advex.errors import InputError, SpecError
from advex.explainers.maps import Attribution, AttributionRequest, DifferentiableMethod, explainer
from advex.explainers.outputs import Of, chosen_output
from advex.geometry import per_row
from advex.options import Count

Rule = Literal["midpoint", "trapezoid", "gauss_legendre", "left", "right", "published"]


def _baseline(value: Any) -> float | Tensor:
    if isinstance(value, Tensor):
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise SpecError("A baseline given as a tensor must be floating point and finite.")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SpecError(f"A baseline must be a finite number, or a tensor (from Python), not {value!r}.")
    return value


# What inputs are compared with: a number for all elements, or a tensor.
Baseline = Annotated[float | Tensor, PlainValidator(_baseline)]


@explainer("integrated_gradients", cites="sundararajan2017; chalasani2020 Eq. 13")
class IntegratedGradients(DifferentiableMethod):
    """(x - u) times the mean gradient along the path from the baseline u to x; adds up to F(x) - F(u).

    steps: gradients per example. rule: where on the path they are taken: midpoint, trapezoid (both ends
    count half), gauss_legendre, left, right, or published (chalasani2020's code: the plain mean at 1/steps,
    ..., 1 - 1/steps). baseline: a number, or a tensor that broadcasts to x: like one input, or one per example.
    of: logit, probability or loss (the cross-entropy against the class). hold_factor: where the map is differentiated,
    the factor x - u is a constant, and the way leads through the gradients alone (singh2020's code).
    The explanation's `completeness` is the error of the sum.
    """

    steps: Count = 100
    rule: Rule = "midpoint"
    baseline: Baseline = 0.0
    of: Of = "logit"
    hold_factor: bool = False

    def __post_init__(self) -> None:
        least = 2 if self.rule in ("trapezoid", "published") else 1
        if self.steps < least:
            raise SpecError(f"Integrated Gradients by the rule {self.rule} needs steps >= {least}, not {self.steps}.")

    def attribute(self, request: AttributionRequest) -> Attribution:
        u = spread(self.baseline, request.x)
        difference = request.x - u
        alpha, weight = (torch.as_tensor(each).to(request.x) for each in quadrature(self.rule, self.steps))

        def points(i: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return torch.addcmul(u[i], per_row(alpha[k], u), difference[i]), per_row(weight[k], u)

        total, outputs = request.gradients(points, len(alpha))
        values = (difference.detach() if self.hold_factor else difference) * total
        change = _change(request, u, outputs, alpha)
        return Attribution(map=values, completeness=values.detach().flatten(1).sum(dim=1) - change)


def quadrature(rule: Rule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points alpha in [0, 1], ascending, and weights that sum to 1, both float64.

    >>> quadrature("trapezoid", 3)
    (array([0. , 0.5, 1. ]), array([0.25, 0.5 , 0.25]))
    """
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
        return (1 + nodes) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    if rule == "published":
        return np.arange(1, steps) / steps, np.full(steps - 1, 1 / (steps - 1))
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


def _change(request: AttributionRequest, u: Tensor, outputs: Tensor, alpha: Tensor) -> Tensor:
    """F(x) - F(u): [n]. The ends that the path does not visit cost one more pass, without derivatives."""
    ends = {1.0: request.x, 0.0: u}
    known = {float(alpha[k]): outputs[:, k] for k in (0, -1)}
    missing = {at: x for at, x in ends.items() if at not in known}
    if missing:
        logits = request.logits(torch.cat([x.detach() for x in missing.values()])).split(len(u))
        known |= {at: chosen_output(each, request.target, request.of) for at, each in zip(missing, logits, strict=True)}
    return known[1.0] - known[0.0]


def spread(baseline: float | Tensor, x: Tensor) -> Tensor:
    """The baseline in the shape of x [n, *shape]. Raises InputError where it does not broadcast."""
    try:
        return torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand(x.shape)
    except RuntimeError:
        shapes = f"{tuple(torch.as_tensor(baseline).shape)} does not broadcast to inputs {tuple(x.shape)}"
        raise InputError(f"The baseline of shape {shapes}: give one for all inputs, or one per example.") from None
