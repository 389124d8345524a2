"""Residual networks (He et al. 2016) with torchvision's names of parameters, and with squeeze and excitation."""

from __future__ import annotations

from torch import Tensor, nn

from advex.errors import SpecError
from advex.networks.activations import activation as make_activation
from advex.networks.activations import check_range, he_init
from advex.registry import register

# Blocks in each of the four stages, by depth. From 50 on they are bottlenecks.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK = 50


class SqueezeExcitation(nn.Module):
    """Each channel times a number in (0, 1) that depends on the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int, activation: str, d: float) -> None:
        super().__init__()
        between = max(channels // 16, 8)
        self.fc1, self.fc2 = nn.Conv2d(channels, between, 1), nn.Conv2d(between, channels, 1)
        self.act = make_activation(activation, d)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a 3x3 one between two of 1x1, and the input added before the last activation.

    before: channels of the input. width: of the 3x3 convolutions, which are `expansion` times as many at the end.
    stride: of the first 3x3 convolution ("v1.5" of bottlenecks). Each activation is a module of its own.
    """

    def __init__(
        self, before: int, width: int, stride: int, *, expansion: int, activation: str, d: float, se: bool
    ) -> None:
        super().__init__()
        after = expansion * width
        shapes = [(before, width, 3, stride), (width, after, 3, 1)]
        if expansion > 1:
            shapes = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        self.count = len(shapes)
        for number, (narrow, wide, kernel, step) in enumerate(shapes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(narrow, wide, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(wide))
            setattr(self, f"act{number}", make_activation(activation, d))
        self.se = SqueezeExcitation(after, activation, d) if se else None
        changes = stride != 1 or before != after
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.downsample = shortcut if changes else None

    def forward(self, x: Tensor) -> Tensor:
        path, shortcut = x, x if self.downsample is None else self.downsample(x)
        for number in range(1, self.count + 1):
            conv, norm, act = (getattr(self, f"{name}{number}") for name in ("conv", "bn", "act"))
            path = norm(conv(path))
            if number == self.count:
                path = shortcut + (path if self.se is None else self.se(path))
            path = act(path)
        return path


@register(
    "network",
    "resnet",
    cites="he2016 Table 1; hu2018",
    examples=("depth=18,width=4,activation=half_huber,d=2", "depth=50,width=2,se=true"),
)
class ResNet(nn.Module):
    """ResNet of 18 to 152 layers; from 50 on with bottlenecks, whose 3x3 convolution has the stride.

    depth: 18, 34, 50, 101 or 152. width: channels of the first stage's 3x3 convolutions; each stage doubles them and
    halves height and width. se: each block ends in a squeeze and excitation (SE-ResNet). channels: of the input.
    classes: outputs. activation: relu (the paper's), leaky_relu, half_huber, softplus, silu, gelu; d: of the half-Huber
    ReLU. Pictures of any size.
    """

    def __init__(
        self,
        depth: int = 50,
        width: int = 64,
        se: bool = False,
        channels: int = 3,
        classes: int = 1000,
        activation: str = "relu",
        d: float = 1.0,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise SpecError(f"depth must be 18, 34, 50, 101 or 152, not {depth}.")
        before = check_range("width", width, 1, 1024)
        expansion = 4 if depth >= BOTTLENECK else 1
        self.conv1 = nn.Conv2d(check_range("channels", channels, 1, 1024), before, 7, 2, padding=3, bias=False)
        self.bn1, self.act = nn.BatchNorm2d(before), make_activation(activation, d)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        for stage, count in enumerate(BLOCKS[depth]):
            blocks: list[nn.Module] = []
            for position in range(count):
                shape = (before, width << stage, 2 if stage > 0 and position == 0 else 1)
                blocks.append(ResidualBlock(*shape, expansion=expansion, activation=activation, d=d, se=se))
                before = expansion * (width << stage)
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(before, check_range("classes", classes, 2, 100_000))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean(dim=(2, 3)))
