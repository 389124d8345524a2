"""Networks that a spec string builds, so that saved classifiers need no code: `"preact_resnet:depth=44"`."""

from __future__ import annotations

import torch
from torch import nn

from advex import registry
from advex.errors import SpecError
from advex.networks.activations import HalfHuberReLU as HalfHuberReLU
from advex.networks.activations import half_huber_relu as half_huber_relu
from advex.networks.preact_resnet import PreactResNet as PreactResNet
from advex.networks.residual_drop import ResidualDrop as ResidualDrop
from advex.networks.resnet import ResNet as ResNet
from advex.networks.small import MLP as MLP
from advex.networks.small import Linear as Linear
from advex.networks.small import SmallCNN as SmallCNN
from advex.networks.vgg import VGG as VGG
from advex.networks.vgg import MostOfPlaces as MostOfPlaces
from advex.networks.wide_resnet import WideResNet as WideResNet

# Each size is within its own range and their product may still be absurd.
_MOST_PARAMETERS = 500_000_000


def build(spec: str) -> nn.Module:
    """The network a spec string names. Raises SpecError for names and sizes that are not possible."""
    with torch.device("meta"):  # counted before any memory is taken
        count = sum(parameter.numel() for parameter in registry.build("network", spec).parameters())
    if count > _MOST_PARAMETERS:
        raise SpecError(f"'{spec}' would have {count:.3g} parameters; at most {_MOST_PARAMETERS:.0e} are possible.")
    return registry.build("network", spec)
