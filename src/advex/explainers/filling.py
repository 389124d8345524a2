"""Pictures without parts of theirs: what stands in the place of pixels that are taken away."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import conv2d

from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers.request import AttributionRequest
from advex.inputs import per_channel

# What stands in a pixel's place that is taken away: the colour that the network is normalised by, the middle of what an
# input may be, or the picture blurred beyond recognition.
Fill = Literal["mean", "grey", "blur"]
_BLUR, _SIGMA = 11, 5.0  # RISE's kernel, in pixels


def filled(classifier: Classifier, x: Tensor, fill: Fill) -> Tensor:
    """What stands in the place of what is taken away of x, pixels [n, c, height, width] or columns [n, d]: like x.

    blur: as in RISE's own code a kernel of 11 x 11 pixels with sigma 5 (and mirrored tails), beyond whose edges the
    picture has the colour that the network is normalised by. Of rows mean is 0, the centre of a number and no category.
    Raises SpecError for other fills of rows, which have no places.
    """
    if x.ndim != 4 and fill != "mean":
        raise SpecError(f"fill={fill} works on pictures only: use fill=mean for columns.")
    if fill == "grey":
        return ((classifier.lower + classifier.upper) / 2).to(x).expand(x.shape[1:]).expand(x.shape)
    mean = per_channel(classifier.mean.to(x), x).expand(x.shape)
    if x.ndim != 4:
        return torch.maximum(torch.minimum(mean, classifier.upper.to(x)), classifier.lower.to(x))
    if fill == "mean":
        return mean
    point = np.zeros((_BLUR, _BLUR))
    point[_BLUR // 2, _BLUR // 2] = 1
    kernel = torch.from_numpy(gaussian_filter(point, _SIGMA)).to(x).expand(x.shape[1], 1, _BLUR, _BLUR)
    return mean + conv2d(x - mean, kernel, padding=_BLUR // 2, groups=x.shape[1])


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """[n, height, width], each blurred by a Gaussian, mirrored at the border. sigma: a share of the longer side."""
    width = sigma * max(pictures.shape[1:])
    values = gaussian_filter(np.asarray(pictures.detach().cpu().double()), (0, width, width))
    return torch.from_numpy(values).to(pictures)


def pictures(explainer: object, request: AttributionRequest) -> Tensor:
    """The inputs [n, channels, height, width] of an explainer of pictures. Raises InputError for others."""
    if request.x.ndim != 4:
        shape = tuple(request.x.shape[1:])
        raise InputError(f"{type(explainer).__name__} needs pictures, not inputs of shape {shape}.")
    return request.x
