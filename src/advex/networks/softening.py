"""Smooth activations in the place of those with kinks, for a while (Dombrowski et al. 2019)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode

from advex.errors import InputError
from advex.networks.activations import HalfHuberReLU

Softening = Literal["softplus"]


class KinkError(InputError):
    """A network has a kink that is no module, and so cannot be softened."""


class NotTwiceError(KinkError):
    """An operation of a network has no second derivative in torch."""


# max(x, 0) made smooth.
Ramp = Callable[[Tensor], Tensor]


def _with_slope(module: Any, x: Tensor, ramp: Ramp) -> Tensor:
    slope = module.negative_slope
    return slope * x + (1 - slope) * ramp(x)


def _with_slopes(module: Any, x: Tensor, ramp: Ramp) -> Tensor:
    slope = module.weight if module.weight.numel() == 1 else module.weight.reshape(-1, *[1] * (x.ndim - 2))
    return slope * x + (1 - slope) * ramp(x)


def _between(module: Any, x: Tensor, ramp: Ramp) -> Tensor:
    low, high = module.min_val, module.max_val
    return low + ramp(x - low) - ramp(x - high)


def _hard_sigmoid(module: Any, x: Tensor, ramp: Ramp) -> Tensor:
    return (ramp(x + 3) - ramp(x - 3)) / 6


def _shrunk(module: Any, x: Tensor, ramp: Ramp) -> Tensor:
    return ramp(x - module.lambd) - ramp(-x - module.lambd)


def _half_huber(module: Any, x: Tensor, ramp: Ramp) -> Tensor:
    return ramp(x - 1 / (4 * module.d))


# What becomes of each activation, all of which are sums of ramps; far from a kink nothing changes. ReLU6 is a Hardtanh.
_SMOOTH: dict[type[nn.Module], Callable[[Any, Tensor, Ramp], Tensor]] = {
    nn.ReLU: lambda module, x, ramp: ramp(x),
    nn.LeakyReLU: _with_slope,
    nn.PReLU: _with_slopes,
    nn.Hardtanh: _between,
    nn.Hardsigmoid: _hard_sigmoid,
    nn.Softshrink: _shrunk,
    HalfHuberReLU: _half_huber,
}
# The operations that these and other activations with kinks consist of, as functions too.
_KINKED = {
    *("relu", "leaky_relu", "prelu_kernel", "hardtanh", "threshold", "rrelu_with_noise"),
    *("hardsigmoid", "softshrink", "hardshrink"),
}


@contextlib.contextmanager
def softened(
    network: nn.Module, beta: float, kind: Softening = "softplus", *, sharper_only: bool = False
) -> Iterator[int]:
    """Inside, every activation module with a kink is smooth: softplus_beta(x) = log(1 + exp(beta x)) / beta for ReLU.

    LeakyReLU and PReLU keep their slope below 0, Hardtanh and ReLU6 their upper end. HalfHuberReLU(d) is a softplus
    about the middle of its quadratic part, x = 1/(4d), with beta = 8d at most, where it is as steep as that part.
    Modules that work in place still do. Contexts may be nested: the innermost counts. sharper_only: a HalfHuberReLU
    with 8d of at most beta stays as it is.

    Yields how many modules are smooth now, 0 if the network has no such kinks. Raises InputError for a beta that is not
    finite and above 0, and inside, when the network runs, KinkError for a kink in a function (`F.relu`).
    """
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not (math.isfinite(beta) and beta > 0):
        raise InputError(f"A softened network needs a finite beta above 0, such as 50, not {beta!r}.")
    if kind != "softplus":
        raise InputError(f"A network can only be softened with 'softplus', not with {kind!r}.")
    kinked = [module for module in network.modules() if isinstance(module, tuple(_SMOOTH))]
    spared = {each for each in kinked if sharper_only and isinstance(each, HalfHuberReLU) and 8 * each.d <= beta}
    with contextlib.ExitStack() as replaced:
        for module in kinked:
            own, smooth = partial(_trusted, module.forward), partial(_smooth, module, float(beta))
            replaced.enter_context(forward_of(module, own if module in spared else smooth))
        replaced.enter_context(forward_of(network, partial(_watched, network.forward)))
        yield len(kinked) - len(spared)


@contextlib.contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, the module answers by another function; hooks are called as ever."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward  # around nn.Module, which a ScriptModule does not let set anything
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before


def _smooth(module: nn.Module, beta: float, x: Tensor) -> Tensor:
    formula = next(formula for kind, formula in _SMOOTH.items() if isinstance(module, kind))
    in_place = getattr(module, "inplace", False)
    beta = min(beta, 8 * module.d) if isinstance(module, HalfHuberReLU) else beta
    answer = formula(module, x.clone() if in_place else x, partial(_softplus, beta=beta))
    return x.copy_(answer) if in_place else answer


def _softplus(x: Tensor, beta: float) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return softplus(x, beta=beta)
    return _Softplus.apply(x, torch.sigmoid(beta * x), beta)  # pyright: ignore


class _Softplus(torch.autograd.Function):
    """softplus_beta(x), whose slope is given: all gradients that are taken of one pass share it, and its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: Tensor, beta: float) -> Tensor:
        return softplus(x, beta=beta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


_TRUST = ContextVar("trust", default=False)  # of an activation that may consist of operations with kinks


def _trusted(forward: Callable[..., Any], x: Tensor) -> Tensor:
    token = _TRUST.set(True)
    try:
        return forward(x)
    finally:
        _TRUST.reset(token)


def _watched(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    with _Watch():
        return forward(*inputs, **named)


class _Watch(TorchDispatchMode):
    """Refuses what has a kink and is no module: a search would not see that its slope is missing there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.strip("_")
        if not _TRUST.get() and (name in _KINKED or _is_relu(name, *args, **(kwargs or {}))):
            raise KinkError(
                f"The network calls '{name}' as a function, such as F.relu, or in a module that cannot be softened. "
                "Make it a module (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6), or use soften=null "
                "and explain the probability (explainer of=probability), whose map has derivatives."
            )
        return func(*args, **(kwargs or {}))


def _is_relu(name: str, *args: Any, **named: Any) -> bool:
    """Whether an operation is max(x, 0) by another name; one whose least value is not 0 only keeps away from 0."""
    if name in ("clamp", "clamp_min"):
        low, high = (named.get(key, (*args, None, None)[place]) for place, key in enumerate(("min", "max"), 1))
        return high is None and _is_zero(low)
    return name == "maximum" and any(map(_is_zero, args))


def _is_zero(value: Any) -> bool:
    return not value.any() if isinstance(value, Tensor) else value is not None and value == 0
