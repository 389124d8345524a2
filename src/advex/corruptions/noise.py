"""Noise: of the sensor, of few photons, of single elements, and in proportion to the light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advex.corruptions.corruption import Corruption, Fields, Size, corruption, normal, uniform

_LEVELS = 255


@corruption(
    "gaussian_noise",
    {32: (0.04, 0.06, 0.08, 0.09, 0.1), 64: (0.04, 0.08, 0.12, 0.15, 0.18), 224: (0.08, 0.12, 0.18, 0.26, 0.38)},
)
class GaussianNoise(Corruption):
    """Normal noise on every element.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"noise": normal(seeds, "gaussian_noise", *size)}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        return x + self.parameters(x.shape) * fields["noise"]


@corruption(
    "speckle_noise",
    {32: (0.06, 0.1, 0.12, 0.16, 0.2), 64: (0.15, 0.2, 0.25, 0.3, 0.35), 224: (0.15, 0.2, 0.35, 0.45, 0.6)},
)
class SpeckleNoise(Corruption):
    """Normal noise in proportion to each element's value.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"noise": normal(seeds, "speckle_noise", *size)}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        return x + self.parameters(x.shape) * x * fields["noise"]


@corruption(
    "impulse_noise",
    {32: (0.01, 0.02, 0.03, 0.05, 0.07), 64: (0.01, 0.02, 0.05, 0.08, 0.14), 224: (0.03, 0.06, 0.09, 0.17, 0.27)},
)
class ImpulseNoise(Corruption):
    """A share of the elements set to 0 or 1.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"hit": uniform(seeds, "impulse_noise", *size), "bright": uniform(seeds, "impulse_noise: bright", *size)}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        return torch.where(fields["hit"] <= self.parameters(x.shape), (fields["bright"] <= 0.5).to(x), x)


@corruption("shot_noise", {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)})
class ShotNoise(Corruption):
    """A Poisson number of photons at each element: the uniform numbers drawn are its probabilities.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"probability": uniform(seeds, "shot_noise", *size)}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        photons = self.parameters(x.shape)
        level = (_LEVELS * x).round().long()
        return _poisson_quantile(level, photons, fields["probability"]).to(x) / photons


def _poisson_quantile(level: Tensor, photons: int, probability: Tensor) -> Tensor:
    """The least k that a Poisson number of mean photons x level / 255 does not exceed with that probability."""
    most = math.ceil(photons + 10 * math.sqrt(photons) + 20)
    mean = photons * torch.arange(_LEVELS + 1, dtype=torch.float64, device=level.device)[:, None] / _LEVELS
    k = torch.arange(most, dtype=torch.float64, device=level.device)
    below = (torch.special.xlogy(k, mean) - mean - torch.lgamma(k + 1)).exp().cumsum(dim=1).clamp_max(1.0)
    below[:, -1] = 1.0
    # Distribution after distribution in one rising row, each from twice its level to one more: one search for all.
    start = 2 * torch.arange(_LEVELS + 1, dtype=torch.float64, device=level.device)[:, None]
    return torch.searchsorted((below + start).flatten(), probability.double() + 2 * level) - most * level
