"""RISE (Petsiuk et al. 2018): the output's mean over pictures of which random parts are shown."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from advex import randomness
from advex.explainers.filling import Fill, filled, pictures
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.outputs import Of, output
from advex.options import Count


@explainer("rise", cites="petsiuk2018", shows="regions", examples=("fill=blur",))
class Rise(AttributionMethod):
    """For each pixel, the mean output of the class over randomly masked pictures that show this pixel.

    masks: pictures per example; they follow from the seed and the size alone, and are the same for every example. grid:
    cells on a side of a mask, each of which shows its part with probability keep; it is enlarged by one cell more than
    the picture has, and shifted by less than a cell. fill: what stands in the place of what is not shown: the colour
    that the network is normalised by (mean), grey, or the blurred picture. of: probability, logit or loss.
    Asks for answers alone.
    """

    masks: Count = 4000
    grid: Count = 7
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    fill: Fill = "mean"
    of: Of = "probability"

    def attribute(self, request: AttributionRequest) -> Attribution:
        x = pictures(self, request)
        empty = filled(request.classifier, x, self.fill)
        shown = x.new_zeros(len(x), 1, *x.shape[2:])
        total, outputs = torch.zeros_like(shown), x.new_zeros(len(x))

        def run(rows: slice) -> None:
            row = torch.arange(rows.start, min(rows.stop, len(x) * self.masks), device=x.device)
            i = row // self.masks
            mask = self.drawn(row % self.masks, x, request.seed)
            answers = output(request.classifier, empty[i] + mask * (x[i] - empty[i]), request.target[i], self.of)
            shown.index_add_(0, i, mask)
            total.index_add_(0, i, mask * answers.reshape(-1, 1, 1, 1))
            outputs.index_add_(0, i, answers)

        request.passes(run, len(x) * self.masks)
        mean = outputs.reshape(-1, 1, 1, 1) / self.masks  # of a pixel that no mask shows nothing more is known
        return Attribution(map=torch.where(shown > 0, total / shown, mean).expand(x.shape))

    def drawn(self, k: Tensor, x: Tensor, seed: int) -> Tensor:
        """The k-th masks [len(k), 1, height, width] for pictures like x: how much of each pixel is shown, in [0, 1]."""
        draws = randomness.uniform_for(k, seed, "rise", 2 + self.grid**2)
        cells = (draws[:, 2:] < self.keep).to(x).reshape(-1, self.grid, self.grid)
        down, across = (self._spread(draws[:, axis], size, x) for axis, size in enumerate(x.shape[2:]))
        return (down @ cells @ across.transpose(1, 2))[:, None]

    def _spread(self, draw: Tensor, size: int, x: Tensor) -> Tensor:
        """How much each of `size` pixels has of each cell, [len(draw), size, grid], from a side of one cell more."""
        cell = math.ceil(size / self.grid)
        unit = torch.eye(self.grid, dtype=x.dtype, device=x.device)[None]
        whole = interpolate(unit, size=(self.grid + 1) * cell, mode="linear", align_corners=False)[0].T
        return whole[(draw * cell).long()[:, None] + torch.arange(size, device=x.device)]
