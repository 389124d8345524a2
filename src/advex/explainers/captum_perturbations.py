"""Maps that hide parts of the input and look at the output alone, through captum.

The parts are features: of a table its columns (a category's one-hot group is one), of other inputs single
elements, as long as there are few, and squares of pixels, in all channels at once, where there are many.
captum is imported when a map is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from advex import randomness
from advex.contexts import by_default
from advex.errors import SpecError
from advex.explainers.integrated_gradients import Baseline, spread
from advex.explainers.maps import ROWS, Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.outputs import Of, chosen_output
from advex.options import Above0, AtLeast0

# Inputs of at most so many elements are taken apart element by element; larger ones into about so many squares.
_FEW = 64

Pixels = Annotated[int, Field(ge=0)]  # 0: automatic
Samples = Annotated[int, Field(ge=2)]


@explainer("feature_ablation")
class FeatureAblation(AttributionMethod):
    """How much the output falls when each feature in turn is replaced by the baseline.

    patch: side in pixels of the squares that are features of a picture; 0: single elements of inputs of at most
    64, an eighth of the longer side of larger pictures. baseline: a number, or a tensor that broadcasts to x.
    of: logit, probability or loss. A feature's value is shared evenly among its elements, so that they add up to it.
    """

    patch: Pixels = 0
    baseline: Baseline = 0.0
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        features = features_of(request, self.patch)
        return Attribution(map=_ablated(request, self.baseline, features), chosen=_chosen(request, self.patch))


@explainer("occlusion", cites="zeiler2014 Sec. 4.2")
class Occlusion(AttributionMethod):
    """How much the output falls on average when a window over an element slides across the picture.

    window: side in pixels of the square that is hidden, in all channels at once; 0: like the features of
    `feature_ablation`, but no smaller than stride. stride: pixels from one window to the next, at most the window; 0:
    half of it, rounded up. baseline: what hides, a number or a tensor that broadcasts to x. of: logit, probability
    or loss. Rows of a table have no neighbours: theirs is the map of `feature_ablation`.
    """

    window: Pixels = 0
    stride: Pixels = 0
    baseline: Baseline = 0.0
    of: Of = "logit"

    def __post_init__(self) -> None:
        if self.window and self.stride > self.window:
            raise SpecError(f"Occlusion by windows of {self.window} pixels leaves gaps at stride {self.stride}.")

    def attribute(self, request: AttributionRequest) -> Attribution:
        shape = request.x.shape[1:]
        if len(shape) == 1:
            return Attribution(map=_ablated(request, self.baseline, features_of(request, 0)))
        side, apart = square(request, self.window)
        window = self.window or max(side, self.stride)
        stride = self.stride or (window + 1) // 2
        channels = () if len(shape) == 2 else (1 if apart else shape[0],)
        values = _hidden(
            request,
            self.baseline,
            "Occlusion",
            sliding_window_shapes=(*channels, *(min(window, size) for size in shape[len(channels) :])),
            strides=(*channels, *(min(stride, size) for size in shape[len(channels) :])),
        )
        return Attribution(map=values, chosen={} if apart else {"window": window, "stride": stride})


@explainer("lime", cites="ribeiro2016")
class Lime(AttributionMethod):
    """The weights of a sparse linear model of the output, fitted to inputs with random features hidden.

    samples: changed inputs per example. alpha: weight of the L1 penalty, in units of the output
    (0: least squares; probabilities want less than logits). width: of the kernel exp(-d^2 / (2 width^2)) that weighs
    a sample by its cosine distance d from the input.
    patch, baseline, of: as for `feature_ablation`, and so is the sharing of values. The draws follow from the
    seed and the example.
    """

    samples: Samples = 500
    alpha: AtLeast0 = 0.01
    width: Above0 = 1.0
    patch: Pixels = 0
    baseline: Baseline = 0.0
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        def make(forward: Callable[..., Tensor]) -> Any:
            from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearRegression
            from captum.attr import Lime as Captum
            from captum.attr._core.lime import get_exp_kernel_similarity_function

            # Its order is cyclic and needs no seed; without one, scikit-learn draws from numpy's global generator.
            model = SkLearnLasso(alpha=self.alpha, random_state=0) if self.alpha else SkLearnLinearRegression()
            return Captum(forward, model, get_exp_kernel_similarity_function("cosine", self.width))

        features = features_of(request, self.patch)
        return Attribution(map=_fitted(request, self, make, features, "lime"), chosen=_chosen(request, self.patch))


@explainer("kernel_shap", cites="lundberg2017")
class KernelShap(AttributionMethod):
    """Shapley values of the features, from a weighted linear fit to inputs with random features hidden.

    samples: changed inputs per example; too few leave the fit without a unique answer, and where they are as many as
    there are sets of features each set is asked once, and the values are exact. patch, baseline, of:
    as for `feature_ablation`, and so is the sharing of values. The draws follow from the seed and the example.
    The values add up to the change of output from the baseline; `completeness` is the error of that sum.
    """

    samples: Samples = 500
    patch: Pixels = 0
    baseline: Baseline = 0.0
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        def make(forward: Callable[..., Tensor]) -> Any:
            from captum.attr import KernelShap as Captum

            return Captum(forward)

        features = features_of(request, self.patch)
        if 0 < (count := int(features.max())) < 16 and 2 ** (count + 1) <= self.samples:
            values = _shared(_shapley(request, self.baseline, features), features)
        elif features.any():
            values = _fitted(request, self, make, features, "kernel_shap")
        else:  # one feature alone has the whole change; its kernel is 0 / 0
            values = _ablated(request, self.baseline, features)
        ends = torch.cat([request.x, spread(self.baseline, request.x)])
        at_x, at_u = (chosen_output(each, request.target, request.of) for each in request.logits(ends).chunk(2))
        error = values.flatten(1).sum(dim=1) - (at_x - at_u)
        return Attribution(map=values, completeness=error, chosen=_chosen(request, self.patch))


def square(request: AttributionRequest, side: int) -> tuple[int, bool]:
    """The side in pixels of the squares that are features of a picture, and whether its channels are taken apart.

    side: as the user gave it; 0 is automatic.
    """
    shape = request.x.shape[1:]
    if not side and math.prod(shape) <= _FEW:
        return 1, True
    return side or math.ceil(max(shape[-2:]) / math.isqrt(_FEW)), False


def features_of(request: AttributionRequest, patch: int) -> Tensor:
    """The number of each element's feature, [1, *shape] int64 from 0 on. patch: as the user gave it."""
    shape = request.x.shape[1:]
    numbers = torch.arange(math.prod(shape), device=request.x.device).reshape(1, *shape)
    if len(shape) == 1:
        for number, where in enumerate(request.classifier.features.slices if request.classifier.features else ()):
            numbers[:, where] = number
        return numbers
    side, apart = square(request, patch)
    if apart:
        return numbers
    row, column = (torch.arange(size, device=request.x.device) // side for size in shape[-2:])
    return (row[:, None] * (int(column[-1]) + 1) + column).expand(1, *shape).contiguous()


def _chosen(request: AttributionRequest, patch: int) -> dict[str, int]:
    """For the record: the side of the squares, where squares were the features."""
    side, apart = square(request, patch)
    return {} if apart or request.x.ndim == 2 else {"patch": side}


def _rows_of_a_pass(request: AttributionRequest) -> int:
    """For captum, which takes neither None nor "auto"; `AttributionRequest.passes` refuses what cannot be."""
    return max(1, request.max_batch) if isinstance(request.max_batch, int) else ROWS


def _forward(request: AttributionRequest) -> Callable[[Tensor, Tensor], Tensor]:
    """(x [m, *shape], target [m]) -> [m], for captum, in passes of bounded size."""
    return lambda x, target: chosen_output(request.logits(x), target, request.of)


def _hidden(request: AttributionRequest, baseline: float | Tensor, name: str, **options: Any) -> Tensor:
    """The map of a method of captum that hides one part after the other: like x."""
    from captum import attr

    u, parts, rows = spread(baseline, request.x), [], _rows_of_a_pass(request)
    for i in torch.arange(len(request.x), device=request.x.device).split(rows):
        values = getattr(attr, name)(_forward(request)).attribute(
            request.x[i],
            baselines=u[i],
            additional_forward_args=(request.target[i],),
            perturbations_per_eval=max(1, rows // len(i)),
            **options,
        )
        parts.append(values.to(request.x))
    return torch.cat(parts)


def _shared(values: Tensor, features: Tensor) -> Tensor:
    """Each feature's value divided by the number of its elements."""
    return values / features.flatten().bincount()[features]


def _ablated(request: AttributionRequest, baseline: float | Tensor, features: Tensor) -> Tensor:
    return _shared(_hidden(request, baseline, "FeatureAblation", feature_mask=features), features)


def _shapley(request: AttributionRequest, baseline: float | Tensor, features: Tensor) -> Tensor:
    """Shapley values by their definition, over all sets of d features, at each element of the feature: like x."""
    u, d = spread(baseline, request.x), int(features.max()) + 1
    sets = torch.arange(2**d, device=features.device)
    has = (sets[:, None] >> torch.arange(d, device=features.device)) & 1  # [2^d, d]
    shown = has[:, features[0]].bool()  # [2^d, *shape]
    size = has.sum(dim=1)
    weight = torch.tensor([1 / (d * math.comb(d - 1, k)) for k in range(d)] + [0.0], dtype=torch.float64).to(
        size.device
    )
    values = []
    for x, base, target in zip(request.x, u, request.target, strict=True):
        outputs = _forward(request)(torch.where(shown, x, base), target.expand(len(sets))).double()
        gains = [
            (weight[size[own]] * (outputs[own | 1 << i] - outputs[own])).sum()
            for i in range(d)
            for own in [sets[has[:, i] == 0]]
        ]
        values.append(torch.stack(gains)[features[0]])
    return torch.stack(values).to(request.x)


def _fitted(
    request: AttributionRequest,
    explainer: Lime | KernelShap,
    make: Callable[[Callable[..., Tensor]], Any],
    features: Tensor,
    stream: str,
) -> Tensor:
    """The coefficients of a linear model per example. captum draws from torch's generator, which is put back."""
    u, parts, callers = spread(explainer.baseline, request.x), [], torch.get_default_dtype()

    def forward(x: Tensor, target: Tensor) -> Tensor:
        with by_default(callers):
            return _forward(request)(x, target)

    for i, own in enumerate(randomness.generators(request.x, request.seed, stream)):
        with torch.random.fork_rng(devices=[]), by_default(torch.float32):  # other types draw other numbers
            torch.default_generator.manual_seed(own.initial_seed())  # unlike torch.manual_seed, not those of GPUs
            values = make(forward).attribute(
                request.x[i : i + 1],
                baselines=u[i : i + 1],
                additional_forward_args=(request.target[i : i + 1],),
                feature_mask=features,
                n_samples=explainer.samples,
                perturbations_per_eval=min(explainer.samples, _rows_of_a_pass(request)),
            )
        parts.append(values.to(request.x))
    return _shared(torch.cat(parts), features)
