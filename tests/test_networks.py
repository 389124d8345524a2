"""Networks: the papers' activation and residual network against their formulas, sizes by hand, and refusals."""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from advex import artifacts, networks, registry
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.networks import HalfHuberReLU, PreactResNet, ResidualDrop, SmallCNN, half_huber_relu
from advex.networks.activations import ACTIVATIONS, activation
from advex.networks.residual_drop import scaled

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
    assert function(far)[0].item() == pytest.approx(-5 if name == "leaky_relu" else 0, abs=1e-3)  # a slope of 0.1
    assert function(far)[1].item() == pytest.approx(50, abs=0.3)
    small = {"mlp": "widths=4", "small_cnn": "widths=2-3-4", "preact_resnet": "depth=8,widths=2-3-4"}
    small |= {"vgg": "depth=11,width=2,hidden=3", "resnet": "depth=50,width=2,se=true"}
    for network, size in small.items():
        built = networks.build(f"{network}:{size},activation={name}")
        kinds = {type(module) for module in built.modules()}
        assert type(function) in kinds
        assert not kinds & {type(activation(other)) for other in ACTIVATIONS if other != name}


def test_smooth_activations_have_a_second_derivative_and_pieces_of_lines_have_none() -> None:
    for name in ACTIVATIONS:
        x = torch.linspace(0.05, 0.45, 9, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(activation(name)(x).sum(), x, create_graph=True)
        second = torch.autograd.grad(first.sum(), x)[0] if first.requires_grad else torch.zeros_like(x)
        assert second.any().item() == (name not in ("relu", "leaky_relu")), name


# -- pre-activation ResNet ---------------------------------------------------------------------------------


def parameters_by_hand(n: int, widths: tuple[int, ...], channels: int, classes: int, stem: int) -> int:
    """A stem, stages of n blocks, a last norm, a linear layer. No biases but the last."""
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
        ("depth=18,widths=4-6-8-10,stem=imagenet,classes=20", (2, (4, 6, 8, 10), 3, 20, 7)),
        ("depth=14,widths=5", (6, (5,), 3, 10, 3)),
    ],
)
def test_other_sizes_by_hand(spec: str, by_hand: tuple) -> None:
    network = networks.build(f"preact_resnet:{spec}")
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters_by_hand(*by_hand)


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    # (96 + 2 - 4) // 3 + 1; 256 / 8; (224 / 2 + 2 - 3) // 2 + 1
    [("3x3", 32, 32), ("4x4s3", 96, 32), ("9x9pool8", 256, 32), ("imagenet", 224, 56)],
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
        kernel = layer.weight.shape[2]
        patches = nn.functional.unfold(x, kernel, padding=kernel // 2, stride=layer.stride)
        rows = layer.weight.flatten(1) @ patches
        side = (x.shape[2] - 1) // layer.stride[0] + 1
        return rows.reshape(len(x), -1, side, side)

    active = torch.nn.functional.silu(norm(block.norm1, x))  # pyright: ignore
    path = conv(block.conv1, active)  # pyright: ignore
    path = conv(block.conv2, torch.nn.functional.silu(norm(block.norm2, path)))  # pyright: ignore
    return path + (x if block.shortcut is None else conv(block.shortcut, active))  # pyright: ignore


@pytest.mark.parametrize(
    ("spec", "widths"),
    [("preact_resnet:depth=8,widths=4-6-8", (4, 4, 6)), ("wide_resnet:depth=10,width=1", (16, 16, 32))],
)
def test_a_block_is_the_pre_activation_residual(spec: str, widths: tuple[int, ...]) -> None:
    network = networks.build(f"{spec},activation=silu").double().train()
    for block, width in zip(network.blocks, widths, strict=True):  # pyright: ignore
        for parameter in block.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(5, width, 6, 6, dtype=torch.float64)
        assert torch.allclose(block(x), slow_block(block, x), rtol=1e-9)


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5), (28, 12, 52.5), (22, 8, 17.2)],
)
def test_wide_resnets_have_the_published_numbers_of_parameters(depth: int, width: int, millions: float) -> None:
    """Zagoruyko and Komodakis 2016, Tables 2 to 4."""
    with torch.device("meta"):
        network = networks.build(f"wide_resnet:depth={depth},width={width}")
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions


