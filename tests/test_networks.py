"""Networks: the papers' activation and residual network against their formulas, sizes by hand, and refusals."""

from __future__ import annotations

import resource
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advex import networks, registry
from advex.errors import SpecError
from advex.networks import HalfHuberReLU, PreactResNet, SmallCNN, half_huber_relu
from advex.networks.activations import ACTIVATIONS, activation

D = pytest.mark.parametrize("d", [0.1, 0.5, 1.0, 3.0])


# -- half-Huber ReLU ---------------------------------------------------------------------------------------


def equation_11(x: float, d: float) -> tuple[float, float, float]:
    """Value, first and second derivative, piece by piece as printed."""
    if x < 0:
        return 0.0, 0.0, 0.0
    if x < 1 / (2 * d):
        return d * x**2, 2 * d * x, 2 * d
    return x - 1 / (4 * d), 1.0, 0.0


@given(x=st.floats(-10, 10).filter(lambda x: abs(x) > 1e-6), d=st.floats(0.05, 10))
def test_half_huber_relu_is_equation_11(x: float, d: float) -> None:
    if abs(x - 1 / (2 * d)) < 1e-9:
        return  # the second derivative jumps here: either side is right
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = half_huber_relu(at, d)
    (first,) = torch.autograd.grad(value, at, create_graph=True)
    (second,) = torch.autograd.grad(first, at)
    assert [value.item(), first.item(), second.item()] == pytest.approx(equation_11(x, d), rel=1e-12, abs=1e-12)


@D
def test_half_huber_relu_has_no_jump_in_value_or_slope(d: float) -> None:
    for corner in (0.0, 1 / (2 * d)):
        x = torch.tensor([corner - 1e-9, corner + 1e-9], dtype=torch.float64, requires_grad=True)
        value = half_huber_relu(x, d)
        (slope,) = torch.autograd.grad(value.sum(), x)
        assert value[0].item() == pytest.approx(value[1].item(), abs=1e-8)
        assert slope[0].item() == pytest.approx(slope[1].item(), abs=1e-7)


@D
def test_half_huber_relu_passes_gradcheck_twice(d: float) -> None:
    knot = 1 / (2 * d)
    # Away from the two knots by more than the step of the finite differences, 1e-6.
    x = torch.tensor([-2.0, -0.01, 0.2 * knot, 0.9 * knot, 1.1 * knot, knot + 5], dtype=torch.float64)
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda at: half_huber_relu(at, d), x)
    assert torch.autograd.gradgradcheck(lambda at: half_huber_relu(at, d), x)


def test_half_huber_relu_leaves_its_input_alone() -> None:
    x = torch.linspace(-1, 1, 11)
    kept = x.clone()
    half_huber_relu(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("d", [0.0, -1.0, float("nan")])
def test_half_huber_relu_needs_a_positive_d(d: float) -> None:
    with pytest.raises(SpecError, match="d > 0"):
        HalfHuberReLU(d)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_every_activation_is_a_rectifier_in_every_network(name: str) -> None:
    function = activation(name)
    far = torch.tensor([-50.0, 50.0])
    assert function(far)[0].abs() < 1e-3
    assert function(far)[1].item() == pytest.approx(50, abs=0.3)
    small = {"mlp": "widths=4", "small_cnn": "widths=2-3-4", "preact_resnet": "depth=8,widths=2-3-4"}
    for network, size in small.items():
        built = networks.build(f"{network}:{size},activation={name}")
        kinds = {type(module) for module in built.modules()}
        assert type(function) in kinds
        assert not kinds & {type(activation(other)) for other in ACTIVATIONS if other != name}


def test_smooth_activations_have_a_second_derivative_and_relu_has_none() -> None:
    for name in ACTIVATIONS:
        x = torch.linspace(0.05, 0.45, 9, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(activation(name)(x).sum(), x, create_graph=True)
        second = torch.autograd.grad(first.sum(), x)[0] if first.requires_grad else torch.zeros_like(x)
        assert second.any().item() == (name != "relu"), name


# -- pre-activation ResNet ---------------------------------------------------------------------------------


def parameters_by_hand(n: int, widths: tuple[int, int, int], channels: int, classes: int, stem: int) -> int:
    """Depth 6n + 2: a stem, three stages of n blocks, a last norm, a linear layer. No biases but the last."""
    total = channels * widths[0] * stem * stem
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(n):
            total += 2 * before + before * width * 9 + 2 * width + width * width * 9
            if (stage > 0 and block == 0) or before != width:
                total += before * width * 9  # the shortcut, a 3x3 convolution
            before = width
    return total + 2 * before + before * classes + classes


def test_resnet_44_has_the_papers_size() -> None:
    network = PreactResNet()
    total = sum(parameter.numel() for parameter in network.parameters())
    # 432 + 7 * 4672 + (18528 + 6 * 18560) + (73920 + 6 * 73984) + 128 + 650
    assert total == parameters_by_hand(7, (16, 32, 64), 3, 10, 3) == 681_626
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    shortcuts = [block.shortcut for block in network.blocks if block.shortcut is not None]  # pyright: ignore
    # Depth counts the layers on the longest way: without the two shortcuts, and with the linear layer.
    assert len(convolutions) - len(shortcuts) + 1 == 44
    assert len(shortcuts) == 2


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [
        ("depth=8,widths=4-6-8", (1, (4, 6, 8), 3, 10, 3)),
        ("depth=20,widths=16-32-64,channels=1,classes=43", (3, (16, 32, 64), 1, 43, 3)),
        ("depth=14,widths=8-8-16,stem=4x4s3", (2, (8, 8, 16), 3, 10, 4)),
        ("depth=8,widths=4-6-8,stem=9x9pool8,channels=1,classes=2", (1, (4, 6, 8), 1, 2, 9)),
        ("depth=8,widths=4-6-8,stem=imagenet", (1, (4, 6, 8), 3, 10, 7)),
    ],
)
def test_other_sizes_by_hand(spec: str, by_hand: tuple) -> None:
    network = networks.build(f"preact_resnet:{spec}")
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters_by_hand(*by_hand)


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    # (96 - 4) // 3 + 1; 256 / 8; (224 / 2 + 2 - 3) // 2 + 1
    [("3x3", 32, 32), ("4x4s3", 96, 31), ("9x9pool8", 256, 32), ("imagenet", 224, 56)],
)
def test_stems_give_the_papers_sizes(stem: str, size: int, expected: int) -> None:
    network = networks.build(f"preact_resnet:depth=8,widths=2-2-2,stem={stem}")
    with torch.no_grad():
        x = torch.rand(1, 3, size, size)
        assert network.stem(x).shape == (1, 2, expected, expected)  # pyright: ignore
        assert network.eval()(x).shape == (1, 10)


