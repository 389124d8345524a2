"""Maps that change how derivatives pass activations, through captum: DeepLift and guided backpropagation.

captum is imported when a map is made: that takes seconds, and imports matplotlib. Where its hooks do not reach, its
maps are wrong without a warning; `advex.reach` finds such steps of a network, so that these explainers can warn.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advex.errors import AdvexWarning, InputError
from advex.explainers.background import background_rows
from advex.explainers.captum_rules import Chosen, hooked, is_relu, reached
from advex.explainers.grad_cam import GradCAM
from advex.explainers.integrated_gradients import Baseline, spread
from advex.explainers.layers import AUTO
from advex.explainers.maps import ROWS, Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.outputs import Of, chosen_output
from advex.options import Count
from advex.reach import POOLS, Reach, has_rescale_rule


@explainer("deep_lift", cites="shrikumar2017 (rescale rule)")
class DeepLift(AttributionMethod):
    """Each element's share of the change of output from a baseline, by each activation's slope between the two.

    baseline: a number, or a tensor that broadcasts to x: like one input, or one per example. of: logit,
    probability or loss; softmax has no rule, so that only logits are shared out exactly.
    The explanation's `completeness` is the error of the sum. Warns where steps of the network escape the rules,
    and raises InputError where one activation module is called several times.
    """

    baseline: Baseline = 0.0
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        baseline = spread(self.baseline, request.x)
        return _rescaled(request, lambda i, k: baseline[i])


@explainer("deep_lift_shap", cites="lundberg2017 (DeepSHAP); shrikumar2017", examples=("baseline=0.0",))
class DeepLiftShap(AttributionMethod):
    """The mean of DeepLift's maps over background rows: shares of the change from their mean output.

    background: rows of the data that are the baselines, where there are data. baseline: a number (one row: the map of
    `deep_lift`), or a tensor of such rows [rows, *shape], all of which are used, instead; without both a row of zeros,
    with a warning. of, completeness, warnings and errors: as for `deep_lift`.
    """

    background: Count = 20
    baseline: Baseline | None = None
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        background = background_rows(self.baseline, request.x, "deep_lift")
        return _rescaled(request, lambda i, k: background[k], len(background))


@explainer("guided_backprop", cites="springenberg2015")
class GuidedBackprop(AttributionMethod):
    """The gradient, with negative values set to zero at every ReLU, in addition to the ReLU's own derivative.

    of: logit, probability or loss. A network without any activation has its plain gradient. Raises InputError
    where no activation is an `nn.ReLU`; warns where some are not. Does not depend much on the class that is
    explained, nor on the network's last layers (Adebayo et al. 2018).
    """

    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        return _guided(request, "GuidedBackprop")


@explainer("deconvolution", cites="zeiler2014")
class Deconvolution(AttributionMethod):
    """The gradient, with a ReLU of its own in place of each ReLU's derivative.

    of: logit, probability or loss. Activations that are no `nn.ReLU`: as for `guided_backprop`.
    """

    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        return _guided(request, "Deconvolution")


@explainer("guided_grad_cam", cites="selvaraju2017 Sec. 3.2", looks_at="layer", examples=("layer=conv",))
class GuidedGradCAM(AttributionMethod):
    """Guided backpropagation times the map of `grad_cam`: details at the location of the class.

    layer: a layer's name, or auto: as for `grad_cam`; the record names it. of: logit, probability or loss.
    Activations that are no `nn.ReLU`: as for `guided_backprop`.
    """

    layer: str = AUTO
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        cam = GradCAM(layer=self.layer, of=self.of).attribute(request)
        guided = _guided(request, "GuidedBackprop")
        values = cam.map * guided.map
        return Attribution(map=values, flat=request.blind(~values.flatten(1).any(dim=1)), chosen=cam.chosen)


def _rescaled(request: AttributionRequest, baseline: Callable[[Tensor, Tensor], Tensor], count: int = 1) -> Attribution:
    """DeepLift's map, the mean over `count` baselines (i, k) -> [rows, *shape] of example i."""
    met = reached(request, has_rescale_rule)
    repeated = [f"{name} {calls} times" for name, calls in met.calls.items() if calls > 1]
    if repeated:
        raise InputError(
            "DeepLift compares each activation module at two inputs, but this network calls "
            f"{_list(repeated)}: give each call its own module, or use integrated_gradients."
        )
    n, size = len(request.x), request.max_batch
    total, change, scale = torch.zeros_like(request.x), request.x.new_zeros(n), request.x.new_zeros(n)

    def run(rows: slice) -> None:
        row = torch.arange(rows.start, min(rows.stop, n * count), device=request.x.device)
        i, k = row // count, row % count
        x, u, target = request.x[i].requires_grad_(), baseline(i, k), request.target[i]
        with hooked(request, has_rescale_rule) as chosen:
            shares = _rescale(chosen).attribute(x, u, additional_forward_args=(target,))
        ends = [chosen_output(request.logits(at.detach()), target, request.of) for at in (x, u)]
        total.index_add_(0, i, shares.detach() / count)
        change.index_add_(0, i, (ends[0] - ends[1]) / count)
        scale.index_add_(0, i, (ends[0].abs() + ends[1].abs()) / count)

    if met.connected:  # each example passes the network beside its baseline: two rows
        size = ROWS if size is None else size
        replace(request, max_batch=size // 2 if isinstance(size, int) and size > 1 else size).passes(run, n * count)
    error = total.flatten(1).sum(dim=1) - change
    expected = 0.01 * total.flatten(1).abs().sum(dim=1) + 1e-4 * scale  # of float32, where activations hardly move
    escaped = bool(met.missed) or bool((error.abs() > expected).any())
    if escaped:
        _warn_of_error(met, error)
    flat = request.blind(~total.flatten(1).any(dim=1))
    return Attribution(map=total, completeness=error, flat=flat, warned=escaped)


def _warn_of_error(met: Reach, error: Tensor) -> None:
    escaped = f"DeepLift has no rule for {_list(met.missed)}: " if met.missed else ""
    warnings.warn(
        f"{escaped}DeepLift's map misses the change of the output, which it should add up to, by up to "
        f"{error.abs().amax():.2g} (see `completeness`). Rules apply to modules only (nn.ReLU(), not relu(x)); "
        "integrated_gradients needs none.",
        AdvexWarning,
        stacklevel=8,
    )


@functools.cache
def _rescale_class() -> type[Any]:
    from captum.attr import DeepLift as Captum
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR, nonlinear

    class Rescale(Captum):
        """captum's DeepLift with its rule for one-number functions used for all of them, and once per module."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__(model)
            self.met: set[nn.Module] = set()  # a module with two names is met twice

        def _can_register_hook(self, module: nn.Module) -> bool:
            new = has_rescale_rule(module) and module not in self.met
            self.met.add(module)
            return new

        def _backward_hook(self, module: Any, grad_input: Tensor, grad_output: Tensor) -> Tensor:
            if type(module) in POOLS:
                return _pooled(module, grad_input, grad_output, self.eps)
            if type(module) in SUPPORTED_NON_LINEAR:
                return super()._backward_hook(module, grad_input, grad_output)
            return nonlinear(module, module.input, module.output, grad_input, grad_output, eps=self.eps)

    return Rescale


def _pooled(pool: Any, grad_input: Tensor, grad_output: Tensor, eps: float) -> Tensor:
    """The rule of max pools: each window's change, up from the reference and down from x, goes to its two maxima.

    Where windows overlap one element is the maximum of several, and what it gets is added up.
    """
    largest = getattr(functional, f"max_pool{pool.input.ndim - 2}d")
    form = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, True)
    places = largest(pool.input, *form)[1].flatten(2)
    (x, u), (at_x, at_u) = pool.input.chunk(2), pool.output.chunk(2)
    cross = torch.maximum(at_x, at_u)
    share = (grad_output * torch.cat([cross - at_u, at_x - cross])).flatten(2)
    total = torch.zeros_like(pool.input).flatten(2).scatter_add(2, places, share).reshape(pool.input.shape)
    up, down = total.chunk(2)
    change = torch.cat([x - u] * 2)
    return torch.where(change.abs() < eps, grad_input, torch.cat([up + down] * 2) / change)


def _rescale(chosen: Chosen) -> Any:
    return _rescale_class()(chosen)


def _guided(request: AttributionRequest, name: str) -> Attribution:
    """The map of one of captum's two rules for ReLUs."""
    met = reached(replace(request, of="logit"), is_relu)
    escaped = _list(met.activations)
    if met.activations and not met.calls:
        raise InputError(
            "Guided backpropagation and deconvolution change the backward pass of nn.ReLU modules, but this "
            f"network has none and calls {escaped}: the map would be the plain gradient. Use gradient or "
            "smooth_grad."
        )
    if met.activations:
        warnings.warn(
            f"Guided backpropagation and deconvolution have no rule for {escaped}: their plain derivatives "
            "are used. ReLUs must be nn.ReLU modules to be recognised.",
            AdvexWarning,
            stacklevel=7,
        )
    total = torch.zeros_like(request.x)

    def run(rows: slice) -> None:
        from captum import attr

        x = request.x[rows].clone().requires_grad_()
        with hooked(request, is_relu) as chosen:
            method = getattr(attr, name)(chosen)
            total[rows] = method.attribute(x, additional_forward_args=(request.target[rows],)).detach()

    if met.connected:
        request.passes(run, len(request.x))
    return Attribution(map=total, flat=request.blind(~total.flatten(1).any(dim=1)))


def _list(names: Sequence[str]) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
