"""The network that adversarial training on MNIST is measured with (Madry et al. 2018; Chalasani et al. 2020)."""

from __future__ import annotations

from torch import nn

from advex.networks.activations import check_range
from advex.registry import register


@register("network", "mnist_cnn", cites="madry2018; chalasani2020 Sec. 6")
class MnistCNN(nn.Sequential):
    """Two 5x5 convolutions of 32 and 64 channels, each with ReLU and a 2x2 max pool, then 1024 units and the classes.

    channels: of the input. classes: outputs. size: side of the square picture, at least 4. Weights start as in the
    authors' code: normal of deviation 0.1, cut at 0.2, with biases of 0.1.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: int = 28) -> None:
        side = check_range("size", size, 4, 512) // 4  # after both pools
        super().__init__(
            nn.Conv2d(check_range("channels", channels, 1, 1024), 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * side * side, 1024), nn.ReLU(),
            nn.Linear(1024, check_range("classes", classes, 2, 100_000)),
        )  # fmt: skip
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:  # else nothing to fill
                nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
                nn.init.constant_(layer.bias, 0.1)  # pyright: ignore