def test_average_pooling_stems_let_every_pixel_through() -> None:
    for stem in ("9x9pool8", "imagenet"):
        network = networks.build(f"preact_resnet:depth=8,widths=2-2-2,stem={stem}")
        x = torch.rand(1, 3, 64, 64, requires_grad=True)
        network.stem(x).sum().backward()  # pyright: ignore
        assert (x.grad != 0).all(), stem


def test_a_fresh_block_is_its_shortcut() -> None:
    network = networks.build("preact_resnet:depth=14,widths=4-6-8,activation=silu").eval()
    width = {0: 4, 1: 4, 2: 4, 3: 6, 4: 6, 5: 8}
    for position, block in enumerate(network.blocks):  # pyright: ignore
        assert not block.conv2.weight.any()
        x = torch.rand(2, width[position], 8, 8)
        plain = x if block.shortcut is None else block.shortcut(block.act1(block.norm1(x)))
        assert torch.equal(block(x), plain)
        nn.init.normal_(block.conv2.weight)
        assert not torch.equal(block(x), plain)


def slow_block(block: nn.Module, x: Tensor) -> Tensor:
    """He et al. 2016: batch norm and activation come before each convolution."""

    def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
        mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = layer.weight.reshape(1, -1, 1, 1), layer.bias.reshape(1, -1, 1, 1)
        return (x - mean) / (variance + layer.eps).sqrt() * scale + shift

    def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
        patches = nn.functional.unfold(x, 3, padding=1, stride=layer.stride)
        rows = layer.weight.flatten(1) @ patches
        side = (x.shape[2] + 2 - 3) // layer.stride[0] + 1
        return rows.reshape(len(x), -1, side, side)

    active = torch.nn.functional.silu(norm(block.norm1, x))  # pyright: ignore
    path = conv(block.conv1, active)  # pyright: ignore
    path = conv(block.conv2, torch.nn.functional.silu(norm(block.norm2, path)))  # pyright: ignore
    return path + (x if block.shortcut is None else conv(block.shortcut, active))  # pyright: ignore


def test_a_block_is_the_pre_activation_residual() -> None:
    network = networks.build("preact_resnet:depth=8,widths=4-6-8,activation=silu").double().train()
    for block, width in zip(network.blocks, (4, 4, 6), strict=True):  # pyright: ignore
        for parameter in block.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(5, width, 6, 6, dtype=torch.float64)
        assert torch.allclose(block(x), slow_block(block, x), rtol=1e-9)


FROZEN = {
    "preact_resnet:depth=8,widths=4-6-8,classes=3": [0.85733062, -0.15354107, -0.62318056],
    "preact_resnet:depth=8,widths=4-6-8,classes=3,activation=softplus,stem=4x4s3": [1.5874692, 0.99262575, 0.4245366],
    "small_cnn:channels=3,widths=4-6-8,classes=3,d=2": [1.0260185, 1.4346574, 1.4025502],
    "mlp:features=192,widths=5-4,classes=3,activation=gelu": [2.7095864, -0.81843652, 2.0866165],
    "linear:features=192,classes=3": [1.3027917, 0.77018584, 1.6311327],
}


