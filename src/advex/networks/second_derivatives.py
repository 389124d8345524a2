"""Layers whose second derivatives by the input cost no more than they must."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from advex.networks.softening import forward_of


@contextlib.contextmanager
def cheap(network: nn.Module) -> Iterator[None]:
    """Inside, the network answers as ever, to rounding, and derivatives of its input gradients are cheaper.

    torch differentiates the gradient of a convolution by the weights too where they are constants, and that slowly; and
    that of batch norm in evaluation mode as if its statistics were not. Derivatives of any order are right. Layers with
    a forward of their own, and convolutions that pad otherwise than with zeros, stay as they are.
    """
    with contextlib.ExitStack() as replaced:
        layer: Any
        for layer in network.modules():
            if type(layer).forward is _BatchNorm.forward and not layer.training and layer.running_mean is not None:
                replaced.enter_context(forward_of(layer, partial(_affine, layer)))
            elif _plain(layer):
                replaced.enter_context(forward_of(layer, partial(_convolved, layer)))
        yield


def _plain(layer: Any) -> bool:
    plain = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    return type(layer).forward in plain and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _affine(layer: Any, x: Tensor) -> Tensor:
    scale = torch.rsqrt(layer.running_var + layer.eps)
    if layer.affine:
        scale = scale * layer.weight
    shift = -layer.running_mean * scale
    if layer.affine:
        shift = shift + layer.bias
    shape = 1, -1, *[1] * (x.ndim - 2)
    return torch.addcmul(shift.reshape(shape), x, scale.reshape(shape))


def _convolved(layer: _ConvNd, x: Tensor) -> Tensor:
    if x.ndim != layer.weight.ndim or torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x)  # pyright: ignore[reportAttributeAccessIssue]
    options = layer.stride, layer.padding, layer.dilation, False, layer.output_padding, layer.groups
    return _Convolution.apply(x, layer.weight, layer.bias, options)  # pyright: ignore


def _derivatives(g: Tensor, x: Tensor, weight: Tensor, options: Any, wanted: list[bool]) -> tuple[Tensor, ...]:
    """Of a convolution whose output has the gradient g: by x, weight and bias, those that are wanted."""
    return torch.ops.aten.convolution_backward(g, x, weight, [len(weight)], *options, wanted)


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        by_x, *others = ctx.needs_input_grad[:3]
        slope = _Back.apply(g, x, weight, ctx.options) if by_x else None
        by_weights = _derivatives(g, x, weight, ctx.options, [False, *others])[1:] if any(others) else (None, None)
        return slope, *by_weights, None


class _Back(Function):
    """The gradient by x of a convolution: itself linear in g, and by the same weights."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, options: Any) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.options = options
        return _derivatives(g, x, weight, options, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        g, weight = ctx.saved_tensors
        by_g, _, by_weight, _ = ctx.needs_input_grad
        ahead = torch.convolution(gg, weight, None, *ctx.options) if by_g else None
        slope = _derivatives(g, gg, weight, ctx.options, [False, True, False])[1] if by_weight else None
        return ahead, None, slope, None
