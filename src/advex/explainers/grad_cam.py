"""Class activation maps: where a late layer holds evidence for a class, by its channels weighted with derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from advex.explainers.layers import AUTO, map_of_layer
from advex.explainers.maps import Attribution, AttributionRequest, DifferentiableMethod, explainer
from advex.explainers.outputs import Of


@explainer("grad_cam", cites="selvaraju2017", shows="regions", looks_at="layer", examples=("layer=conv",))
class GradCAM(DifferentiableMethod):
    """The channels of a late layer, weighted by their mean gradient: one value per pixel, the same in all channels.

    layer: a layer's name, or auto: the last one, before the head, whose output has places (see the record for
    which; tokens count as the square they tile). relu: keep what speaks for the class only.
    of: logit, probability or loss (the cross-entropy against the class).
    """

    layer: str = AUTO
    relu: bool = True
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        """relu(sum_k alpha_k A^k), alpha_k the mean over places of d output / d A^k (Eq. 1-2)."""

        def cam(activations: Tensor, gradient: Tensor) -> Tensor:
            values = torch.einsum("nk,nk...->n...", gradient.flatten(2).mean(dim=2), activations)
            return values.relu() if self.relu else values

        return map_of_layer(request, self.layer, cam)


@explainer(
    "grad_cam_plus_plus", cites="chattopadhay2018 Eq. 19", shows="regions", looks_at="layer", examples=("layer=conv",)
)
class GradCAMPlusPlus(DifferentiableMethod):
    """Like `grad_cam`, with weights that take into account how much each location explains by itself.

    Made for layers whose outputs are not negative. layer, of: as for `grad_cam`.
    """

    layer: str = AUTO
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        """relu(sum_k w_k A^k), w_k = sum_ij relu(g) g^2 / (2 g^2 + S_k g^3) at place ij, and S_k = sum_ij A^k."""

        def cam(activations: Tensor, gradient: Tensor) -> Tensor:
            rise, total = gradient.relu().flatten(2), activations.flatten(2).sum(dim=2, keepdim=True)
            weight = (rise / (2 + total * rise)).sum(dim=2)
            return torch.einsum("nk,nk...->n...", weight, activations).relu()

        return map_of_layer(request, self.layer, cam)


@explainer("layer_cam", cites="jiang2021 Eq. 4-6", shows="regions", looks_at="layer", examples=("layer=conv",))
class LayerCAM(DifferentiableMethod):
    """The channels of a layer, each location weighted by its own positive gradient; also for early layers.

    layer, of: as for `grad_cam`.
    """

    layer: str = AUTO
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        return map_of_layer(request, self.layer, lambda a, g: (g.relu() * a).sum(dim=1).relu())


@explainer(
    "norm_grad", cites="rebuffi2020 Sec. 3", shows="regions", looks_at="layer", examples=("layer=conv,selective=true",)
)
class NormGrad(DifferentiableMethod):
    """How much each location of a layer would change a 1x1 convolution behind it: its share of the gradient, as a norm.

    The channels' norm times that of their gradient. selective: the norm of their products, of those that are positive
    alone, and so of what speaks for the class. layer, of: as for `grad_cam`.
    """

    layer: str = AUTO
    selective: bool = False
    of: Of = "logit"

    def attribute(self, request: AttributionRequest) -> Attribution:
        def both(a: Tensor, g: Tensor) -> Tensor:
            return (a * g).relu().norm(dim=1) if self.selective else a.norm(dim=1) * g.norm(dim=1)

        return map_of_layer(request, self.layer, both)
