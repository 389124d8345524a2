"""Layers with a spatial output: which of them a class activation map looks at, and derivatives by their output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from advex.errors import InputError
from advex.explainers.maps import AttributionRequest
from advex.explainers.outputs import output
from advex.layers import Hear, derivatives, listening

AUTO = "auto"


def layer_gradient(request: AttributionRequest, rows: slice, layer: str = AUTO) -> tuple[str, Tensor, Tensor]:
    """d output / d A for the output A of a layer: (the layer's name, A, the derivative), [rows, channels, *places].

    layer: a name among `classifier.named_modules()` (the leading `network.` may be left out), or "auto": the layer
    that answers last, before the head, with a value per channel and place, and that the output depends on (not a branch
    that is called last and does not decide). Where layers answer in tokens
    [n, tokens, dim], it is the last normalisation whose patch tokens still take part in the output (those after
    the last attention do not, where the head reads the class token alone).
    One forward pass. Raises InputError where there is no such layer.
    """
    x, heard = request.x[rows], []
    hear = _hear(heard, x, layer, cut=not request.create_graph)
    with torch.enable_grad(), listening(request.classifier, hear, None if layer == AUTO else [layer]):
        value = output(request.classifier, x, request.target[rows], request.of)
    if not heard:
        raise InputError(_nothing_heard(layer))

    def looked_at() -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, answer in reversed(heard):
            (slope,) = derivatives(value, [answer], create_graph=request.create_graph, keep=True)
            yield name, as_places(answer, x), as_places(slope, x)

    looks = looked_at()
    last = next(looks)
    return next((look for look in chain([last], looks) if look[2].any()), last)


def has_places(answer: Tensor, x: Tensor) -> bool:
    """Whether a layer's answer to x [n, channels, *shape] tells places apart: on axes 2.., or as a square of tokens."""
    tokens = answer.shape[1] if answer.ndim == 3 and x.ndim == 4 else 0
    square = tokens > 2 and tokens - math.isqrt(tokens) ** 2 in (0, 1)
    return square or (answer.ndim == x.ndim and math.prod(answer.shape[2:]) > 1)


def as_places(answer: Tensor, x: Tensor) -> Tensor:
    """A layer's answer that has places, as [n, channels, *places].

    Tokens [n, tokens, dim] become a square, without the class token in front if there is one.
    """
    if answer.ndim == x.ndim:
        return answer
    side = math.isqrt(answer.shape[1])
    return answer[:, answer.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))


def _hear(heard: list[tuple[str, Tensor]], x: Tensor, layer: str, *, cut: bool) -> Hear:
    """Keep in `heard` what the layers that may be looked at answer to x, in order: (name, answer).

    cut: derivatives go no further back than to an answer with places, so that no graph of the layers before is kept.
    """

    def hear(name: str, module: nn.Module, answer: Tensor) -> Tensor | None:
        if len(answer) != len(x) or not has_places(answer, x):
            return None
        if answer.ndim == x.ndim or layer != AUTO:
            if cut and not (heard and heard[-1][1] is answer):  # else a container passes its last layer's answer on
                answer = answer.detach().requires_grad_(True).clone()  # a copy, which may be written into
            if layer != AUTO:
                heard.clear()
            heard.append((name, answer))
        elif "norm" in type(module).__name__.lower():
            heard.append((name, answer))
        return answer

    return hear


def _nothing_heard(layer: str) -> str:
    if layer == AUTO:
        return (
            "Grad-CAM finds no layer whose output has places (channels on axis 1, or a square of tokens): name one "
            "with layer=..., or choose another map."
        )
    return f"The output of layer '{layer}' has no places that Grad-CAM could show: it needs [n, channels, h, w]."
