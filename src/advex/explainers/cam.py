"""Class activation maps as they were first: the weights of the class on the channels before a global average pool."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from advex.errors import InputError
from advex.explainers.layers import AUTO, map_of_layer
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer


@explainer("cam", cites="zhou2016 Eq. 1, 2", shows="regions", looks_at="pool")
class CAM(AttributionMethod):
    """The channels of the last layer with places, by the class's weights in the linear layer that sees their means.

    For networks that end in a mean over all places and one linear layer, as `vgg:head=gap` and the residual networks;
    others are refused (InputError). Signed: negative where a place speaks against the class. But for that and a
    positive factor it is the map of `grad_cam`, which needs no such end.
    """

    def attribute(self, request: AttributionRequest) -> Attribution:
        """M_c = sum_k w_k^c A^k at every place: the class's logit is the mean of M_c over the places, and its bias."""
        linear = [module.weight for module in request.classifier.modules() if isinstance(module, nn.Linear)]

        def cam(activations: Tensor, gradient: Tensor) -> Tensor:
            slopes, total = gradient.flatten(2), gradient.flatten(2).sum(dim=2)
            near = 1e-3 * total.abs().amax(dim=1)  # rounding, of bfloat16 no less
            even = ((slopes * slopes.shape[2] - total[:, :, None]).abs().amax(dim=(1, 2)) <= near).all()
            known = ~total.any(dim=1)
            for weight in linear:
                if weight.shape[1] == total.shape[1]:
                    known |= (torch.cdist(total.double(), weight.double(), p=math.inf) <= near[:, None]).any(dim=1)
            if not (even and known.all()):
                raise InputError(
                    "cam needs a network that ends in global average pooling and one linear layer, unlike "
                    "this one: use grad_cam instead."
                )
            return torch.einsum("nk,nk...->n...", total, activations)

        return map_of_layer(request, AUTO, cam)
