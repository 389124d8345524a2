"""SmoothGrad (Smilkov et al. 2017): the mean gradient in a neighbourhood of the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.errors import SpecError, did_you_mean
from advex.explainers.maps import Attribution, AttributionRequest, Of, check_of, explained
from advex.randomness import normal
from advex.registry import register
from advex.types import Explanation

Take = Literal["signed", "magnitude", "square"]


@register("explainer", "smooth_grad", cites="smilkov2017")
@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    """The mean gradient at inputs with Gaussian noise added.

    sigma: standard deviation of the noise as a share of the box (0.15 of black to white). Noisy inputs may
    leave the box. samples: gradients per example. take: signed gradients, their magnitude, or their square
    (of each sample, before the mean). of: logit, probability or loss (the cross-entropy against the class).
    The noise follows from the seed and the example; derivatives of the map (create_graph) take it as given.
    """

    sigma: float = 0.15
    samples: int = 50
    take: Take = "signed"
    of: Of = "logit"

    def __post_init__(self) -> None:
        check_of(self.of)
        if not (math.isfinite(self.sigma) and self.sigma >= 0) or self.samples < 1:
            raise SpecError(f"SmoothGrad needs sigma >= 0 and samples >= 1, not {self.sigma} and {self.samples}.")
        if self.take not in get_args(Take):
            raise SpecError(f"SmoothGrad cannot take '{self.take}': {did_you_mean(self.take, get_args(Take))}")

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
        create_graph: bool = False,
    ) -> Explanation:
        fold = {"signed": torch.positive, "magnitude": torch.abs, "square": torch.square}[self.take]
        width = self.sigma * (classifier.upper - classifier.lower)

        def attribute(ask: AttributionRequest) -> Attribution:
            def points(i: Tensor, k: Tensor) -> tuple[Tensor, float]:
                pairs = zip(i.tolist(), k.tolist(), strict=True)
                noise = [normal(ask.x[row : row + 1], seed, f"smooth_grad:{sample}") for row, sample in pairs]
                return ask.x[i] + width * torch.cat(noise), 1 / self.samples

            return Attribution(map=ask.gradients(points, self.samples, fold)[0])

        return explained(
            self, attribute, classifier, x, target, mask=mask, max_batch=max_batch, create_graph=create_graph
        )