def test_dropout_of_a_wide_resnet_acts_in_training_alone_and_adds_no_weights() -> None:
    plain, dropped = (networks.build(f"wide_resnet:depth=10,width=1,dropout={share}") for share in (0, 0.5))
    dropped.load_state_dict(plain.state_dict())
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(plain.eval()(x), dropped.eval()(x))
    lost = [(layer.p, layer.training) for layer in dropped.train().modules() if isinstance(layer, nn.Dropout)]
    assert lost == [(0.5, True)] * 3
    assert not torch.equal(plain.train()(x), dropped(x))


FROZEN = {
    "preact_resnet:depth=8,widths=4-6-8,classes=3": [0.85733062, -0.15354107, -0.62318056],
    "preact_resnet:depth=8,widths=4-6-8,classes=3,activation=softplus,stem=4x4s3": [1.45507364, 1.03955473, 0.6297252],
    "preact_resnet:depth=8,widths=4-6-8,classes=3,drop=shakedrop,survival=0.5": [1.46932267, 0.99704488, 0.54953778],
    "wide_resnet:depth=10,width=1,classes=3": [1240261.68860524, -801748.16679014, -2336890.49681545],
    "vgg:depth=11,width=1,hidden=4,classes=3,batch_norm=true": [6158.37319, -5964.78189, 5085.18221],
    "vgg:depth=13,width=1,classes=3,head=gap": [11683.7001, 261.524522, -11575.7058],
    "resnet:depth=18,width=2,classes=3": [-384.607686, -4244.65864, -1336.94055],
    "resnet:depth=50,width=1,classes=3,se=true,activation=silu": [1.12910533, 3.11054199, -1.84310397],
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
    side = 32 if spec.startswith("vgg") else 8  # which halves it five times
    x = torch.linspace(0, 1, 2 * 3 * side * side, dtype=torch.float64).reshape(2, 3, side, side)
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


# -- losing residual branches ------------------------------------------------------------------------------

DROPPING = pytest.mark.parametrize("drop", ["drop=stochastic_depth", "drop=shakedrop", "drop=shakedrop,alpha=1"])


def dropping(drop: str, survival: float = 0.4, *, depth: int = 8, activation: str = "silu") -> PreactResNet:
    """A small network in float64 whose branches are not 0, with only the drop in training mode."""
    spec = f"preact_resnet:depth={depth},widths=2-3-4,classes=3,activation={activation},{drop},survival={survival}"
    network = networks.build(spec).double().eval()
    assert isinstance(network, PreactResNet)
    for block in network.blocks:
        nn.init.normal_(block.conv2.weight, std=0.3)  # pyright: ignore
    assert network.drop is not None
    network.drop.train()
    return network


def without_bends(network: PreactResNet) -> PreactResNet:
    """The same network with nothing but convolutions: it is linear in x."""
    for module in (network, *network.blocks):
        for name in ("norm", "act", "norm1", "act1", "norm2", "act2"):
            if hasattr(module, name):
                setattr(module, name, nn.Identity())
    return network


def images(n: int = 5, *, requires_grad: bool = False) -> Tensor:
    return torch.rand(n, 3, 6, 6, dtype=torch.float64, requires_grad=requires_grad)


def drawn(seed: int, blocks: int, n: int, survival: float) -> tuple[Tensor, Tensor, Tensor]:
    """b [blocks], and the uniforms that become alpha and beta [blocks, n], of a pass after a seed."""
    torch.manual_seed(seed)
    p = torch.tensor([1 - l / blocks * (1 - survival) for l in range(1, blocks + 1)])  # noqa: E741
    b = (torch.rand(blocks) < p).double()
    alpha, beta = torch.rand(2, blocks, n).double()
    return b, alpha, beta


def with_branches_times(network: PreactResNet, x: Tensor, forwards: Tensor, backwards: Tensor) -> Tensor:
    """G(x_i) = x_i + forwards_li F_l(x_i) example by example, and as if it were `backwards` to autograd."""
    x = network.stem(x)
    for block, forward, backward in zip(network.blocks, forwards, backwards, strict=True):
        active = block.act1(block.norm1(x))  # pyright: ignore
        branch = block.conv2(block.act2(block.norm2(block.conv1(active))))  # pyright: ignore
        straight = x if block.shortcut is None else block.shortcut(active)  # pyright: ignore
        rows = []
        for example in range(len(x)):
            slope, value = backward[example] * branch[example], forward[example] * branch[example]
            rows.append(straight[example] + slope + (value - slope).detach())
        x = torch.stack(rows)
    return network.head(network.act(network.norm(x)).mean(dim=(2, 3)))


def first_and_second(function: Callable[[Tensor], Tensor], network: nn.Module, seed: int) -> list[Tensor]:
    """Logits, an input gradient, and the gradient of its squared norm for x and all weights."""
    torch.manual_seed(99)
    x = images(requires_grad=True)
    torch.manual_seed(seed)
    logits = function(x)
    (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), x, create_graph=True)
    second = torch.autograd.grad(gradient.square().sum(), [x, *network.parameters()], materialize_grads=True)
    return [logits, gradient, *second]


