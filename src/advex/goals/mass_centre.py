"""An explanation whose weight lies elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.distances.channels import Channels, check_channels, per_pixel
from advex.goals.goal import goal
from advex.goals.on_maps import SOFT, OnMaps
from advex.goals.targets import Target

ROUND = 0.1  # up to which share of the mean size the kink of an absolute value is rounded off


@goal(
    "mass_centre", cites="ghorbani2019 Eq. 4", examples=("explainer=(integrated_gradients:steps=3),channels=max_abs",)
)
@dataclass(frozen=True, kw_only=True)
class MassCentre(OnMaps):
    """A map whose centre of mass (of absolute values) has moved as far as possible.

    explainer, target, decision, soften, seed: see `OnMaps`. centre: [n, axes], where it was, in pixels (of rows, the
    place in the row); of a spec string that of x now. channels: see `Channels`.
    """

    centre: Tensor
    channels: Channels = "sum_abs"

    def __post_init__(self) -> None:
        OnMaps.__post_init__(self)
        check_channels(self.channels)

    @classmethod
    def at(
        cls,
        classifier: Classifier,
        x: Tensor,
        y: Tensor,
        *,
        explainer: Any = "input_x_gradient",
        channels: Channels = "sum_abs",
        target: Target = "predicted",
        soften: float | None = SOFT,
        seed: int = 0,
    ) -> MassCentre:
        """The goal to move the centre that the maps of x have now, with the decisions that it has now."""
        base = OnMaps.bound(explainer, classifier, x, y, target=target, soften=soften, seed=seed)
        centre = centre_of(base.map_of(classifier, x).detach(), channels)
        return cls(centre=centre, channels=channels, **vars(base))

    def climbed(self, maps: Tensor, logits: Tensor) -> Tensor:
        """Minus the squared way from where the centre was, of absolute values without their kink at 0."""
        size = per_pixel(maps, self.channels)
        little = ROUND * size.detach().flatten(1).abs().mean(dim=1).reshape(-1, *[1] * (size.ndim - 1))
        rounded = (size.square() + little.square()).sqrt() - little
        return -(centre_of(rounded, "none") - self.centre).square().sum(dim=1)

    def judged(self, maps: Tensor) -> Tensor:
        """Minus the way from where the centre was."""
        return -(centre_of(maps, self.channels) - self.centre).square().sum(dim=1).sqrt()


def centre_of(maps: Tensor, channels: Channels) -> Tensor:
    """The centre of mass of absolute values, [n, axes] in pixels from the first, of maps [n, *shape]; NaN of zeros."""
    size = per_pixel(maps, channels).abs()
    size = size.sum(dim=1) if size.ndim == 4 else size  # channels that are not one yet count alike
    total = size.flatten(1).sum(dim=1)
    shares = size / torch.where(total > 0, total, math.nan).reshape(-1, *[1] * (size.ndim - 1))
    places = torch.meshgrid(*(torch.arange(side, device=maps.device) for side in size.shape[1:]), indexing="ij")
    return torch.stack([(shares * place).flatten(1).sum(dim=1) for place in places], dim=1)
