"""Excitation backpropagation beside the paper's conditional probabilities, unit by unit over dense matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advex.classifier import Classifier
from advex.errors import AdvexWarning, InputError
from advex.explainers import Excitation

TARGET = torch.tensor([0, 2, 1, 2])


class Net(nn.Module):
    """Batch norm, a max pool, a mean pool, and a sum of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.norm2, self.relu2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.mean, self.flat = nn.AvgPool2d(2), nn.Flatten()
        self.hidden, self.relu3, self.head = nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)

    def top(self, x: Tensor) -> Tensor:
        return self.head(self.relu3(self.hidden(self.flat(self.mean(x)))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.norm1(self.conv1(x))))
        x = self.relu2(self.norm2(self.conv2(x)).relu() + x)
        return self.top(x)


def in_place(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


# Ways to write a residual sum.
SUMS: dict[str, Any] = {
    "a + b": lambda a, b: a + b, "a += b": in_place, "add_": lambda a, b: a.clone().add_(b), "add": torch.add,
    "alpha": lambda a, b: torch.add(a, b / 2, alpha=2), "a - (-b)": lambda a, b: a - (-b),
    "sum": lambda a, b: torch.stack([a, b]).sum(dim=0), "mean": lambda a, b: 2 * torch.stack([a, b]).mean(dim=0),
    "named": lambda a, b: torch.add(input=a, other=b), "named second": lambda a, b: a.add(other=b),
    "sum of a named input": lambda a, b: torch.sum(input=torch.stack([a, b]), dim=0),
}  # fmt: skip


class Residual(Net):
    """The branch of a residual block, which may be negative where the shortcut outweighs it."""

    way = "a + b"

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.norm1(self.conv1(x))))
        return self.top(self.relu2(SUMS[self.way](self.norm2(self.conv2(x)), x)))


@pytest.fixture
def classifier() -> Classifier:
    return made(Net())


def made(network: Any) -> Classifier:
    for norm in (network.norm1, network.norm2):
        norm.running_mean.normal_(std=0.2)  # pyright: ignore[reportOptionalMemberAccess]
        norm.bias.data.normal_(0.3, 0.3)
    network.hidden.bias.data.zero_()  # a unit that its bias alone wakes has nobody to hand its chance to
    network.head.weight.data.mul_(3)
    return Classifier(network.double(), mean=0.4, std=0.3).eval()


def inputs() -> Tensor:
    return torch.rand(4, 2, 8, 8, dtype=torch.float64)


def matrix(layer: Any, like: Tensor) -> Tensor:
    """w_ij of a linear layer: [outputs, inputs], each column its answer to a unit input, less that to nothing."""
    units = torch.eye(like.numel(), dtype=torch.float64).reshape(-1, *like.shape)
    return (layer(units) - layer(torch.zeros_like(units))).flatten(1).T


def handed_down(P: Tensor, w: Tensor, a: Tensor) -> Tensor:
    """Zhang et al., Eq. 8-10: P(a_j) = sum_i P(a_i) Z_i a_j w_ij over those i for which w_ij >= 0."""
    result = torch.zeros_like(a)
    for i in range(len(P)):
        excited = a * w[i].clamp_min(0)
        if excited.sum() > 0:
            result += P[i] * excited / excited.sum()
    return result