@DROPPING
def test_dropping_is_the_papers_formula_in_both_directions(drop: str) -> None:
    """Yamada et al. 2018: b + alpha - b alpha forwards, b + beta - b beta backwards; twice for a penalty."""
    network = dropping(drop)
    seen = set()
    for seed in range(6):
        b, alpha, beta = drawn(seed, 3, 5, 0.4)
        seen.add(tuple(b.tolist()))
        b = b[:, None].expand(3, 5)
        if "shakedrop" in drop:
            alpha = (2 * alpha - 1) * (1 if "alpha" in drop else 0)
            forwards, backwards = b + alpha - b * alpha, b + beta - b * beta
        else:
            forwards = backwards = b
        result = first_and_second(network, network, seed)
        replica = partial(with_branches_times, network, forwards=forwards, backwards=backwards)
        for own, other in zip(result, first_and_second(replica, network, seed), strict=True):
            # Sums in another order, of draws that are float32 in both.
            assert torch.allclose(own, other, rtol=1e-6, atol=1e-9)
    assert len(seen) >= 3


def test_shakedrop_climbs_by_beta_alone() -> None:
    """Without bends a gradient is a product of matrices: that of the network whose branches are times beta."""
    network = without_bends(dropping("drop=shakedrop,alpha=1", 0.05))
    x = images(requires_grad=True)
    b, _, beta = drawn(1, 3, 5, 0.05)
    assert not b.all()
    torch.manual_seed(1)
    (result,) = torch.autograd.grad(network(x)[:, 0].sum(), x)
    slopes = torch.where(b[:, None].bool(), 1.0, beta)
    (expected,) = torch.autograd.grad(with_branches_times(network, x, slopes, slopes)[:, 0].sum(), x)
    assert torch.allclose(result, expected, rtol=1e-9)


def test_a_scaled_branch_passes_gradgradcheck() -> None:
    path = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    up, down = torch.rand(2, 2, 1, 1, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda path: scaled(path, (up, up)), path)
    # With beta != alpha the first derivative is not that of the values, on purpose; the second is that of the first.
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda path: scaled(path, (up, down)), path)
    assert torch.autograd.gradgradcheck(lambda path: scaled(path, (up, down)), path)


