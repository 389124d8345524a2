"""Maps that explain nothing, beside which every other map has to be judged: chance, the centre, edges, fine detail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advex import randomness
from advex.errors import InputError
from advex.explainers.filling import blurred, pictures
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.outputs import chosen_output
from advex.options import BlurShare


@explainer("random", shows="control")
class Random(AttributionMethod):
    """A control: uniform numbers in [0, 1), drawn from the seed and the input."""

    def attribute(self, request: AttributionRequest) -> Attribution:
        return Attribution(map=randomness.uniform(request.x, request.seed, "random"), flat=_sound(request))


@explainer("smooth_random", shows="control")
class SmoothRandom(AttributionMethod):
    """A control: uniform numbers, one per pixel, blurred: blobs at random locations.

    sigma: of the blur, as a share of the picture's longer side.
    """

    sigma: BlurShare = 0.1

    def attribute(self, request: AttributionRequest) -> Attribution:
        picture = pictures(self, request)
        noise = randomness.uniform(picture[:, 0], request.seed, "smooth_random")
        return _same_in_all_channels(request, blurred(noise, self.sigma))


@explainer("centre", shows="control")
class Centre(AttributionMethod):
    """A control: pixels nearer to the middle of the picture count more, from 1 in the middle to 0 at its corners."""

    def attribute(self, request: AttributionRequest) -> Attribution:
        height, width = pictures(self, request).shape[2:]
        rows, columns = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for size in (height, width))
        apart = (rows[:, None].square() + columns.square()).sqrt()
        value = 1 - 2 * apart / math.hypot(height, width)
        return _same_in_all_channels(request, value.to(request.x).expand(len(request.x), height, width))


@explainer("edge", shows="control")
class Edge(AttributionMethod):
    """How fast the grey picture changes (central differences, one-sided at the border)."""

    def attribute(self, request: AttributionRequest) -> Attribution:
        grey = pictures(self, request).mean(dim=1)
        if min(grey.shape[1:]) < 2:
            raise InputError(f"Edges need pictures of at least 2x2 pixels, not {tuple(grey.shape[1:])}.")
        rows, columns = torch.gradient(grey, dim=(1, 2))
        return _same_in_all_channels(request, (rows.square() + columns.square()).sqrt())


@explainer("blur_difference", shows="control")
class BlurDifference(AttributionMethod):
    """How much of each element a blur takes away: fine detail.

    sigma: of the blur, as a share of the picture's longer side.
    """

    sigma: BlurShare = 0.1

    def attribute(self, request: AttributionRequest) -> Attribution:
        x = pictures(self, request)
        smooth = blurred(x.flatten(0, 1), self.sigma).reshape(x.shape)
        return Attribution(map=(x - smooth).abs(), flat=_sound(request))


def _sound(request: AttributionRequest) -> Tensor:
    """[n] bool, none: no derivative could be missing. The model is asked, to refuse what it refuses elsewhere too."""
    chosen_output(request.logits(request.x), request.target, request.of)
    return torch.zeros(len(request.x), dtype=torch.bool, device=request.x.device)


def _same_in_all_channels(request: AttributionRequest, values: Tensor) -> Attribution:
    return Attribution(map=values[:, None].expand(request.x.shape).clone(), flat=_sound(request))
