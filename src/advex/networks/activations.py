"""Activations. Penalties on input gradients need a first derivative without jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advex.errors import SpecError, did_you_mean


class _HalfHuber(torch.autograd.Function):
    """Saves only x and computes the slope with one clamp: a third of the time of the composed formula."""

    @staticmethod
    def forward(x: Tensor, d: float) -> Tensor:
        u = x.clamp(0.0, 1.0 / (2.0 * d))
        # max(x, 0) - u + d u^2 is all three pieces at once.
        return torch.addcmul(x.clamp_min(0.0).sub_(u), u, u, value=d)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.d = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        (x,) = ctx.saved_tensors
        return gradient * (x * (2.0 * ctx.d)).clamp(0.0, 1.0), None  # made of torch operations: differentiable again


def half_huber_relu(x: Tensor, d: float = 1.0) -> Tensor:
    """0 for x < 0, d x^2 up to x = 1 / (2d), then x - 1 / (4d) (Woods et al. 2019, Eq. 11).

    Its derivative is clip(2 d x, 0, 1), continuous; the second derivative is 2d inside the quadratic
    part and 0 elsewhere. x: any shape.
    """
    if torch.compiler.is_compiling():
        # A compiler fuses the formula by itself, and would lose the second derivative of a custom rule.
        u = x.clamp(0.0, 1.0 / (2.0 * d))
        return x.clamp_min(0.0) - u + d * u * u
    return _HalfHuber.apply(x, d)  # pyright: ignore


class HalfHuberReLU(nn.Module):
    """Module form of `half_huber_relu`. d > 0: the acceleration of its quadratic part."""

    def __init__(self, d: float = 1.0) -> None:
        super().__init__()
        if not d > 0:
            raise SpecError(f"The half-Huber ReLU needs d > 0, not {d}.")
        self.d = float(d)

    def forward(self, x: Tensor) -> Tensor:
        return half_huber_relu(x, self.d)

    def extra_repr(self) -> str:
        return f"d={self.d:g}"


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "half_huber": HalfHuberReLU,
    "softplus": lambda: nn.Softplus(beta=10),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def activation(name: str, d: float = 1.0) -> nn.Module:
    """A new activation module by name; d only concerns `half_huber`. Raises SpecError for unknown names."""
    if name not in ACTIVATIONS:
        raise SpecError(f"There is no activation '{name}': {did_you_mean(name, ACTIVATIONS)}")
    return HalfHuberReLU(d) if name == "half_huber" else ACTIVATIONS[name]()


def check_range(what: str, value: int, low: int, high: int) -> int:
    """value, if it is a whole number in [low, high]; else SpecError. Keeps a hostile spec from eating memory."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError(f"{what} must be a whole number from {low} to {high}, not {value!r}.")
    return value


def widths_of(what: str, value: int | tuple[int, ...], count: int | None = None) -> tuple[int, ...]:
    """One or several layer widths as a checked tuple. Raises SpecError."""
    widths = value if isinstance(value, tuple) else (value,)
    if count is not None and len(widths) != count:
        raise SpecError(f"{what} needs {count} numbers such as 16-32-64, not {value!r}.")
    if len(widths) > 64:
        raise SpecError(f"{what} has {len(widths)} numbers; the limit is 64.")
    return tuple(check_range(what, width, 1, 8192) for width in widths)


def he_init(module: nn.Module) -> None:
    """Kaiming-normal convolutions and linear layers with zero biases; batch norm at 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if not layer.weight.is_meta:  # else there is nothing to fill, and the call would import torch's compiler
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