def test_a_lost_branch_is_nothing_forwards_and_learns_from_shakedrop_alone() -> None:
    for drop, learns in (("drop=stochastic_depth", False), ("drop=shakedrop", True)):
        network = dropping(drop, 1e-6)
        b, *_ = drawn(0, 3, 5, 1e-6)
        assert b.tolist() == [1, 0, 0]
        x = images()
        torch.manual_seed(0)
        logits = network(x)
        logits.sum().backward()
        kept, *lost = network.blocks
        assert kept.conv2.weight.grad.any()  # pyright: ignore
        for block in lost:
            assert block.conv2.weight.grad.any().item() == learns  # pyright: ignore
            assert block.conv1.weight.grad.any().item() == learns  # pyright: ignore
            nn.init.zeros_(block.conv2.weight)  # pyright: ignore
        network.eval()
        kept.conv2.weight.data /= network.drop(x)[0][0]  # pyright: ignore
        assert torch.allclose(logits, network(x), rtol=1e-12)


@DROPPING
def test_evaluation_is_the_expectation_of_training(drop: str) -> None:
    """Exactly so where nothing is bent: blocks are drawn apart from each other."""
    network = without_bends(dropping(drop))
    x = images(2)
    with torch.no_grad():
        outputs = torch.stack([network(x) for _ in range(2000)])
        expected = network.eval()(x)
    standard_error = outputs.std(dim=0) / len(outputs) ** 0.5
    assert (standard_error > 0).all()
    assert ((outputs.mean(dim=0) - expected).abs() < 4 * standard_error).all()
    # The tolerance can tell: without the factors p_l the answer is another.
    whole = with_branches_times(network, x, *torch.ones(2, 3, 2, dtype=torch.float64))
    assert ((outputs.mean(dim=0) - whole).abs() > 4 * standard_error).any()


