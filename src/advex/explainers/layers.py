"""Layers with a spatial output: which of them a class activation map looks at, and derivatives by their output."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advex.errors import InputError
from advex.explainers.maps import Attribution, AttributionRequest
from advex.explainers.outputs import output
from advex.layers import derivatives, listening

AUTO = "auto"

# How maps of one, two and three spatial axes are enlarged, by the number of axes of x.
_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def map_of_layer(request: AttributionRequest, layer: str, formula: Callable[[Tensor, Tensor], Tensor]) -> Attribution:
    """The map formula(A, g) of a layer's output A and the explained output's derivative g by it, enlarged to x.

    formula: takes both as [rows, channels, *places], and answers [rows, *places]. layer: see `layer_gradient`.
    Raises InputError for inputs without places.
    """
    maps, flat = [], []

    def run(rows: slice) -> None:
        nonlocal layer
        layer, activations, gradient = layer_gradient(request, rows, layer)
        maps.append(enlarged(formula(activations, gradient), request.x[rows]))
        slope = gradient.detach().flatten(1)
        flat.append(~slope.any(dim=1) | ~slope.isfinite().all(dim=1))

    check_places(request.x)
    request.passes(run, len(request.x))
    return Attribution(map=torch.cat(maps), flat=torch.cat(flat), chosen={"layer": layer})


def check_places(x: Tensor) -> None:
    """Raise InputError unless inputs x [n, *shape] have places: axes after that of their channels."""
    if x.ndim not in _MODES:
        shape = tuple(x.shape[1:])
        raise InputError(f"A map of a layer needs pictures, not inputs of shape {shape}.")


def enlarged(values: Tensor, x: Tensor) -> Tensor:
    """Values of a layer's places [n, *places] at those of x, interpolated linearly, in all channels: like x."""
    return interpolate(values[:, None], size=x.shape[2:], mode=_MODES[x.ndim], align_corners=False).expand(x.shape)


def layer_gradient(request: AttributionRequest, rows: slice, layer: str = AUTO) -> tuple[str, Tensor, Tensor]:
    """d output / d A for the output A of a layer: (the layer's name, A, the derivative), [rows, channels, *places].

    layer: a name among `classifier.named_modules()` (the leading `network.` may be left out), of which the last call
    counts, or "auto": see `_last_layer`. One forward pass; automatic choices may need more, and do where
    derivatives are to be differentiated. Raises InputError where there is no such layer.
    """
    if layer == AUTO:
        layer, answer, slope = _last_layer(request, rows)
        if not request.create_graph:
            return layer, as_places(answer, request.x[rows]), as_places(slope, request.x[rows])
    x, heard = request.x[rows], []
    hear = partial(_hear, heard, x, tokens=True, cut=not request.create_graph, most=None)
    with torch.enable_grad(), listening(request.classifier, hear, [layer]):
        value = output(request.classifier, x, request.target[rows], request.of)
    if not heard:
        raise InputError(f"The output of layer '{layer}' is not spatial: a map needs [n, channels, height, width].")
    name, answer = heard[-1]
    (slope,) = derivatives(value, [answer], create_graph=request.create_graph)
    return name, as_places(answer, x), as_places(slope, x)


def _last_layer(request: AttributionRequest, rows: slice) -> tuple[str, Tensor, Tensor]:
    """The last layer before the head with a value per channel and place that the whole answer goes through.

    With its output held constant, the answer does not depend on the input: it is neither a summand beside a shortcut
    nor a branch that does not decide. Where layers answer in tokens [n, tokens, dim], it is the last normalisation
    whose patch tokens still take part in the output (those after the last attention do not, where the head reads the
    class token alone).

    All outputs are held constant at once: the answer's gradient is then zero but in those it depends on directly. Where
    these are several, the latest is no longer held in another forward pass, until there is one.
    Returns its name, its answer and the output's derivative by that. Raises InputError where there is no such layer.
    """
    x, most = request.x[rows].detach().requires_grad_(True), None
    names, last = [], []
    while True:
        heard: list[tuple[str, Tensor]] = []
        hear = partial(_hear, heard, x, tokens=False, cut=True, most=most)
        with torch.enable_grad(), listening(request.classifier, hear):
            value = output(request.classifier, x, request.target[rows], request.of)
        around, *slopes = derivatives(value, [x, *(answer for _, answer in heard)])
        direct = [i for i, slope in enumerate(slopes) if as_places(slope, x).any()]
        if not names:
            names, last = [name for name, _ in heard], [heard[i][0] for i in direct]
        if heard and not direct and not around.any():
            return *heard[-1], slopes[-1]
        if direct and heard[direct[-1]][1].ndim != x.ndim:
            return *heard[direct[-1]], slopes[direct[-1]]
        direct = [i for i in direct if heard[i][1].ndim == x.ndim]
        if not direct or around.any():
            raise InputError(_no_layer(last, names))
        same = [i for i in direct if heard[i][1] is heard[direct[-1]][1]]  # a container passes its last layer's on
        if same == direct and names[same[-1]] not in names[same[-1] + 1 :]:  # a name stands for the layer's last call
            return *heard[same[-1]], slopes[same[-1]]
        most = same[0]


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


def _hear(
    heard: list[tuple[str, Tensor]],
    x: Tensor,
    name: str,
    module: nn.Module,
    answer: Tensor,
    *,
    tokens: bool,
    cut: bool,
    most: int | None,
) -> Tensor | None:
    """Keep in `heard` what the layers that may be looked at answer to x, in order: (name, answer).

    tokens: those of any layer, not of normalisations alone. cut: derivatives go no further back than to an answer with
    places on axes of its own, so that no graph of the layers before is kept. most: calls that are heard; None: all.
    """
    if len(heard) == most or len(answer) != len(x) or not has_places(answer, x):
        return None
    if answer.ndim != x.ndim and not tokens:
        if "norm" in type(module).__name__.lower():
            heard.append((name, answer))
        return answer
    if cut and not (heard and heard[-1][1] is answer):  # else a container passes its last layer's answer on
        answer = answer.detach().requires_grad_(True).clone()  # a copy, which may be written into
    heard.append((name, answer))
    return answer


def _no_layer(last: list[str], names: list[str]) -> str:
    if not names:
        why = "with a spatial output (channels on axis 1, or a square of tokens)"
    else:
        each = " and ".join(f"'{name}'" for name in last) or "none"
        why = f"that the whole output passes through: at the end {each} each contribute a part"
    return f"The network has no layer {why}. Choose one with layer=..., or use another explainer."