@pytest.mark.parametrize("spec", FROZEN)
def test_what_a_spec_means_does_not_drift(spec: str) -> None:
    """Saved weights must go on meaning what they meant: outputs written down when the format was made."""
    network = networks.build(spec).double().eval()
    # Weights from a formula, in the order of their names, so that no random generator takes part.
    for place, (_, values) in enumerate(sorted(network.state_dict().items())):
        if values.is_floating_point():
            wave = torch.cos(torch.arange(values.numel(), dtype=torch.float64) * 0.7 + place)
            values.copy_((wave.abs() + 0.5 if values.ndim == 1 else 0.5 * wave).reshape(values.shape))
    x = torch.linspace(0, 1, 2 * 3 * 8 * 8, dtype=torch.float64).reshape(2, 3, 8, 8)
    with torch.no_grad():
        assert network(x)[1].tolist() == pytest.approx(FROZEN[spec], rel=1e-6)


def test_initialisation_keeps_the_variance() -> None:
    """He et al. 2015: weights of variance 2 / fan-in, biases 0, batch norm 1 and 0."""
    network = networks.build("preact_resnet:depth=14,widths=32-48-64,channels=3")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.any():
            fan_in = module.weight[0].numel()
            # The variance of m normal draws is known to sqrt(2 / m); four of those.
            tolerance = 4 * (2 / module.weight.numel()) ** 0.5
            assert module.weight.var().item() * fan_in / 2 == pytest.approx(1, abs=tolerance), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    assert not network.head.bias.any()  # pyright: ignore


# -- the small ones ----------------------------------------------------------------------------------------


def test_small_networks_take_the_inputs_they_promise() -> None:
    assert networks.build("linear:features=12,classes=3")(torch.rand(2, 3, 2, 2)).shape == (2, 3)
    assert networks.build("mlp:features=12,classes=3,widths=7")(torch.rand(2, 12)).shape == (2, 3)
    for side in (4, 5, 28):
        assert SmallCNN(channels=2, classes=4)(torch.rand(2, 2, side, side)).shape == (2, 4)


def test_mlp_has_the_layers_of_its_spec() -> None:
    network = networks.build("mlp:features=12,widths=7-5,classes=3")
    sizes = [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(12, 7), (7, 5), (5, 3)]


# -- refusals ----------------------------------------------------------------------------------------------

ABSURD = [
    "preact_resnet:depth=1000000000",
    "preact_resnet:depth=1202,widths=8192-8192-8192",
    "preact_resnet:depth=44,widths=16-32-1000000000",
    "preact_resnet:depth=8,widths=8192-8192-8192,channels=1024",
    "preact_resnet:depth=8,classes=1000000000",
    "linear:features=10000000,classes=100000",
    "linear:features=1000000000000",
    "mlp:features=10000000,widths=8192",
    "mlp:widths=" + "-".join(["8192"] * 64),
    "mlp:widths=" + "-".join(["8"] * 65),
    "small_cnn:widths=8192-8192-8192",
    "small_cnn:channels=99999999999999999999",
]


@pytest.mark.parametrize("spec", ABSURD)
def test_absurd_sizes_are_refused_quickly_and_without_eating_memory(spec: str) -> None:
    kibibyte = 1024 if sys.platform == "darwin" else 1  # the unit of ru_maxrss
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(SpecError):
        networks.build(spec)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024 * kibibyte


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("preact_resnet:depth=45", r"depth must be 6n \+ 2"),
        ("preact_resnet:depth=2", "depth must be a whole number from 8"),
        ("preact_resnet:widths=16-32", "widths needs 3 numbers such as 16-32-64"),
        ("preact_resnet:widths=0-1-2", "widths must be a whole number from 1"),
        ("preact_resnet:stem=5x5", "no stem '5x5'"),
        ("preact_resnet:activation=rellu", "did you mean 'relu'"),
        ("preact_resnet:d=-1", "d > 0"),
        ("mlp:classes=1", "classes must be a whole number from 2"),
        ("resnet", "no network 'resnet'.*did you mean 'preact_resnet'"),
        ("os.system", "no network 'os.system'"),
        ("mlp:weights=3", "no option 'weights'.*did you mean 'widths'"),
    ],
)
def test_impossible_specs_are_explained(spec: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        networks.build(spec)


def test_every_registered_network_is_built_without_arguments_and_cites_its_source() -> None:
    for name, entry in registry.entries("network").items():
        network = entry.make()
        assert isinstance(network, nn.Module)
        assert entry.summary, name