@DROPPING
def test_evaluation_draws_nothing_and_scales_by_a_falling_line(drop: str) -> None:
    network = dropping(drop, 0.5, depth=14).eval()
    x, state = images(), torch.get_rng_state()
    p = torch.tensor([11, 10, 9, 8, 7, 6], dtype=torch.float64) / 12  # 1 - (l / 6) (1 - 0.5)
    p = p[:, None].expand(6, 5)
    assert torch.allclose(network(x), with_branches_times(network, x, p, p), rtol=1e-12)
    assert torch.equal(network(x), network(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_survive_as_often_as_the_line_says() -> None:
    drop = ResidualDrop("stochastic_depth", 5, 0.5)
    x = torch.empty(2, 1, 1, 1)
    survived = torch.stack([torch.stack([b for b, _ in drop(x)]) for _ in range(4000)])  # pyright: ignore
    p = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert ((survived.mean(dim=0) - p).abs() < 4 * (p * (1 - p) / 4000).sqrt()).all()
    pairs = torch.corrcoef(survived.T) - torch.eye(5)
    assert (pairs.abs() < 4 / 4000**0.5).all()  # of independent draws: standard error 1 / sqrt(n)


@DROPPING
def test_the_same_seed_loses_the_same_branches_whatever_else(drop: str) -> None:
    layer = dropping(drop, depth=44).drop
    assert layer is not None

    def factors(x: Tensor) -> Tensor:
        """[blocks, forwards and backwards, n or 1]"""
        torch.manual_seed(5)
        pairs = [(up, up if down is None else down) for up, down in layer(x)]
        return torch.stack([torch.stack([up.flatten(), down.flatten()]) for up, down in pairs])  # pyright: ignore

    usual = factors(images(requires_grad=True))
    survived = (usual == 1).all(dim=(1, 2))
    assert 0 < survived.sum() < 21
    with torch.no_grad():
        assert torch.equal(factors(images() * 100), usual)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(factors(images().to(torch.bfloat16)), usual)
    assert torch.equal((factors(images(17)) == 1).all(dim=(1, 2)), survived)  # the same blocks for any n


@DROPPING
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_scaled_branch_keeps_its_precision(drop: str, training: bool, dtype: torch.dtype) -> None:
    """Under autocast a branch is bfloat16: factors in float32 must not widen what follows."""
    layer = dropping(drop, depth=44).drop
    assert layer is not None
    path = torch.randn(4, 2, 3, 3, dtype=dtype)
    for factors in layer.train(training)(path):
        assert scaled(path, factors).dtype == dtype


@DROPPING
def test_lost_branches_still_update_their_statistics(drop: str) -> None:
    """A block that is lost is computed all the same: its batch norm sees every batch."""
    dropped, usual = dropping(drop, 1e-6).train(), dropping(drop, 1.0).train()
    usual.load_state_dict(dropped.state_dict())
    x = images()
    assert drawn(0, 3, 5, 1e-6)[0].tolist() == [1, 0, 0]
    for network in (dropped, usual):
        torch.manual_seed(0)
        network(x)
    for block in range(2):  # up to the first that is lost; what comes after it has another input
        for own, other in zip(dropped.blocks[block].buffers(), usual.blocks[block].buffers(), strict=True):
            assert torch.equal(own, other)
    assert all(block.norm2.num_batches_tracked == 1 for block in dropped.blocks)  # pyright: ignore


@pytest.mark.parametrize("training", [True, False])
def test_without_a_drop_nothing_has_changed(training: bool) -> None:
    """Bit for bit what the network was before it could drop, and its random numbers too."""
    network = networks.build("preact_resnet:depth=14,widths=2-3-4").train(training)
    for block in network.blocks:  # pyright: ignore
        nn.init.normal_(block.conv2.weight)
    former, x = copy.deepcopy(network), images().float()
    state = torch.get_rng_state()

    def as_before(network: nn.Module, x: Tensor) -> Tensor:
        x = network.stem(x)  # pyright: ignore
        for block in network.blocks:  # pyright: ignore
            active = block.act1(block.norm1(x))
            path = block.conv2(block.act2(block.norm2(block.conv1(active))))
            x = path + (x if block.shortcut is None else block.shortcut(active))
        return network.head(network.act(network.norm(x)).mean(dim=(2, 3)))  # pyright: ignore

    result, expected = network(x), as_before(former, x)
    assert torch.equal(result, expected)
    result.sum().backward()
    expected.sum().backward()
    for own, other in zip(network.parameters(), former.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)  # pyright: ignore
    for own, other in zip(network.buffers(), former.buffers(), strict=True):
        assert torch.equal(own, other)
    assert torch.equal(torch.get_rng_state(), state)


@DROPPING
def test_weights_mean_the_same_with_any_drop(drop: str) -> None:
    plain = networks.build("preact_resnet:depth=14,widths=2-3-4,classes=3,activation=silu").double()
    certain = dropping(drop, 1.0, depth=14)
    assert list(plain.state_dict()) == list(certain.state_dict())
    plain.load_state_dict(certain.state_dict())
    x = images()
    for training in (True, False):  # nothing is ever lost with p_L = 1
        assert torch.equal(plain.train(training)(x), certain.train(training)(x))


@pytest.mark.slow
@pytest.mark.parametrize("drop", ["drop=stochastic_depth", "drop=shakedrop,alpha=1"])
def test_dropping_compiles_as_one_graph_with_its_gradients(drop: str) -> None:
    """Logits and an input gradient as one compiled function, whose result is differentiated once more."""
    network, x = dropping(drop), images()

    def logits_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        def scored(x: Tensor) -> tuple[Tensor, Tensor]:
            logits = network(x)
            return logits[:, 0].sum(), logits

        return torch.func.grad(scored, has_aux=True)(x)

    results = []
    torch._dynamo.reset()
    for function in (logits_and_gradient, torch.compile(logits_and_gradient, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(3)
        gradient, logits = function(x)
        loss = gradient.square().sum() + logits.square().sum()
        results.append((gradient, logits, *torch.autograd.grad(loss, list(network.parameters()))))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-9, atol=1e-12)  # sums in another order


@DROPPING
def test_dropping_has_functional_derivatives(drop: str) -> None:
    network, x = dropping(drop), images(2)

    def logits(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return network(x)

    at = x.clone().requires_grad_(True)
    jacobian = [[torch.autograd.grad(logits(at)[row, score], at)[0] for score in range(3)] for row in range(2)]
    reference = torch.stack([torch.stack(row) for row in jacobian])
    assert torch.allclose(torch.func.jacrev(logits)(x), reference, rtol=1e-9, atol=1e-12)
    pull: Any = torch.func.vjp(logits, x)[1]
    assert torch.allclose(pull(torch.ones(2, 3, dtype=torch.float64))[0], reference.sum(dim=(0, 1)), atol=1e-12)
    gradient = torch.func.grad(lambda x: logits(x)[0, 0])
    assert torch.allclose(gradient(x), reference[0, 0], atol=1e-12)
    twice = torch.func.grad(lambda x: gradient(x).square().sum())(x)
    (once,) = torch.autograd.grad(logits(at)[0, 0], at, create_graph=True)
    assert torch.allclose(twice, torch.autograd.grad(once.square().sum(), at)[0], atol=1e-12)
    # Row by row under vmap, each with the same draws.
    rows = torch.func.vmap(lambda row: logits(row[None])[0], randomness="same")(x)
    assert torch.allclose(rows[1], logits(x[1:])[0], atol=1e-12)


def test_a_drop_is_part_of_the_spec_and_of_what_is_saved(tmp_path: Path) -> None:
    spec = "preact_resnet:depth=8,widths=2-3-4,classes=3,drop=shakedrop,survival=0.7,alpha=0.5"
    classifier = Classifier(spec).eval()
    for block in classifier.network.blocks:  # pyright: ignore
        nn.init.normal_(block.conv2.weight)
    again = artifacts.load(artifacts.save(classifier, tmp_path / "saved"))
    assert again.spec == spec
    drop = again.network.drop
    assert isinstance(drop, ResidualDrop)
    assert (drop.kind, drop.blocks, drop.survival, drop.alpha) == ("shakedrop", 3, 0.7, 0.5)
    assert drop.p == pytest.approx(0.3)
    x = images().float()
    assert torch.equal(again(x), classifier(x))


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
        ("preact_resnet:widths=16-32", r"depth must be 4n \+ 2 \(6, 10, 14, ...\) with 2 widths, not 44"),
        ("preact_resnet:depth=20,widths=8-8-8-8", r"depth must be 8n \+ 2 \(10, 18, 26, ...\) with 4 widths, not 20"),
        ("preact_resnet:depth=8,widths=8-8-8-8", r"depth must be 8n \+ 2"),
        ("preact_resnet:widths=0-1-2", "widths must be a whole number from 1"),
        ("preact_resnet:stem=5x5", "no stem '5x5'"),
        ("preact_resnet:activation=rellu", "did you mean 'relu'"),
        ("preact_resnet:d=-1", "d > 0"),
        ("preact_resnet:drop=shake_drop", "no drop 'shake_drop': did you mean 'shakedrop'"),
        ("preact_resnet:drop=stochastic", "did you mean 'stochastic_depth'"),
        ("preact_resnet:drop=shakedrop,survival=0", r"survival.*must lie in \(0, 1\], not 0"),
        ("preact_resnet:drop=stochastic_depth,survival=1.1", r"survival.*must lie in \(0, 1\], not 1.1"),
        ("preact_resnet:survival=-0.5", "survival.*must lie in"),
        ("preact_resnet:drop=shakedrop,alpha=1.5", r"alpha.*must lie in \[0, 1\], not 1.5"),
        ("preact_resnet:drop=shakedrop,alpha=-1", "alpha.*must lie in"),
        ("preact_resnet:drop=stochastic_depth,alpha=0.5", "drop=shakedrop only"),
        ("mlp:classes=1", "classes must be a whole number from 2"),
        ("resnett", "no network 'resnett'.*did you mean 'resnet'"),
        ("os.system", "no network 'os.system'"),
        ("wide_resnet:depth=29", r"6n \+ 4 \(10, 16, 22, 28"),
        ("wide_resnet:depth=10,dropout=1", "below 1, not 1"),
        ("wide_resnet:depth=10,width=0", "width must be a whole number"),
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