class Slow:
    """The chances at each layer of `Net` for one input, from the top down."""

    def __init__(self, network: Any, x: Tensor) -> None:
        self.network = network
        with torch.no_grad():
            h = (x[None] - 0.4) / 0.3
            self.relu1 = network.norm1(network.conv1(h)).relu()
            self.pool = network.pool(self.relu1)
            self.branch = network.norm2(network.conv2(self.pool))
            self.branch = self.branch if isinstance(network, Residual) else self.branch.relu()
            self.relu2 = (self.branch + self.pool).relu()
            self.mean = network.flat(network.mean(self.relu2))
            self.hidden = network.hidden(self.mean).relu()

    def at_relu2(self, c: int, sign: int = 1) -> Tensor:
        top = torch.zeros(3, dtype=torch.float64)
        top[c] = 1
        P = handed_down(top, sign * self.network.head.weight, self.hidden[0])
        P = handed_down(P, self.network.hidden.weight, self.mean[0])
        return handed_down(P, matrix(self.network.mean, self.relu2[0]), self.relu2[0].flatten())

    def at_relu1(self, P: Tensor) -> Tensor:
        """From the sum: to each branch its share of it; from the pool: to the largest of its window."""
        both = self.branch[0].flatten().clamp_min(0) + self.pool[0].flatten()  # of the sum's parts those above zero
        share = torch.where(both > 0, self.branch[0].flatten().clamp_min(0) / both, 0.0)
        down = handed_down(P * share, matrix(self.network.conv2, self.pool[0]), self.pool[0].flatten())
        down = (down + P * torch.where(both > 0, 1 - share, 0.0)).reshape(4, 4, 4)
        result = torch.zeros(4, 8, 8, dtype=torch.float64)
        for k in range(4):
            for i in range(4):
                for j in range(4):
                    window = self.relu1[0, k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
                    at = int(window.argmax())
                    result[k, 2 * i + at // 2, 2 * j + at % 2] += down[k, i, j]
        return result


def shown(places: Tensor) -> Tensor:
    """[h, w], as large as the input, of which each pixel and channel has an even share."""
    large = interpolate(places[None, None], size=(8, 8), mode="bilinear", align_corners=False)[0]
    return large.expand(2, 8, 8) * places.numel() / 128


def test_a_walk_down_to_a_layer(classifier: Classifier) -> None:
    x = inputs()
    early, late = (Excitation(layer=name)(classifier, x, TARGET) for name in ("relu1", "relu2"))
    for i, c in enumerate(TARGET.tolist()):
        slow = Slow(classifier.network, x[i])
        P = slow.at_relu2(c)
        assert torch.allclose(late.map[i], shown(P.reshape(4, 4, 4).sum(dim=0)), atol=1e-12)
        assert torch.allclose(early.map[i], shown(slow.at_relu1(P).sum(dim=0)), atol=1e-12)
    for each in (early, late):
        assert torch.allclose(each.map.sum(dim=(1, 2, 3)), torch.ones(4, dtype=torch.float64), atol=1e-5)
        assert each.completeness is not None
        assert each.completeness.abs().max() < 1e-5
        assert (each.map >= 0).all()


@pytest.mark.parametrize("way", SUMS)
def test_a_sum_hands_its_chance_to_its_positive_parts_alone(way: str) -> None:
    """As by weights of 1 and positive activations (Eq. 8-10): a part that the others outweigh gets nothing."""
    classifier, x = made(Residual()), inputs()
    classifier.network.way = way  # pyright: ignore
    map_ = Excitation(layer="relu1")(classifier, x, TARGET)
    outweighed = 0
    for i, c in enumerate(TARGET.tolist()):
        slow = Slow(classifier.network, x[i])
        outweighed += int(((slow.branch < 0) & (slow.branch + slow.pool > 0)).sum())
        assert torch.allclose(map_.map[i], shown(slow.at_relu1(slow.at_relu2(c)).sum(dim=0)), atol=1e-12)
    assert outweighed > 20
    assert map_.completeness is not None
    assert map_.completeness.abs().max() < 1e-5
    assert (map_.map >= 0).all()


def test_a_number_less_a_layer_is_a_difference_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, x, maps = made(Residual()), inputs(), []
    for way in (lambda a, b: 0.5 - a + b, lambda a, b: torch.sub(torch.tensor(0.5), a) + b):
        monkeypatch.setitem(SUMS, "a + b", way)
        with pytest.warns(AdvexWarning, match="misses the change"):  # what is taken off the number is lost
            maps.append(Excitation(layer="relu1")(classifier, x, TARGET).map)
    assert maps[0].abs().max() > 0
    torch.testing.assert_close(*maps)


def test_the_opposite_of_the_class_is_taken_off(classifier: Classifier) -> None:
    x = inputs()
    made = {
        between: Excitation(layer="relu1", contrastive=True, contrast_layer=between)(classifier, x, TARGET).map
        for between in ("auto", "relu2")
    }
    for i, c in enumerate(TARGET.tolist()):
        slow = Slow(classifier.network, x[i])
        difference = slow.at_relu2(c) - slow.at_relu2(c, -1)
        expected = {
            "auto": slow.at_relu1(difference).sum(dim=0).relu(),
            "relu2": slow.at_relu1(difference.relu()).sum(dim=0).relu(),
        }
        for between, places in expected.items():
            assert torch.allclose(made[between][i], shown(places), atol=1e-12)
    plain = Excitation(layer="relu1")(classifier, x, TARGET).map
    below = Excitation(layer="relu1", contrastive=True, contrast_layer="relu3")(classifier, x, TARGET).map
    assert torch.allclose(below, plain, atol=1e-12), "no unit is excited by a weight and by its opposite"
    for first, second in ((plain, made["auto"]), (plain, made["relu2"]), (made["auto"], made["relu2"])):
        assert (torch.cosine_similarity(first.flatten(1), second.flatten(1)) < 0.99).all()


def test_the_chances_do_not_depend_on_how_large_answers_are(classifier: Classifier) -> None:
    """Scaled by a positive number between layers, and with any bias at the top, also where the logit is negative."""
    x = inputs()
    expected = Excitation(layer="relu1")(classifier, x, TARGET).map
    network: Any = classifier.network
    with torch.no_grad():
        network.head.weight.mul_(7)
        network.head.bias.copy_(torch.tensor([-50.0, 30.0, -80.0]))
    assert torch.allclose(Excitation(layer="relu1")(classifier, x, TARGET).map, expected, atol=1e-12)
    assert classifier(x)[:, 0].max() < 0


def test_what_is_negative_cannot_be_shared_out(classifier: Classifier) -> None:
    torch.manual_seed(0)
    signed = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(InputError, match=r"layer 'network\.2' has negative values: choose a later layer"):
        Excitation(layer="1")(Classifier(signed.double()), inputs(), TARGET % 2)
    with pytest.raises(InputError, match="'relu1' does not come after the layer"):
        Excitation(layer="relu2", contrastive=True, contrast_layer="relu1")(classifier, inputs(), TARGET)


def test_a_sum_that_is_negative_in_all_its_parts_loses_its_chance_and_says_so() -> None:
    """Of a pre-activation block the norm behind the sum may wake a unit whose parts all are below zero."""

    class Preactivated(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(self.conv1(x))
            x = self.conv2(x.relu()) + x
            return self.top(self.relu2(self.norm2(x)))

    classifier = made(Preactivated())
    classifier.network.conv1.bias.data.sub_(1.0)  # pyright: ignore
    classifier.network.norm2.bias.data.add_(1.0)  # pyright: ignore
    with pytest.warns(AdvexWarning, match="misses"):
        map_ = Excitation(layer="pool")(classifier, inputs(), TARGET)
    assert (map_.map >= 0).all()
    assert map_.completeness is not None
    assert (map_.completeness < 0).any()
    assert (map_.completeness > -1).all()
    assert (map_.completeness < 1e-5).all(), "nothing is won"


def test_a_step_without_a_rule_is_seen_in_the_sum() -> None:
    torch.manual_seed(0)

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.relu(self.conv(x))
            return self.head((h * h).mean(dim=(2, 3)))

    network = Products().double()
    network.head.weight.data.abs_()
    with pytest.warns(AdvexWarning, match="misses"):
        made = Excitation(layer="relu")(Classifier(network), inputs(), TARGET)
    assert made.completeness is not None
    assert torch.allclose(made.completeness, torch.ones(4, dtype=torch.float64))  # both factors have all of it
