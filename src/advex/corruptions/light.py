"""Light: brighter, and with less contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from advex.corruptions.corruption import Corruption, Fields, corruption

_FLAT = (0.4, 0.3, 0.2, 0.1, 0.05)
_BRIGHT = (0.1, 0.2, 0.3, 0.4, 0.5)


@corruption("contrast", {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: _FLAT, 224: _FLAT})
class Contrast(Corruption):
    """Every value nearer to the mean of its channel.

    severity: 1 to 5.
    """

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return mean + self.parameters(x.shape) * (x - mean)


@corruption("brightness", {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: _BRIGHT, 224: _BRIGHT})
class Brightness(Corruption):
    """More of the value of hue, saturation and value: the largest channel of a pixel, with which the others grow.

    severity: 1 to 5.
    """

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        value = x.amax(dim=1, keepdim=True)
        brighter = (value + self.parameters(x.shape)).clamp_max(1.0)
        return torch.where(value > 0, x * brighter / value.clamp_min(1e-12), brighter)
