"""Structural similarity of two maps (Wang et al. 2004): whether they look alike place by place."""

from __future__ import annotations

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

_SIGMA, _RADIUS = 1.5, 5  # of the window, 11 x 11 pixels
_STEADY = (0.01**2, 0.03**2)  # K1 and K2, of values whose range is 1


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of maps [n, height, width], each moved to [0, 1] by its own minimum and maximum: [n] float64.

    1 for equal maps. Mean over all pixels (scikit-image leaves out the five at each edge); beyond the edges the maps
    are mirrored. NaN where a map is the same everywhere.
    """
    a, b = (_unit(maps) for maps in (first, second))
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    together = _blurred(a * b) - mean_a * mean_b
    brightness = (2 * mean_a * mean_b + _STEADY[0]) / (mean_a**2 + mean_b**2 + _STEADY[0])
    structure = (2 * together + _STEADY[1]) / (var_a + var_b + _STEADY[1])
    return (brightness * structure).mean(dim=(1, 2)).to(first.device)


def _unit(maps: Tensor) -> Tensor:
    maps = maps.detach().cpu().double()
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)


def _blurred(maps: Tensor) -> Tensor:
    return torch.from_numpy(gaussian_filter(maps.numpy(), _SIGMA, radius=_RADIUS, axes=(1, 2)))
