"""Networks that a spec string builds, so that saved classifiers need no code: `"preact_resnet:depth=44"`."""

from __future__ import annotations

from torch import nn

from advex import registry
from advex.networks.activations import HalfHuberReLU as HalfHuberReLU
from advex.networks.activations import half_huber_relu as half_huber_relu
from advex.networks.preact_resnet import PreactResNet as PreactResNet
from advex.networks.small import MLP as MLP
from advex.networks.small import Linear as Linear
from advex.networks.small import SmallCNN as SmallCNN


def build(spec: str) -> nn.Module:
    """The network a spec string names. Raises SpecError for names and sizes that are not possible."""
    return registry.build("network", spec)
