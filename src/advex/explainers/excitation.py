"""Excitation backpropagation (Zhang et al. 2016): the class's unit of probability, handed down to what excites it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from advex.errors import InputError
from advex.explainers.layers import AUTO, as_places, check_places, enlarged, layer_gradient
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.outputs import output
from advex.layers import derivatives, listening
from advex.reach import POOLS, has_rescale_rule

# Layers with weights; and steps that hand on what they get as it is, beside the activations with a rule for DeepLift.
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
# Functions that add up what they get: two parts, the second with a sign, or all places.
_PARTS = {"add": 1, "__add__": 1, "__radd__": 1, "add_": 1, "__iadd__": 1,
          "sub": -1, "__sub__": -1, "sub_": -1, "__isub__": -1}  # fmt: skip
_PLACES = {"sum", "mean", *(f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3))}


@explainer(
    "excitation", cites="zhang2016 Eq. 4-10", shows="regions", looks_at="layer",
    examples=("layer=conv,contrastive=true", "layer=conv,contrastive=true,contrast_layer=conv"),
)  # fmt: skip
class Excitation(AttributionMethod):
    """The probability that a walk from the class's logit down to a layer ends at a location.

    Every unit hands its chance on to its inputs, in proportion to input times positive weight, and every sum (of the
    branches of a residual block, of the places of a mean) to those of its parts that are positive. The map adds up to
    1; `completeness` is what it misses that by: where nothing excites a unit, where ways lead around the layer, and
    where the network has steps without a rule (activations called as functions, but for ReLU; products; softmax).
    layer: as for `grad_cam`. contrastive: less the chances by the opposite of the class's weights, where more than zero
    remains. contrast_layer: a layer between, of whose units only those with more than zero go on (right below the
    class's weights these are all that the class excites); auto: none.
    Raises InputError where inputs of a layer with weights are negative: then name a later layer.
    """

    layer: str = AUTO
    contrastive: bool = False
    contrast_layer: str = AUTO

    def attribute(self, request: AttributionRequest) -> Attribution:
        check_places(request.x)
        layer, maps, sums = layer_gradient(request, slice(0, 1), self.layer)[0], [], []

        def run(rows: slice) -> None:
            chances = self._chances(request, rows, layer)
            x = request.x[rows]
            maps.append(enlarged(chances, x) * (chances[0].numel() / x[0].numel()))
            sums.append(chances.flatten(1).sum(dim=1))

        request.passes(run, len(request.x))
        values, error = torch.cat(maps), None if self.contrastive else torch.cat(sums) - 1
        flat = request.blind(~values.flatten(1).any(dim=1))
        return Attribution(map=values, completeness=error, flat=flat, chosen={"layer": layer})

    @torch.enable_grad()
    def _chances(self, request: AttributionRequest, rows: slice, layer: str) -> Tensor:
        """[rows, *places]: the chances p of a layer's units, summed over channels.

        What is handed down is q = p / activation: its rule at sums, means, maxima and ReLUs is that of derivatives.
        """
        between = layer if self.contrast_layer == AUTO else self.contrast_layer
        last, given = None, torch.zeros(())
        for sign in (1, -1) if self.contrastive else (1,):
            ends, middles = [], []
            with (
                _rules(request.classifier, last) as called,
                listening(request.classifier, partial(_hear, ends, cut=True), [layer]),
                listening(request.classifier, partial(_hear, middles, cut=False), [between]),
            ):
                value = output(request.classifier, request.x[rows], request.target[rows], "logit")
            if not middles or not middles[-1].requires_grad:
                raise InputError(f"The contrast layer '{between}' does not come after the layer '{layer}'.")
            end, middle, last = ends[-1], middles[-1], called[-1] if called else None
            unit = torch.where(value == 0, 0.0, 1 / value).detach()
            (slope,) = derivatives(value * unit, [middle], keep=True)
            given = given + sign * slope
        if self.contrastive and self.contrast_layer != AUTO:
            given = torch.where(middle * given > 0, given, 0.0)
        (slope,) = derivatives(middle * given, [end])
        chances = as_places((end * slope).detach(), request.x[rows]).sum(dim=1)
        return chances.relu() if self.contrastive else chances


def _hear(heard: list[Tensor], name: str, module: nn.Module, answer: Tensor, *, cut: bool) -> Tensor:
    """Keep what a layer answers. cut: derivatives go no further back."""
    answer = answer.detach().requires_grad_(True).clone() if cut else answer  # a copy, which may be written into
    heard.append(answer)
    return answer


@contextlib.contextmanager
def _rules(network: nn.Module, opposite: nn.Module | None) -> Iterator[list[nn.Module]]:
    """Inside, derivatives of answers are quotients q of chances and activations; yields layers with weights, as called.

    opposite: a layer whose weights count with the opposite sign.
    """
    called: list[nn.Module] = []

    def hook(name: str, module: nn.Module, inputs: tuple[Any, ...], answer: Tensor) -> Tensor | None:
        x = inputs[0] if inputs else None
        if not isinstance(x, Tensor) or not x.requires_grad:
            return None
        if not isinstance(module, _WEIGHTED):
            return _through(x, answer)
        if (x < 0).any():
            raise InputError(
                f"Excitation backpropagation needs non-negative activations, but the input of layer '{name}' "
                "has negative values: choose a later layer. Networks whose activations are negative "
                "throughout cannot be explained this way."
            )
        called.append(module)
        weight = (-module.weight if module is opposite else module.weight).clamp_min(0)
        excited = linear(x, weight) if isinstance(module, nn.Linear) else module._conv_forward(x, weight, None)
        return _through(excited, answer)

    with _Sums(), contextlib.ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, _WEIGHTED + _NORMS) or (has_rescale_rule(module) and type(module) not in POOLS):
                hooks.callback(module.register_forward_hook(partial(hook, name)).remove)
        yield called


class _Sums(TorchFunctionMode):
    """Inside, sums hand their chance on to the positive ones of their parts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("rsub", "__rsub__"):  # number - x
            func, name, args = torch.sub, "sub", (torch.as_tensor(args[1]), args[0])
        if name in _PLACES or name in _PARTS:
            named = (*((kwargs.pop("input"),) if "input" in kwargs else ()), *args)
            args = (*named, kwargs.pop("other")) if "other" in kwargs else named
        if not any(isinstance(part, Tensor) and part.requires_grad for part in args):
            return func(*args, **kwargs)
        if name in _PLACES:
            return _through(func(args[0].clamp_min(0), *args[1:], **kwargs), func(*args, **kwargs))
        if name not in _PARTS:
            return func(*args, **kwargs)
        changed = args[0] if name.startswith("__i") or name.endswith("b_") or name.endswith("d_") else None
        first, second = (torch.as_tensor(part) if part is not changed else part.clone() for part in args[:2])
        second = _PARTS[name] * kwargs.get("alpha", 1) * second
        answer = _through(first.clamp_min(0) + second.clamp_min(0), first + second)
        return answer if changed is None else changed.copy_(answer)


class _Handed(torch.autograd.Function):
    """The answer; derivatives by the carrier are those by the answer, times answer / carrier."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, answer: Tensor) -> Tensor:
        ctx.save_for_backward(torch.where(carrier == 0, 0.0, answer / carrier))
        return answer.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return slopes[0] * ctx.saved_tensors[0], None


def _through(carrier: Tensor, answer: Tensor) -> Tensor:
    """The answer, of which the carrier has all chances: q of the carrier is q of the answer times answer / carrier."""
    return _Handed.apply(carrier, answer.detach())  # pyright: ignore
