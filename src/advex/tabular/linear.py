"""The linear classifier that withstands small changes best, by its closed form instead of a search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

MOST_STEPS = 1000  # of each stage
_ROUNDED = (
    1e-2,
    1e-3,
    1e-4,
)  # |t| as sqrt(t^2 + s^2) - s: the scale s of each stage, which starts where the last ended


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """weight: [classes, d]. bias: [classes]. steps: of L-BFGS. converged: no step lowered the loss any further."""

    weight: np.ndarray
    bias: np.ndarray
    steps: int
    converged: bool


def fit_linear(
    x: np.ndarray, y: np.ndarray, classes: int, *, epsilon: float, weight_decay: float, bias: bool = True
) -> LinearFit:
    """The minimum, by L-BFGS from zero, of the mean robust cross-entropy and weight_decay / 2 ||W||^2.

    The cross-entropy of a row under the worst LINF change of size epsilon: with logits z,

        log sum_j exp(z_j - z_y + epsilon ||w_j - w_y||_1),

    exactly that of two classes (Chalasani et al. 2020, Eq. 7, without a box), an upper bound for more.
    x: [n, d] float64. y: [n] classes. bias: whether there is one.
    """
    shape = (classes, x.shape[1])
    rows, own = np.arange(len(x)), np.eye(classes)[y]

    def loss(parameters: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
        weight, offset = parameters[classes:].reshape(shape), parameters[:classes]
        logits = x @ weight.T + offset
        logits -= logits[rows, y][:, None]
        if epsilon:
            between = weight[None] - weight[:, None]  # [y, j]: w_j - w_y
            size = np.sqrt(between**2 + scale**2)
            logits += epsilon * (size - scale).sum(axis=2)[y]
        most = logits.max(axis=1, keepdims=True)
        shares = np.exp(logits - most)
        sums = shares.sum(axis=1, keepdims=True)
        shares /= sums * len(x)
        slope = shares - own / len(x)
        gradient = slope.T @ x + weight_decay * weight
        if epsilon:
            pull = epsilon * (own.T @ shares)[:, :, None] * between / size
            gradient += pull.sum(axis=0) - pull.sum(axis=1)
        value = (np.log(sums) + most).mean() + weight_decay / 2 * (weight**2).sum()
        return value, np.concatenate([slope.sum(axis=0) * bias, gradient.ravel()])

    parameters, steps, converged = np.zeros(classes * (1 + shape[1])), 0, False
    for scale in _ROUNDED if epsilon else _ROUNDED[-1:]:
        options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": 1e-9, "gtol": 1e-5}
        optimum = minimize(loss, parameters, (scale,), "L-BFGS-B", jac=True, options=options)
        parameters, steps, converged = optimum.x, steps + int(optimum.nit), bool(optimum.success)
    return LinearFit(
        weight=parameters[classes:].reshape(shape), bias=parameters[:classes], steps=steps, converged=converged
    )
