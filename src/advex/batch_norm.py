"""Batch norm in training mode, where one step makes several passes or several processes share one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from advex import processes

Moments = tuple[Tensor, Tensor]  # mean [channels] and unbiased variance [channels] of one layer's inputs


def layers(module: nn.Module) -> list[_BatchNorm]:
    """The batch norm layers inside a module, in the order of `modules()`."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


@contextlib.contextmanager
def unrecorded(module: nn.Module) -> Iterator[None]:
    """Inside, passes in training mode use their batch's statistics and leave the running ones as they are."""
    tracking = [layer for layer in layers(module) if layer.track_running_stats]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True


@contextlib.contextmanager
def replaced(module: nn.Module, forward: Callable[[_BatchNorm, Tensor], Tensor]) -> Iterator[None]:
    """Inside, `forward(layer, x)` is what batch norm layers do."""
    before = [(layer, layer.__dict__.get("forward")) for layer in layers(module)]
    try:
        for layer, _ in before:
            layer.__dict__["forward"] = forward.__get__(layer)
        yield
    finally:
        for layer, former in before:
            if former is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.__dict__["forward"] = former


@torch.no_grad()
def record(layer: _BatchNorm, moments: Moments) -> None:
    """Move the running statistics towards a batch's moments, as a pass of `layer` would have done."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    momentum = 1 / layer.num_batches_tracked.item() if layer.momentum is None else layer.momentum
    mean, variance = moments
    layer.running_mean.lerp_(mean.to(layer.running_mean), momentum)
    layer.running_var.lerp_(variance.to(layer.running_var), momentum)


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def synchronised(layer: _BatchNorm, x: Tensor) -> Tensor:
    """What a batch norm layer does when its batch is spread over all processes: the moments are of the whole.

    x: this process's rows [n, channels, ...]. Differentiable to any order, across the processes.
    """
    if not layer.training:
        return type(layer).forward(layer, x)
    axes = _axes(x)
    elements = x.numel() // x.shape[1]
    count = processes.total(torch.tensor([float(elements)], dtype=x.dtype, device=x.device)).detach()
    mean = processes.total(x.sum(dim=axes)) / count
    centred = x - _per_channel(mean, x)
    variance = processes.total(centred.square().sum(dim=axes)) / count
    record(layer, (mean.detach(), (variance * count / (count - 1)).detach()))
    scale = torch.rsqrt(variance + layer.eps)
    if layer.affine:
        scale = scale * layer.weight
    result = centred * _per_channel(scale, x)
    return result + _per_channel(layer.bias, x) if layer.affine else result


def noting(layer: _BatchNorm, x: Tensor) -> Tensor:
    """What a batch norm layer does, but its moments are left for `noted` and nothing is changed in place.

    Only so can a compiler trace a pass and its derivatives whole.
    """
    if not layer.training:
        return type(layer).forward(layer, x)
    variance, mean = torch.var_mean(x, dim=_axes(x), correction=1)
    layer.noted = mean.detach(), variance.detach()  # pyright: ignore[reportArgumentType]
    return batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps)


def noted(module: nn.Module) -> list[Moments]:
    """What the layers in training mode noted in the last pass, in the order of `layers`; they forget it."""
    taken = []
    for layer in layers(module):
        if layer.training:
            taken.append(layer.noted)
            layer.noted = None  # pyright: ignore[reportArgumentType]
    return taken


def record_noted(module: nn.Module, moments: list[Moments]) -> None:
    """Move the running statistics by what `noted` gave."""
    for layer, one in zip([layer for layer in layers(module) if layer.training], moments, strict=True):
        record(layer, one)
