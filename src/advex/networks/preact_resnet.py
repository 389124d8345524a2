"""The papers' pre-activation ResNet (Woods et al. 2019, Sec. III-I)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from advex.errors import SpecError, did_you_mean
from advex.networks.activations import activation as make_activation
from advex.networks.activations import check_range, he_init, widths_of
from advex.networks.residual_drop import Factors, residual_drop, scaled
from advex.registry import register


def _stem(kind: str, channels: int, width: int) -> nn.Sequential:
    stems = {
        "3x3": lambda: [nn.Conv2d(channels, width, 3, padding=1, bias=False)],
        "4x4s3": lambda: [nn.Conv2d(channels, width, 4, stride=3, padding=1, bias=False)],
        "9x9pool8": lambda: [nn.Conv2d(channels, width, 9, padding=4, bias=False), nn.AvgPool2d(8)],
        # The max pool of the usual ImageNet stem is an average here: it passes gradients to every pixel.
        "imagenet": lambda: [
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
            nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        ],
    }
    if kind not in stems:
        raise SpecError(f"There is no stem '{kind}': {did_you_mean(kind, stems)}")
    return nn.Sequential(*stems[kind]())


class Block(nn.Module):
    """x + conv(act(bn(conv(act(bn(x)))))).

    Where the shape changes, the shortcut is a strided convolution of the pre-activated input, `kernel` pixels wide.
    dropout: of the second activation.
    """

    def __init__(
        self, before: int, width: int, stride: int, activation: str, d: float, *, kernel: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1, self.act1 = nn.BatchNorm2d(before), make_activation(activation, d)
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm2, self.act2 = nn.BatchNorm2d(width), make_activation(activation, d)
        if dropout:
            self.act2 = nn.Sequential(self.act2, nn.Dropout(dropout))
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = stride != 1 or before != width
        self.shortcut = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False) if changes else None

    def _get_name(self) -> str:
        return "_Block"  # by which evaluations and projects of before know their networks

    def forward(self, x: Tensor, factors: Factors | None = None) -> Tensor:
        active = self.act1(self.norm1(x))
        path = self.conv2(self.act2(self.norm2(self.conv1(active))))
        if factors is not None:
            path = scaled(path, factors)
        return path + (x if self.shortcut is None else self.shortcut(active))


def stages(before: int, widths: Sequence[int], count: int, **options: Any) -> list[Block]:
    """`count` blocks of each width; each stage but the first halves height and width. options: of the blocks."""
    blocks: list[Block] = []
    for stage, width in enumerate(widths):
        for position in range(count):
            blocks.append(Block(before, width, 2 if stage > 0 and position == 0 else 1, **options))
            before = width
    return blocks


@register(
    "network",
    "preact_resnet",
    cites="woods2019 Sec. III-I; he2016; huang2016; yamada2018",
    examples=(
        "depth=14,widths=4-6-8,d=2.0,drop=shakedrop,survival=0.5",
        "depth=20,widths=4-6-8,activation=relu,stem=4x4s3,drop=none",
    ),
)
class PreactResNet(nn.Module):
    """Pre-activation residual network of s stages of n blocks each, and so of depth 2 s n + 2.

    depth: with three stages 8, 14, 20, ..., 44 (the papers'), 170; with four 10, 18 (their ResNet-18), 26.
    widths: of the stages; each but the first halves height and width. channels: of the input. classes: outputs.
    activation: half_huber (the papers'), relu, softplus, silu, gelu; d: of the half-Huber ReLU. stem: "3x3" (CIFAR),
    "4x4s3" (COCO boxes of 96x96), "9x9pool8" (JSRT), "imagenet" (7x7 stride 2 and an average pool). drop:
    "stochastic_depth" or "shakedrop" lose residual branches at random in training mode (`residual_drop.py`), the
    last with probability 1 - survival; alpha: half the width of ShakeDrop's forward range. Weights are the same
    with any drop.
    """

    def __init__(
        self,
        depth: int = 44,
        widths: tuple[int, ...] = (16, 32, 64),
        channels: int = 3,
        classes: int = 10,
        activation: str = "half_huber",
        d: float = 1.0,
        stem: str = "3x3",
        drop: str = "none",
        survival: float = 0.8,
        alpha: float = 0.0,
    ) -> None:
        super().__init__()
        check_range("depth", depth, 8, 1202)
        widths = widths_of("widths", widths)
        if not widths:
            raise SpecError("widths needs at least one number, such as 16-32-64.")
        count, rest = divmod(depth - 2, 2 * len(widths))
        if rest or not count:
            step = 2 * len(widths)
            raise SpecError(
                f"depth must be {step}n + 2 ({step + 2}, {2 * step + 2}, {3 * step + 2}, ...) with "
                f"{len(widths)} widths, not {depth}."
            )
        self.stem = _stem(stem, check_range("channels", channels, 1, 1024), widths[0])
        # The shortcuts are as wide as in the authors' code (not the usual 1x1).
        blocks = stages(widths[0], widths, count, activation=activation, d=d, kernel=3)
        self.blocks = nn.Sequential(*blocks)
        self.drop = residual_drop(drop, len(blocks), survival, alpha)
        self.norm, self.act = nn.BatchNorm2d(widths[-1]), make_activation(activation, d)
        self.head = nn.Linear(widths[-1], check_range("classes", classes, 2, 100_000))
        he_init(self)
        for block in blocks:
            nn.init.zeros_(block.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.drop is None:
            x = self.blocks(x)
        else:
            for block, factors in zip(self.blocks, self.drop(x), strict=True):
                x = block(x, factors)
        return self.head(self.act(self.norm(x)).mean(dim=(2, 3)))
