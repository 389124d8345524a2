"""The gradient of a class's output by the input, and its product with the input."""

from __future__ import annotations

from torch import Tensor

from advex.explainers.maps import Attribution, AttributionRequest, DifferentiableMethod, explainer
from advex.explainers.outputs import Of


@explainer("gradient", cites="simonyan2014")
class Gradient(DifferentiableMethod):
    """How fast the class's output changes with each input element, signed.

    of: logit, probability or loss (the cross-entropy against the class).
    """

    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        return Attribution(map=_slope(request))


@explainer("input_x_gradient", cites="shrikumar2016")
class InputXGradient(DifferentiableMethod):
    """The gradient times the input: each element's share of the output if the network were linear without bias.

    of: logit, probability or loss (the cross-entropy against the class).
    """

    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        return Attribution(map=request.x * _slope(request))


def _slope(request: AttributionRequest) -> Tensor:
    return request.gradients(lambda i, k: (request.x[i], 1.0))[0]
