"""Grad-CAM (Selvaraju et al. 2017): where a late layer holds evidence for a class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from advex.errors import InputError
from advex.explainers.layers import AUTO, layer_gradient
from advex.explainers.maps import Attribution, AttributionRequest, DifferentiableMethod, explainer
from advex.explainers.outputs import Of

# How maps of one, two and three spatial axes are enlarged, by the number of axes of x.
_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


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
        if request.x.ndim not in _MODES:
            shape = tuple(request.x.shape[1:])
            raise InputError(f"Grad-CAM shows places in a picture; inputs of shape {shape}, as of tables, have none.")
        layer, maps, flat = self.layer, [], []

        def run(rows: slice) -> None:
            nonlocal layer
            layer, activations, gradient = layer_gradient(request, rows, layer)
            maps.append(self._show(activations, gradient, request.x[rows]))
            slope = gradient.detach().flatten(1)
            flat.append(~slope.any(dim=1) | ~slope.isfinite().all(dim=1))

        request.passes(run, len(request.x))
        return Attribution(map=torch.cat(maps), flat=torch.cat(flat), chosen={"layer": layer})

    def _show(self, activations: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        """relu(sum_k alpha_k A^k), alpha_k the mean over places of d output / d A^k (Eq. 1-2), enlarged to x."""
        alpha = gradient.flatten(2).mean(dim=2)
        cam = torch.einsum("nk,nk...->n...", alpha, activations)
        cam = cam.relu() if self.relu else cam
        cam = interpolate(cam[:, None], size=x.shape[2:], mode=_MODES[x.ndim], align_corners=False)
        return cam.expand(x.shape)
