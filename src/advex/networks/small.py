"""Linear, multi-layer and small convolutional networks: for tables, small pictures, and tests with known answers."""

from __future__ import annotations

from torch import Tensor, nn

from advex.networks.activations import activation as make_activation
from advex.networks.activations import check_range, he_init, widths_of
from advex.registry import register


@register("network", "linear")
class Linear(nn.Sequential):
    """One linear layer on the flattened input.

    features: elements of one input. classes: outputs. bias: whether there is one. zero: training starts with weights
    of zero, so that elements which never matter keep a weight of zero (both as in Chalasani et al. 2020).
    """

    def __init__(self, features: int = 64, classes: int = 10, bias: bool = True, zero: bool = False) -> None:
        check_range("features", features, 1, 10_000_000)
        check_range("classes", classes, 2, 100_000)
        layer = nn.Linear(features, classes, bias=bias)
        if zero:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        super().__init__(nn.Flatten(), layer)


@register("network", "mlp", examples=("activation=relu",))
class MLP(nn.Sequential):
    """Fully connected layers on the flattened input.

    features: elements of one input. classes: outputs. widths: of the hidden layers (`widths=64-64`).
    activation: relu, leaky_relu, half_huber, softplus, silu or gelu; d: of the half-Huber ReLU.
    """

    def __init__(
        self,
        features: int = 64,
        classes: int = 10,
        widths: int | tuple[int, ...] = (64, 64),
        activation: str = "half_huber",
        d: float = 1.0,
    ) -> None:
        sizes = (check_range("features", features, 1, 10_000_000), *widths_of("widths", widths))
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(before, after), make_activation(activation, d)]
        super().__init__(*layers, nn.Linear(sizes[-1], check_range("classes", classes, 2, 100_000)))
        he_init(self)


@register("network", "small_cnn", examples=("activation=relu",))
class SmallCNN(nn.Module):
    """Three convolutions with batch norm, the last two at stride 2, then the mean over the picture.

    channels: of the input. classes: outputs. widths: of the three convolutions.
    activation, d: as for `mlp`. Any picture of at least 4x4 pixels.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        widths: tuple[int, ...] = (16, 32, 64),
        activation: str = "half_huber",
        d: float = 1.0,
    ) -> None:
        super().__init__()
        before = check_range("channels", channels, 1, 1024)
        layers: list[nn.Module] = []
        for width, stride in zip(widths_of("widths", widths, 3), (1, 2, 2), strict=True):
            layers += [nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [make_activation(activation, d)]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before, check_range("classes", classes, 2, 100_000))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))
