"""Expected Gradients (Erion et al. 2021), also known as GradientSHAP: Integrated Gradients over many baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers.integrated_gradients import check_baseline
from advex.explainers.maps import Attribution, AttributionRequest, Of, check_of, chosen_output, every_output, explained
from advex.geometry import per_row
from advex.randomness import generators
from advex.registry import register
from advex.types import Explanation


@register("explainer", "expected_gradients", cites="erion2021; lundberg2017 (GradientSHAP)")
@dataclass(frozen=True, kw_only=True)
class ExpectedGradients:
    """The mean of (x - u) times the gradient at a random point between x and a random baseline u.

    samples: gradients per example. baseline: a number, or a tensor of background rows [rows, *shape].
    of: logit, probability or loss (the cross-entropy against the class).
    In expectation the map adds up to F(x) less the mean of F over the background; the explanation's
    `completeness` is what it misses that by, which is a sampling error. The draws are spread evenly (a Latin
    hypercube), so the error falls faster than that of independent draws, and follow from the seed and the example
    alone; derivatives of the map (create_graph) take them as given.
    """

    samples: int = 100
    baseline: float | Tensor = 0.0
    of: Of = "logit"

    def __post_init__(self) -> None:
        check_of(self.of)
        check_baseline(self.baseline)
        if self.samples < 1:
            raise SpecError(f"Expected Gradients needs samples >= 1, not {self.samples}.")

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
        def attribute(ask: AttributionRequest) -> Attribution:
            background = background_rows(self.baseline, ask.x)
            alpha, row = draws(ask.x, seed, self.samples, len(background))

            def points(i: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
                u = background[row[i, k]]
                difference = ask.x[i] - u
                return torch.addcmul(u, per_row(alpha[i, k], u), difference), difference / self.samples

            values, _ = ask.gradients(points, self.samples)
            change = _change(ask, background)
            return Attribution(map=values, completeness=values.detach().flatten(1).sum(dim=1) - change)

        return explained(
            self, attribute, classifier, x, target, mask=mask, max_batch=max_batch, create_graph=create_graph
        )


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


def background_rows(baseline: float | Tensor, x: Tensor) -> Tensor:
    """Background rows [rows, *shape] in x's type. Raises InputError where they do not fit x."""
    if not isinstance(baseline, Tensor):
        return torch.full_like(x[:1], baseline)
    rows = baseline if baseline.ndim == x.ndim else baseline[None]
    if rows.shape[1:] != x.shape[1:] or not len(rows):
        found = f"not {tuple(baseline.shape)}"
        raise InputError(f"Background rows must have the shape [rows, {', '.join(map(str, x.shape[1:]))}], {found}.")
    return rows.to(x)


def _change(ask: AttributionRequest, background: Tensor) -> Tensor:
    """F(x) less the mean of F over the background: [n]."""
    at_x, at_rows = ask.logits(torch.cat([ask.x, background]).detach()).split([len(ask.x), len(background)])
    here = chosen_output(at_x, ask.target, ask.of)
    return here - every_output(at_rows, ask.of).mean(dim=0)[ask.target]
