"""Expected Gradients (Erion et al. 2021), also known as GradientSHAP: Integrated Gradients over many baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from advex.explainers.background import background_rows
from advex.explainers.integrated_gradients import Baseline
from advex.explainers.maps import Attribution, AttributionRequest, DifferentiableMethod, explainer
from advex.explainers.outputs import Of, chosen_output, every_output
from advex.geometry import per_row
from advex.options import Count
from advex.randomness import generators


@explainer("expected_gradients", cites="erion2021; lundberg2017 (GradientSHAP)", examples=("baseline=0.0",))
class ExpectedGradients(DifferentiableMethod):
    """The mean of (x - u) times the gradient at a random point between x and a random baseline u.

    samples: gradients per example. background: rows of the data to draw baselines from, where there are data.
    baseline: a number, or a tensor of such rows [rows, *shape], instead; without both a row of zeros, with a warning.
    of: logit, probability or loss (the cross-entropy against the class).
    In expectation the map adds up to F(x) less the mean of F over the background; the explanation's
    `completeness` is what it misses that by, which is a sampling error. The draws are spread evenly (a Latin
    hypercube), so the error falls faster than that of independent draws, and follow from the seed and the example
    alone; derivatives of the map (create_graph) take them as given.
    """

    samples: Count = 100
    background: Count = 100
    baseline: Baseline | None = None
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        background = background_rows(self.baseline, request.x, "integrated_gradients")
        alpha, row = draws(request.x, request.seed, self.samples, len(background))

        def points(i: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            u = background[row[i, k]]
            difference = request.x[i] - u
            return torch.addcmul(u, per_row(alpha[i, k], u), difference), difference / self.samples

        values, _ = request.gradients(points, self.samples)
        change = _change(request, background)
        return Attribution(map=values, completeness=values.detach().flatten(1).sum(dim=1) - change)


def draws(x: Tensor, seed: int, samples: int, rows: int) -> tuple[Tensor, Tensor]:
    """alpha in [0, 1), and numbers of background rows, both [n, samples]: two Latin hypercube columns per example.

    Each of `samples` equal parts of [0, 1), and as nearly as possible each background row, is drawn equally often.
    """

    def column(generator: torch.Generator) -> Tensor:
        order = torch.randperm(samples, generator=generator)
        return (order + torch.rand(samples, dtype=torch.float64, generator=generator)) / samples

    drawn = [(column(each), column(each)) for each in generators(x, seed, "expected_gradients")]
    alpha, where = (torch.stack(each) for each in zip(*drawn, strict=True))
    return alpha.to(x), (where * rows).long().clamp_max(rows - 1).to(x.device)


def _change(request: AttributionRequest, background: Tensor) -> Tensor:
    """F(x) less the mean of F over the background: [n]."""
    x, target, of = request.x, request.target, request.of
    at_x, at_rows = request.logits(torch.cat([x, background]).detach()).split([len(x), len(background)])
    return chosen_output(at_x, target, of) - every_output(at_rows, of).mean(dim=0)[target]
