"""Maps that hide parts of the input and look at the output alone, through captum.

The parts are features: of a table its columns (a category's one-hot group is one), of other inputs single
elements, as long as there are few, and squares of pixels, in all channels at once, where there are many.
captum is imported when a map is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advex import randomness
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.explainers.integrated_gradients import check_baseline, spread
from advex.explainers.maps import ROWS, Attribution, AttributionRequest, Of, check_of, chosen_output, explained
from advex.registry import register
from advex.types import Explanation

# Inputs of at most so many elements are taken apart element by element; larger ones into about so many squares.
_FEW = 64


@register("explainer", "feature_ablation")
@dataclass(frozen=True, kw_only=True)
class FeatureAblation:
    """How much the output falls when a feature is replaced by the baseline, one after the other.

    patch: side in pixels of the squares that are features of a picture; 0: single elements of inputs of at most
    64, an eighth of the longer side of larger pictures. baseline: a number, or a tensor that broadcasts to x.
    of: logit, probability or loss. A feature's value is shared evenly among its elements, so that they add up to it.
    """

    patch: int = 0
    baseline: float | Tensor = 0.0
    of: Of = "logit"

    def __post_init__(self) -> None:
        _check(self)

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        def attribute(ask: AttributionRequest) -> Attribution:
            features = features_of(ask, self.patch)
            return Attribution(map=_ablated(ask, self.baseline, features), chosen=_chosen(ask, self.patch))

        return explained(self, attribute, classifier, x, target, mask=mask, max_batch=max_batch)


@register("explainer", "occlusion", cites="zeiler2014 Sec. 4.2")
@dataclass(frozen=True, kw_only=True)
class Occlusion:
    """How much the output falls on average when a window over an element slides across the picture.

    window: side in pixels of the square that is hidden, in all channels at once; 0: like the features of
    `feature_ablation`, but no smaller than stride. stride: pixels from one window to the next, at most the window; 0:
    half of it, rounded up. baseline: what hides, a number or a tensor that broadcasts to x. of: logit, probability
    or loss. Rows of a table have no neighbours: theirs is the map of `feature_ablation`.
    """

    window: int = 0
    stride: int = 0
    baseline: float | Tensor = 0.0
    of: Of = "logit"

    def __post_init__(self) -> None:
        _check(self)
        if self.window and self.stride > self.window:
            raise SpecError(f"Occlusion by windows of {self.window} pixels leaves gaps at stride {self.stride}.")

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        def attribute(ask: AttributionRequest) -> Attribution:
            shape = ask.x.shape[1:]
            if len(shape) == 1:
                return Attribution(map=_ablated(ask, self.baseline, features_of(ask, 0)))
            side, apart = square(ask, self.window)
            window = self.window or max(side, self.stride)
            stride = self.stride or (window + 1) // 2
            channels = () if len(shape) == 2 else (1 if apart else shape[0],)
            values = _hidden(
                ask,
                self.baseline,
                "Occlusion",
                sliding_window_shapes=(*channels, *(min(window, size) for size in shape[len(channels) :])),
                strides=(*channels, *(min(stride, size) for size in shape[len(channels) :])),
            )
            return Attribution(map=values, chosen={} if apart else {"window": window, "stride": stride})

        return explained(self, attribute, classifier, x, target, mask=mask, max_batch=max_batch)


@register("explainer", "lime", cites="ribeiro2016")
@dataclass(frozen=True, kw_only=True)
class Lime:
    """The weights of a sparse linear model of the output, fitted to inputs with random features hidden.

    samples: inputs asked about, per example. alpha: weight of the L1 penalty, in units of the output
    (0: least squares; probabilities want less than logits). width: of the kernel exp(-d^2 / (2 width^2)) that weighs
    a sample by its cosine distance d from the input.
    patch, baseline, of: as for `feature_ablation`, and so is the sharing of values. The draws follow from the
    seed and the example.
    """

    samples: int = 500
    alpha: float = 0.01
    width: float = 1.0
    patch: int = 0
    baseline: float | Tensor = 0.0
    of: Of = "logit"

    def __post_init__(self) -> None:
        _check(self)
        if not (math.isfinite(self.alpha) and self.alpha >= 0 and math.isfinite(self.width) and self.width > 0):
            raise SpecError(f"LIME needs alpha >= 0 and width > 0, not {self.alpha} and {self.width}.")

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        def make(forward: Callable[..., Tensor]) -> Any:
            from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearRegression
            from captum.attr import Lime as Captum
            from captum.attr._core.lime import get_exp_kernel_similarity_function

            # Its order is cyclic and needs no seed; without one, scikit-learn draws from numpy's global generator.
            model = SkLearnLasso(alpha=self.alpha, random_state=0) if self.alpha else SkLearnLinearRegression()
            return Captum(forward, model, get_exp_kernel_similarity_function("cosine", self.width))

        def attribute(ask: AttributionRequest) -> Attribution:
            features = features_of(ask, self.patch)
            return Attribution(map=_fitted(ask, self, make, features, seed, "lime"), chosen=_chosen(ask, self.patch))

        return explained(self, attribute, classifier, x, target, mask=mask, max_batch=max_batch)


@register("explainer", "kernel_shap", cites="lundberg2017")
@dataclass(frozen=True, kw_only=True)
class KernelShap:
    """Shapley values of the features, from a weighted linear fit to inputs with random features hidden.

    samples: inputs asked about, per example; too few leave the fit without a unique answer. patch, baseline, of:
    as for `feature_ablation`, and so is the sharing of values. The draws follow from the seed and the example.
    The values add up to the change of output from the baseline; `completeness` is the error of that sum.
    """

    samples: int = 500
    patch: int = 0
    baseline: float | Tensor = 0.0
    of: Of = "logit"

    def __post_init__(self) -> None:
        _check(self)

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        def make(forward: Callable[..., Tensor]) -> Any:
            from captum.attr import KernelShap as Captum

            return Captum(forward)

        def attribute(ask: AttributionRequest) -> Attribution:
            features = features_of(ask, self.patch)
            if features.any():
                values = _fitted(ask, self, make, features, seed, "kernel_shap")
            else:  # one feature alone has the whole change; its kernel is 0 / 0
                values = _ablated(ask, self.baseline, features)
            ends = torch.cat([ask.x, spread(self.baseline, ask.x)])
            at_x, at_u = (chosen_output(each, ask.target, ask.of) for each in ask.logits(ends).chunk(2))
            error = values.flatten(1).sum(dim=1) - (at_x - at_u)
            return Attribution(map=values, completeness=error, chosen=_chosen(ask, self.patch))

        return explained(self, attribute, classifier, x, target, mask=mask, max_batch=max_batch)


def _check(explainer: Any) -> None:
    """Raise SpecError for options that cannot be, by the names that these explainers share."""
    check_of(explainer.of)
    check_baseline(explainer.baseline)
    for name in ("patch", "window", "stride"):
        if getattr(explainer, name, 0) < 0:
            raise SpecError(f"{name} is a number of pixels, or 0 for automatic, not {getattr(explainer, name)}.")
    if getattr(explainer, "samples", 2) < 2:
        raise SpecError(f"samples must be at least 2, not {explainer.samples}.")


def square(ask: AttributionRequest, side: int) -> tuple[int, bool]:
    """The side in pixels of the squares that are features of a picture, and whether its channels are taken apart.

    side: as the user gave it; 0 is automatic.
    """
    shape = ask.x.shape[1:]
    if not side and math.prod(shape) <= _FEW:
        return 1, True
    return side or math.ceil(max(shape[-2:]) / math.isqrt(_FEW)), False


def features_of(ask: AttributionRequest, patch: int) -> Tensor:
    """The number of each element's feature, [1, *shape] int64 from 0 on. patch: as the user gave it."""
    shape = ask.x.shape[1:]
    numbers = torch.arange(math.prod(shape), device=ask.x.device).reshape(1, *shape)
    if len(shape) == 1:
        for number, where in enumerate(ask.classifier.features.slices if ask.classifier.features else ()):
            numbers[:, where] = number
        return numbers
    side, apart = square(ask, patch)
    if apart:
        return numbers
    row, column = (torch.arange(size, device=ask.x.device) // side for size in shape[-2:])
    return (row[:, None] * (int(column[-1]) + 1) + column).expand(1, *shape).contiguous()


def _chosen(ask: AttributionRequest, patch: int) -> dict[str, int]:
    """For the record: the side of the squares, where squares were the features."""
    side, apart = square(ask, patch)
    return {} if apart or ask.x.ndim == 2 else {"patch": side}


def _rows_of_a_pass(ask: AttributionRequest) -> int:
    return (
        max(1, ask.max_batch) if isinstance(ask.max_batch, int) else ROWS
    )  # `AttributionRequest.passes` refuses others


def _forward(ask: AttributionRequest) -> Callable[[Tensor, Tensor], Tensor]:
    """(x [m, *shape], target [m]) -> [m], for captum, in passes of bounded size."""
    return lambda x, target: chosen_output(ask.logits(x), target, ask.of)


def _hidden(ask: AttributionRequest, baseline: float | Tensor, name: str, **options: Any) -> Tensor:
    """The map of a method of captum that hides one part after the other: like x."""
    from captum import attr

    u, parts, rows = spread(baseline, ask.x), [], _rows_of_a_pass(ask)
    for i in torch.arange(len(ask.x), device=ask.x.device).split(rows):
        found = getattr(attr, name)(_forward(ask)).attribute(
            ask.x[i],
            baselines=u[i],
            additional_forward_args=(ask.target[i],),
            perturbations_per_eval=max(1, rows // len(i)),
            **options,
        )
        parts.append(found.to(ask.x))
    return torch.cat(parts)


def _shared(values: Tensor, features: Tensor) -> Tensor:
    """Each feature's value divided by the number of its elements."""
    return values / features.flatten().bincount()[features]


def _ablated(ask: AttributionRequest, baseline: float | Tensor, features: Tensor) -> Tensor:
    return _shared(_hidden(ask, baseline, "FeatureAblation", feature_mask=features), features)


def _fitted(
    ask: AttributionRequest,
    explainer: Lime | KernelShap,
    make: Callable[[Callable[..., Tensor]], Any],
    features: Tensor,
    seed: int,
    stream: str,
) -> Tensor:
    """The coefficients of a linear model per example. captum draws from torch's generator, which is put back."""
    u, parts = spread(explainer.baseline, ask.x), []
    for i, own in enumerate(randomness.generators(ask.x, seed, stream)):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(own.initial_seed())  # unlike torch.manual_seed, not those of GPUs
            found = make(_forward(ask)).attribute(
                ask.x[i : i + 1],
                baselines=u[i : i + 1],
                additional_forward_args=(ask.target[i : i + 1],),
                feature_mask=features,
                n_samples=explainer.samples,
                perturbations_per_eval=min(explainer.samples, _rows_of_a_pass(ask)),
            )
        parts.append(found.to(ask.x))
    return _shared(torch.cat(parts), features)
