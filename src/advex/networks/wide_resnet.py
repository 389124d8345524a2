"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from advex.errors import SpecError
from advex.networks.activations import activation as make_activation
from advex.networks.activations import check_range, he_init
from advex.networks.preact_resnet import stages
from advex.registry import register


@register(
    "network",
    "wide_resnet",
    cites="zagoruyko2016 Table 1",
    examples=("depth=10,width=1,dropout=0.1", "depth=16,width=2,activation=half_huber,d=2"),
)
class WideResNet(nn.Module):
    """WRN-depth-width: three stages of n pre-activation blocks of 16, 32 and 64 times `width` channels.

    depth: 6n + 4, such as 10, 16, 28, 40. width: factor. dropout: share of the units between a block's convolutions
    that is lost in training. channels: of the input. classes: outputs. activation: relu (the paper's), leaky_relu,
    half_huber, softplus, silu, gelu; d: of the half-Huber ReLU.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
        channels: int = 3,
        classes: int = 10,
        activation: str = "relu",
        d: float = 1.0,
    ) -> None:
        super().__init__()
        count, rest = divmod(check_range("depth", depth, 10, 1204) - 4, 6)
        if rest:
            raise SpecError(f"depth must be 6n + 4 (10, 16, 22, 28, ...), not {depth}.")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise SpecError(f"dropout must be at least 0 and below 1, not {dropout!r}.")
        check_range("width", width, 1, 128)
        self.stem = nn.Conv2d(check_range("channels", channels, 1, 1024), 16, 3, padding=1, bias=False)
        widths = [16 * width, 32 * width, 64 * width]
        self.blocks = nn.Sequential(
            *stages(16, widths, count, activation=activation, d=d, kernel=1, dropout=float(dropout))
        )
        self.norm, self.act = nn.BatchNorm2d(widths[-1]), make_activation(activation, d)
        self.head = nn.Linear(widths[-1], check_range("classes", classes, 2, 100_000))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.blocks(self.stem(x)))).mean(dim=(2, 3)))
