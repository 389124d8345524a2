"""VGG (Simonyan and Zisserman 2015), with torchvision's names of parameters, and forms of it that look at places."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from advex.errors import InputError, SpecError
from advex.networks.activations import activation as make_activation
from advex.networks.activations import check_range, he_init
from advex.registry import register

# Convolutions in each of the five stages, by depth: configurations A, B, D and E.
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_SIDE = 7  # of the picture that the first dense layer sees


class MostOfPlaces(nn.Module):
    """Of a network that answers for each place, [n, classes, height, width], the largest answer of each class.

    network: any module. Raises InputError when it answers in another form.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        answers = self.network(x)
        if not isinstance(answers, Tensor) or answers.ndim != 4:
            shape = getattr(answers, "shape", type(answers).__name__)
            raise InputError(f"MostOfPlaces needs a network that returns [n, classes, height, width], not {shape}.")
        return answers.amax(dim=(2, 3))


@register(
    "network",
    "vgg",
    cites="simonyan2015 Table 1; zhou2016",
    examples=(
        "depth=11,width=2,hidden=6,batch_norm=true,activation=half_huber,d=2",
        "depth=13,width=2,head=gap",
        "depth=11,width=2,hidden=6,convolutional=true",
    ),
)
class VGG(nn.Module):
    """VGG of 11, 13, 16 or 19 layers, with batch norm or without.

    depth: 11 (configuration A), 13 (B), 16 (D), 19 (E). batch_norm: after each convolution. width: channels of the
    first stage; the others have 2, 4, 8 and 8 times as many. hidden: units of the two dense layers, of which the share
    `dropout` is lost in training. channels: of the input. classes: outputs. activation: relu (the paper's), leaky_relu,
    half_huber, softplus, silu, gelu; d: of the half-Huber ReLU. Pictures of 32 pixels or more.

    convolutional: the dense layers see every place of a larger picture (224 pixels or more), and of each class the
    largest answer counts. head="gap": in place of the last pool and the dense layers a convolution of 16 times `width`
    channels, the mean over the picture and one dense layer (VGG-GAP, Zhou et al. 2016).
    """

    def __init__(
        self,
        depth: int = 16,
        batch_norm: bool = False,
        width: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
        channels: int = 3,
        classes: int = 1000,
        activation: str = "relu",
        d: float = 1.0,
        convolutional: bool = False,
        head: Literal["dense", "gap"] = "dense",
    ) -> None:
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise SpecError(f"depth must be 11, 13, 16 or 19, not {depth}.")
        if not 0 <= dropout < 1:
            raise SpecError(f"dropout must be at least 0 and below 1, not {dropout!r}.")
        if convolutional and head == "gap":
            raise SpecError("head=gap has no dense layers that convolutional=true could turn into convolutions.")
        before = check_range("channels", channels, 1, 1024)
        check_range("classes", classes, 2, 100_000)
        layers: list[nn.Module] = []
        for count, factor in zip(_CONVOLUTIONS[depth], (1, 2, 4, 8, 8), strict=True):
            for _ in range(count):
                after = factor * check_range("width", width, 1, 1024)
                layers.append(nn.Conv2d(before, after, 3, padding=1))
                layers += [nn.BatchNorm2d(after)] if batch_norm else []
                layers.append(make_activation(activation, d))
                before = after
            layers.append(nn.MaxPool2d(2))
        if head == "gap":
            self.features = nn.Sequential(*layers[:-1])
            self.conv6, self.act6 = nn.Conv2d(before, 16 * width, 3, padding=1), make_activation(activation, d)
            self.fc = nn.Linear(16 * width, classes)
        else:
            self.features = nn.Sequential(*layers)
            check_range("hidden", hidden, 1, 65_536)
            if convolutional:
                dense = [nn.Conv2d(before, hidden, _SIDE), nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, classes, 1)]
            else:
                self.avgpool = nn.AdaptiveAvgPool2d(_SIDE)
                sizes = [_SIDE * _SIDE * before, hidden, hidden, classes]
                dense = [nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)]
            between = [[make_activation(activation, d), nn.Dropout(dropout)] for _ in range(2)]
            self.classifier = nn.Sequential(dense[0], *between[0], dense[1], *between[1], dense[2])
        self.head, self.convolutional = head, convolutional
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.head == "gap":
            return self.fc(self.act6(self.conv6(x)).mean(dim=(2, 3)))
        if self.convolutional:
            return self.classifier(x).amax(dim=(2, 3))
        return self.classifier(self.avgpool(x).flatten(1))
