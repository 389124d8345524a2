"""Batch norm in training mode, where one step makes several passes or several processes share one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from advex import processes
from advex.errors import SpecError

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
def by_running_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch norm layers use their running statistics, whatever mode the network is in."""
    training = [layer for layer in layers(module) if layer.training]
    try:
        for layer in training:
            layer.training = False
        yield
    finally:
        for layer in training:
            layer.training = True


@contextlib.contextmanager
def replaced(
    module: nn.Module,
    forward: Callable[[_BatchNorm, Tensor], Tensor],
) -> Iterator[None]:
    """Inside, `forward(layer, x)` is what batch norm layers do.

    Raises SpecError for a layer that is no plain batch norm: what it does is not known here.
    """
    before = [(layer, layer.__dict__.get("forward")) for layer in layers(module)]
    for layer, _ in before:
        if type(layer).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            raise SpecError(
                f"The network's {type(layer).__name__} overrides forward, so it cannot be trained with "
                "compiled penalties or in several processes: use compiled=false and one process, or torch's "
                "batch norm."
            )
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
    momentum = 0.0 if layer.momentum is None else layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:  # a plain mean over all batches
            momentum = 1 / layer.num_batches_tracked.item()
    mean, variance = moments
    layer.running_mean.lerp_(mean.to(layer.running_mean), momentum)
    layer.running_var.lerp_(variance.to(layer.running_var), momentum)


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def synchronised(layer: _BatchNorm, x: Tensor) -> Tensor:
    """What a batch norm layer does when its batch is spread over all processes: the moments are of the whole.

    x: this process's rows [n, channels, ...], at least one; processes may have different numbers of them.
    Differentiable to any order, across the processes. Computed in float32 where x is less precise.
    """
    if not layer.training:
        return type(layer).forward(layer, x)
    axes = _axes(x)
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    own = precise.mean(dim=axes)
    centred = precise - _per_channel(own, x)
    elements = own.new_tensor([x.numel() // x.shape[1]])
    everyones = processes.gathered(torch.cat([own, centred.square().mean(dim=axes), elements]))
    means, variances, counts = everyones.tensor_split([len(own), 2 * len(own)], dim=1)
    # Variance within the shares and between their means (Chan, Golub and LeVeque 1979): nothing cancels.
    total = counts.detach().sum()
    weights = counts.detach() / total
    mean = (weights * means).sum(dim=0)
    variance = (weights * (variances + (means - mean).square())).sum(dim=0)
    record(layer, (mean.detach(), (variance * total / (total - 1)).detach()))
    scale = torch.rsqrt(variance + layer.eps)
    if layer.affine:
        scale = scale * layer.weight
    shift = (own - mean) * scale
    if layer.affine:
        shift = shift + layer.bias
    return torch.addcmul(_per_channel(shift, x), centred, _per_channel(scale, x)).to(x.dtype)


@contextlib.contextmanager
def noting(module: nn.Module) -> Iterator[None]:
    """Inside, layers in training mode change nothing in place: what they would record is for `noted` to take.

    Only so can a compiler trace a pass together with its input gradient. Raises SpecError as `replaced` does.
    """
    with replaced(module, _note):
        try:
            for layer in layers(module):
                layer.notes = []  # pyright: ignore[reportArgumentType]
            yield
        finally:
            for layer in layers(module):
                layer.__dict__.pop("notes", None)


def noted(module: nn.Module) -> list[list[Moments]]:
    """Of each layer, in the order of `layers`, the moments of its passes in training mode, which are then cleared."""
    taken = [list(layer.notes) for layer in layers(module)]  # pyright: ignore
    for layer in layers(module):
        layer.notes.clear()  # pyright: ignore
    return taken


def record_noted(module: nn.Module, moments: list[list[Moments]]) -> None:
    """Move the running statistics by what `noted` gave."""
    for layer, passes in zip(layers(module), moments, strict=True):
        for each in passes:
            record(layer, each)


def _note(layer: _BatchNorm, x: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    result = batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps)
    # bfloat16 has no digits to spare for running statistics: torch's own pass takes them in float32 too.
    precise = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, dim=_axes(x), correction=1)
    layer.notes.append((mean, variance))  # pyright: ignore
    return result
