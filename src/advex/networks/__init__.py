"""Networks that a spec string builds, so that saved classifiers need no code: `"preact_resnet:depth=44"`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from advex import registry
from advex.errors import SpecError
from advex.networks.activations import HalfHuberReLU, half_huber_relu
from advex.networks.preact_resnet import PreactResNet
from advex.networks.residual_drop import ResidualDrop
from advex.networks.resnet import ResNet
from advex.networks.small import MLP, Linear, SmallCNN
from advex.networks.vgg import VGG, MostOfPlaces
from advex.networks.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "VGG",
    "HalfHuberReLU",
    "Linear",
    "MostOfPlaces",
    "PreactResNet",
    "ResNet",
    "ResidualDrop",
    "SmallCNN",
    "WideResNet",
    "build",
    "check",
    "classes_of",
    "half_huber_relu",
]

# Each size is within its own range and their product may still be absurd.
_MOST_PARAMETERS = 500_000_000


def build(spec: str) -> nn.Module:
    """The network a spec string names. Raises SpecError for names and sizes that are not possible."""
    check(spec)
    return registry.build("network", spec)


def classes_of(spec: str) -> int | None:
    """How many classes the network of a spec tells apart; None where it has no such option. Raises SpecError."""
    name, given = registry.parse(spec)
    return {**registry.entries("network")[name].defaults(), **given}.get("classes")


@lru_cache(maxsize=1024)
def check(spec: str) -> None:
    """Raise SpecError unless `build` can make the network, without taking the memory."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in registry.build("network", spec).parameters())
    if count > _MOST_PARAMETERS:
        raise SpecError(f"'{spec}' would have {count:.3g} parameters; the limit is {_MOST_PARAMETERS:.0e}.")
