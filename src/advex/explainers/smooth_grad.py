"""SmoothGrad (Smilkov et al. 2017): the mean gradient in a neighbourhood of the input."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from advex.explainers.maps import Attribution, AttributionRequest, DifferentiableMethod, explainer
from advex.explainers.outputs import Of
from advex.options import AtLeast0, Count
from advex.randomness import normal

Take = Literal["signed", "magnitude", "square"]


@explainer("smooth_grad", cites="smilkov2017")
class SmoothGrad(DifferentiableMethod):
    """The mean gradient at inputs with Gaussian noise added.

    sigma: standard deviation of the noise as a share of the box (0.15 of black to white). Noisy inputs may
    leave the box. samples: gradients per example. take: signed gradients, their magnitude, or their square
    (of each sample, before the mean). of: logit, probability or loss (the cross-entropy against the class).
    The noise follows from the seed and the example; derivatives of the map (create_graph) take it as given.
    """

    sigma: AtLeast0 = 0.15
    samples: Count = 50
    take: Take = "signed"
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        fold = {"signed": torch.positive, "magnitude": torch.abs, "square": torch.square}[self.take]
        width = self.sigma * (request.classifier.upper - request.classifier.lower)

        def points(i: Tensor, k: Tensor) -> tuple[Tensor, float]:
            pairs = zip(i.tolist(), k.tolist(), strict=True)
            noise = [normal(request.x[row : row + 1], request.seed, f"smooth_grad:{sample}") for row, sample in pairs]
            return request.x[i] + width * torch.cat(noise), 1 / self.samples

        return Attribution(map=request.gradients(points, self.samples, fold)[0])
