"""The perceptual explanation: where a picture has to change for its class to go, if its layers' answers shall stay."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from advex.attacks.perceptual import AUTO, Below0, Scale, Weight
from advex.attacks.perceptual import Perceptual as Search
from advex.errors import InputError
from advex.explainers.enlarged import resized, shrunk
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.request import rows_of_a_pass
from advex.goals import Misclassify
from advex.inputs import per_channel
from advex.options import Above0, AtLeast0, Blur, Count

_REACH = 3  # sigmas of the blur


@explainer(
    "perceptual",
    cites="elliott2021 Eq. 1, 5",
    shows="regions",
    examples=("layers=conv,perceptual=100,gradients=20", "guided=true,perceptual=100,gradients=20"),
)
class Perceptual(AttributionMethod):
    """How much each pixel changes until the class loses its lead, while the layers' activations hardly change.

    The search is `attacks.perceptual` with the margin as its goal; its options (layers, target, perceptual, pixel,
    scale, gradients, published) are explained there. The map is the mean over the channels of the squared change, in
    units of the normalisation's std, from 0 to 1, and the same in all channels; `published` takes the root of that
    mean, as the authors' code does. `picture` is the changed input: it has lost its class only where `after` says so.
    `weight` has the lambda' of each row where it is "auto".

    perceptual: lambda'; 0 is the ablation without a perceptual term. sigma: of a Gaussian blur of the map, in pixels,
    cut off at 3 sigma. guided: the map times |d logit / dx|, x as the network sees it, the largest of the channels,
    from 0 to 1. resize: the picture is enlarged by this factor, explained, and map and change made smaller again; for
    networks that take several sizes.
    """

    layers: str = "relu:all"
    target: Below0 = -2.0
    perceptual: Weight = AUTO
    pixel: AtLeast0 = 1.0
    scale: Scale = "mean"
    gradients: Count = 50
    sigma: Blur = 0.0
    guided: bool = False
    resize: Above0 = 1.0
    published: bool = False
    lowers: ClassVar[bool] = True

    def attribute(self, request: AttributionRequest) -> Attribution:
        self._check(request)
        about = request if self.resize == 1 else resized(request, self.resize, "resize")
        search = Search(
            layers=self.layers, target=self.target, perceptual=self.perceptual, pixel=self.pixel, scale=self.scale,
            gradients=self.gradients, published=self.published,
        )  # fmt: skip
        rows = rows_of_a_pass(about.x) if request.max_batch is None else request.max_batch
        goal = Misclassify(request.target)
        change = search(about.classifier, about.x, goal, seed=request.seed, mask=about.mask, max_batch=rows)
        flat = about.blind(change.flat)
        squares = (change.delta / per_channel(request.classifier.std, about.x)).square()
        size = squares if squares.ndim == 2 else squares.mean(dim=1, keepdim=True)
        values = _from_0_to_1(shrunk(size.sqrt() if self.published else size, request.x))
        delta = request.classifier.box.confine(request.x, shrunk(change.delta, request.x))
        return Attribution(
            map=values.expand(request.x.shape).clone(),
            picture=request.x + delta,
            flat=flat,
            weight=change.weight if self.perceptual == AUTO else None,
        )

    @property
    def part(self) -> Perceptual:
        """The same without blur and guide, which come after the search."""
        return replace(self, sigma=0.0, guided=False)

    def finish(self, request: AttributionRequest, values: Tensor) -> Tensor:
        """The map, blurred and guided."""
        self._check(request)
        if not (self.sigma or self.guided):
            return values
        values = smoothed(values[:, :1] if values.ndim == 4 else values, self.sigma)
        return (values * self._guide(request) if self.guided else values).expand(request.x.shape).clone()

    def _check(self, request: AttributionRequest) -> None:
        if request.x.ndim != 4 and (self.sigma or self.resize != 1):
            shape = tuple(request.x.shape[1:])
            raise InputError(f"sigma and resize need pictures, not inputs of shape {shape}.")

    def _guide(self, request: AttributionRequest) -> Tensor:
        """|d logit / dx|, x as the network sees it, from 0 to 1: [n, 1, height, width]; of rows [n, d]."""
        about = request if self.resize == 1 else resized(request, self.resize, "resize")
        slope, _ = replace(about, slopes=[]).gradients(lambda i, k: (about.x[i], 1.0))
        slope = (slope * per_channel(request.classifier.std, slope)).abs()
        return _from_0_to_1(shrunk(slope if slope.ndim == 2 else slope.amax(dim=1, keepdim=True), request.x))


def _from_0_to_1(values: Tensor) -> Tensor:
    """Each row from 0 to 1; a constant row is 0."""
    flat = values.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return torch.where(high > low, (flat - low) / (high - low), 0.0).reshape(values.shape)


def smoothed(values: Tensor, sigma: float) -> Tensor:
    """[n, 1, height, width], blurred; beyond the border its last pixels go on. sigma: 0: all stays as it is."""
    if not sigma:
        return values
    numbers = values.detach().cpu().double().numpy()
    blurred = gaussian_filter(numbers, (0, 0, sigma, sigma), truncate=_REACH, mode="nearest")
    return torch.from_numpy(blurred).to(values)
