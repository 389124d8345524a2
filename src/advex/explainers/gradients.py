"""The gradient of a class's output by the input, and its product with the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advex.classifier import Classifier
from advex.explainers.maps import Attribution, AttributionRequest, Of, check_of, explained
from advex.registry import register
from advex.types import Explanation


@register("explainer", "gradient", cites="simonyan2014")
@dataclass(frozen=True, kw_only=True)
class Gradient:
    """How fast the class's output changes with each input element, signed.

    of: logit, probability or loss (the cross-entropy against the class).
    """

    of: Of = "logit"

    def __post_init__(self) -> None:
        check_of(self.of)

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
            return Attribution(map=_slope(ask))

        return explained(
            self, attribute, classifier, x, target, mask=mask, max_batch=max_batch, create_graph=create_graph
        )


@register("explainer", "input_x_gradient", cites="shrikumar2016")
@dataclass(frozen=True, kw_only=True)
class InputXGradient:
    """The gradient times the input: each element's share, were the network linear and without a bias.

    of: logit, probability or loss (the cross-entropy against the class).
    """

    of: Of = "logit"

    def __post_init__(self) -> None:
        check_of(self.of)

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
            return Attribution(map=ask.x * _slope(ask))

        return explained(
            self, attribute, classifier, x, target, mask=mask, max_batch=max_batch, create_graph=create_graph
        )


def _slope(ask: AttributionRequest) -> Tensor:
    return ask.gradients(lambda i, k: (ask.x[i], 1.0))[0]
