"""VGG and ResNet: published numbers of parameters, and answers beside a slow replica made of the papers' tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, linear, max_pool2d, relu

from advex import networks
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers import DeepLift
from advex.networks import MostOfPlaces

# Of ImageNet's 1,000 classes, as torchvision publishes them; of SE-ResNet-50 as Hu et al. do.
PUBLISHED = {
    "vgg:depth=11": 132_863_336,
    "vgg:depth=11,batch_norm=true": 132_868_840,
    "vgg:depth=13": 133_047_848,
    "vgg:depth=13,batch_norm=true": 133_053_736,
    "vgg:depth=16": 138_357_544,
    "vgg:depth=16,batch_norm=true": 138_365_992,
    "vgg:depth=19": 143_667_240,
    "vgg:depth=19,batch_norm=true": 143_678_248,
    "vgg:depth=16,convolutional=true": 138_357_544,
    "resnet:depth=18": 11_689_512,
    "resnet:depth=34": 21_797_672,
    "resnet:depth=50": 25_557_032,
    "resnet:depth=101": 44_549_160,
    "resnet:depth=152": 60_192_808,
    "resnet:depth=50,se=true": 28_088_024,
}

# Simonyan and Zisserman 2015, Table 1, in parts of the first stage's width. M: a max pool.
TABLE_1 = {
    11: "1 M 2 M 4 4 M 8 8 M 8 8 M",
    13: "1 1 M 2 2 M 4 4 M 8 8 M 8 8 M",
    16: "1 1 M 2 2 M 4 4 4 M 8 8 8 M 8 8 8 M",
    19: "1 1 M 2 2 M 4 4 4 4 M 8 8 8 8 M 8 8 8 8 M",
}
# He et al. 2016, Table 1.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_networks_have_the_published_numbers_of_parameters(spec: str) -> None:
    with torch.device("meta"):
        network = networks.build(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[spec]


def test_the_activations_of_vgg19_stand_where_torchvision_has_them() -> None:
    network = networks.build("vgg:depth=19,batch_norm=true,width=1,hidden=1")
    places = [place for place, layer in enumerate(network.features) if isinstance(layer, nn.ReLU)]  # pyright: ignore
    assert places == [2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51]
    dense = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    assert dense == ["classifier.0", "classifier.3", "classifier.6"]


def randomised(spec: str) -> nn.Module:
    """A network in float64 whose batch norms have moments and weights of their own, in evaluation mode."""
    torch.manual_seed(0)
    network = networks.build(spec).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values, std=0.3)  # pyright: ignore
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 1.5)  # pyright: ignore
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    return network


Weights = dict[str, Tensor]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def layers_by_number(plan: str, *, batch_norm: bool) -> Iterator[tuple[str, int]]:
    """(what, number in `features`): a convolution has an activation after it, and a norm between where there is one."""
    number = 0
    for part in plan.split():
        yield part, number
        number += 1 if part == "M" else 2 + batch_norm


def slow_features(weights: Weights, plan: str, x: Tensor, *, batch_norm: bool) -> Tensor:
    for part, number in layers_by_number(plan, batch_norm=batch_norm):
        if part == "M":
            x = max_pool2d(x, 2)
            continue
        x = conv2d(x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], padding=1)
        x = relu(norm(weights, f"features.{number + 1}", x) if batch_norm else x)
    return x


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", TABLE_1)
def test_vgg_is_the_table_of_its_paper(depth: int, batch_norm: bool) -> None:
    network = randomised(f"vgg:depth={depth},width=3,hidden=5,classes=4,batch_norm={str(batch_norm).lower()}")
    weights = network.state_dict()
    x = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    expected = slow_features(weights, TABLE_1[depth], x, batch_norm=batch_norm)
    expected = adaptive_avg_pool2d(expected, (7, 7)).flatten(1)
    for number in (0, 3, 6):
        expected = linear(expected, weights[f"classifier.{number}.weight"], weights[f"classifier.{number}.bias"])
        expected = expected.relu() if number < 6 else expected
    assert torch.allclose(network(x), expected, rtol=1e-10)


def test_vgg_gap_is_a_convolution_a_mean_and_a_layer() -> None:
    network = randomised("vgg:depth=16,width=3,classes=4,head=gap")
    weights = network.state_dict()
    x = torch.rand(2, 3, 48, 48, dtype=torch.float64)
    maps = slow_features(weights, TABLE_1[16].removesuffix(" M"), x, batch_norm=False)
    maps = conv2d(maps, weights["conv6.weight"], weights["conv6.bias"], padding=1).relu()
    assert maps.shape == (2, 48, 3, 3)
    assert torch.allclose(network(x), linear(maps.mean((2, 3)), weights["fc.weight"], weights["fc.bias"]), rtol=1e-10)
    with torch.device("meta"):
        whole = networks.build("vgg:depth=16,head=gap,classes=200")
    # The convolutions of VGG-16, one of 3x3 from 512 to 1024 channels, one layer of 200 classes.
    count = 14_714_688 + (512 * 9 + 1) * 1024 + 1025 * 200
    assert sum(parameter.numel() for parameter in whole.parameters()) == count


def test_dense_layers_as_convolutions_answer_for_every_place() -> None:
    dense = randomised("vgg:depth=11,width=1,hidden=5,classes=4")
    places = randomised("vgg:depth=11,width=1,hidden=5,classes=4,convolutional=true")
    shapes = {name: values.shape for name, values in places.state_dict().items()}
    places.load_state_dict({name: values.reshape(shapes[name]) for name, values in dense.state_dict().items()})
    x = torch.rand(2, 3, 224, 256, dtype=torch.float64)
    assert torch.allclose(places(x[..., :224]), dense(x[..., :224]), rtol=1e-10)
    # 256 pixels are 8 columns of features: two places, the dense network's answers for either, the larger counts.
    maps = dense.features(x)  # pyright: ignore
    each = torch.stack([dense.classifier(maps[..., start : start + 7].flatten(1)) for start in (0, 1)])  # pyright: ignore
    assert torch.allclose(places(x), each.amax(dim=0), rtol=1e-10)
    assert torch.allclose(MostOfPlaces(nn.Sequential(places.features, places.classifier))(x), places(x))  # pyright: ignore
    with pytest.raises(InputError, match=r"returns \[n, classes, height, width\], not"):
        MostOfPlaces(dense)(x)


def slow_block(weights: Weights, name: str, x: Tensor, strides: list[int], *, se: bool) -> Tensor:
    path, shortcut = x, x
    for number, stride in enumerate(strides, 1):
        kernel = weights[f"{name}.conv{number}.weight"]
        path = conv2d(path.relu() if number > 1 else path, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        path = norm(weights, f"{name}.bn{number}", path)
    if se:
        squeezed = path.mean((2, 3))
        for layer in ("fc1", "fc2"):
            kernel = weights[f"{name}.se.{layer}.weight"].flatten(1)
            squeezed = linear(squeezed, kernel, weights[f"{name}.se.{layer}.bias"])
            squeezed = squeezed.relu() if layer == "fc1" else squeezed
        path = path / (1 + torch.exp(-squeezed))[..., None, None]
    if f"{name}.downsample.0.weight" in weights:
        shortcut = conv2d(x, weights[f"{name}.downsample.0.weight"], stride=max(strides))
        shortcut = norm(weights, f"{name}.downsample.1", shortcut)
    return (path + shortcut).relu()


@pytest.mark.parametrize(("depth", "se"), [(18, False), (34, False), (50, False), (50, True), (18, True)])
def test_resnet_is_the_table_of_its_paper(depth: int, se: bool) -> None:
    network = randomised(f"resnet:depth={depth},width=3,classes=4,se={str(se).lower()}")
    weights = network.state_dict()
    x = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    expected = norm(weights, "bn1", conv2d(x, weights["conv1.weight"], stride=2, padding=3)).relu()
    expected = max_pool2d(expected, 3, 2, padding=1)
    for stage, count in enumerate(BLOCKS[depth]):
        for position in range(count):
            first = 2 if stage and not position else 1
            strides = [first, 1] if depth < 50 else [1, first, 1]
            expected = slow_block(weights, f"layer{stage + 1}.{position}", expected, strides, se=se)
    expected = linear(expected.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])
    assert torch.allclose(network(x), expected, rtol=1e-9)
    used = [name for name in weights if not name.endswith("num_batches_tracked")]
    shortcuts = 3 + (depth >= 50)
    assert len([name for name in used if name.endswith("downsample.0.weight")]) == shortcuts


@pytest.mark.parametrize("spec", ["vgg:depth=11,width=8,hidden=64,classes=3", "resnet:depth=18,width=8,classes=3"])
def test_every_activation_is_a_module_that_is_called_once(spec: str) -> None:
    """DeepLift refuses a module that is called twice."""
    torch.manual_seed(0)
    classifier = Classifier(spec).eval()
    calls: dict[str, int] = {}
    for name, module in classifier.network.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    x = torch.rand(2, 3, 32, 32)
    classifier(x)
    assert set(calls.values()) == {1}
    assert len(calls) == {"vgg": 8 + 2, "resnet": 1 + 2 * 8}[spec.partition(":")[0]]
    assert DeepLift()(classifier, x, torch.zeros(2, dtype=torch.long)).map.shape == x.shape


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vgg:depth=12", "11, 13, 16 or 19, not 12"),
        ("vgg:width=0", "width must be a whole number from 1"),
        ("vgg:dropout=1", "dropout must be at least 0"),
        ("vgg:head=gap,convolutional=true", "head=gap has no dense layers"),
        ("vgg:head=cam", "'dense' or 'gap'"),
        ("vgg:activation=relo", "did you mean 'relu'"),
        ("resnet:depth=20", "18, 34, 50, 101 or 152, not 20"),
        ("resnet:width=2000", "width must be a whole number from 1 to 1024"),
        ("resnet:classes=1", "classes must be a whole number from 2"),
    ],
)
def test_impossible_sizes_are_refused(spec: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        networks.build(spec)
