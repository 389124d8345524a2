"""Layers in a form whose second derivatives are cheap: the same answers and derivatives, with fewer convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from advex.networks import second_derivatives

# Modules, and an input that they take.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 2, 5, 6)),
    "padded, strided": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), (2, 2, 6, 5)),
    "dilated, in groups": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 1), dilation=2, groups=2), (2, 4, 6, 6)),
    "of sequences": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 2, 7)),
    "of volumes": (lambda: nn.Conv3d(1, 2, 2), (2, 1, 3, 4, 3)),
    "batch norm": (lambda: nn.BatchNorm2d(3), (4, 3, 3, 2)),
    "batch norm without weights": (lambda: nn.BatchNorm1d(3, affine=False), (4, 3)),
    "batch norm of all there was": (lambda: nn.BatchNorm2d(3, momentum=None), (4, 3, 3, 2)),
    "one picture without a batch": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 6)),
    "reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 6)),
    "same size": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 2, 5, 6)),
}
UNTOUCHED = {"reflected", "same size"}


def layer_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double()
    for _ in range(3 if "norm" in name else 0):
        layer(2 * torch.randn(shape, dtype=torch.float64) + 1)
    return layer.eval(), torch.randn(shape, dtype=torch.float64, requires_grad=True)


def up_to_the_third(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Answer, first, second and third derivatives, with those by the weights."""
    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    value = layer(x).sin()
    made = [value]
    for _ in range(3):
        value, *by_weights = torch.autograd.grad(value.square().sum(), [x, *weights], create_graph=True)
        made += [value, *by_weights]
    return made


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("constant", [False, True], ids=["weights", "constant weights"])
def test_answers_and_derivatives_are_those_of_torch(name: str, constant: bool) -> None:
    layer, x = layer_of(name)
    layer.requires_grad_(not constant)
    before = up_to_the_third(layer, x)
    with second_derivatives.cheap(layer):
        assert ("forward" in layer.__dict__) == (name not in UNTOUCHED)
        inside = up_to_the_third(layer, x)
    assert "forward" not in layer.__dict__
    for one, other in zip(inside, before, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["plain", "padded, strided", "dilated, in groups", "of sequences", "of volumes"])
def test_derivatives_are_those_of_differences(name: str) -> None:
    layer, x = layer_of(name)
    x = x.detach()[:1, ..., :3].requires_grad_(True)
    with second_derivatives.cheap(layer):
        assert torch.autograd.gradcheck(layer, (x,))
        assert torch.autograd.gradgradcheck(layer, (x,))


class Convolutions(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__.startswith("convolution")
        return func(*args, **(kwargs or {}))


def test_nothing_is_asked_of_constant_weights() -> None:
    """Of a layer forward, back, ahead along the back, and back: torch makes a fifth."""
    layer, x = layer_of("plain")
    layer.requires_grad_(False)

    def count() -> int:
        with Convolutions() as counted:
            (slope,) = torch.autograd.grad(layer(x).exp().sum(), x, create_graph=True)
            torch.autograd.grad(slope.square().sum(), x)
        return counted.count

    assert count() == 5
    with second_derivatives.cheap(layer):
        assert count() == 4


def test_layers_in_training_mode_and_those_of_others_stay_as_they_are() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    layers = nn.ModuleList([nn.BatchNorm2d(2).train(), Own(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)])
    with second_derivatives.cheap(layers):
        assert not any("forward" in layer.__dict__ for layer in layers)


def test_it_is_as_before_after_an_error_and_may_be_nested() -> None:
    layer, x = layer_of("plain")
    before = layer(x)
    with second_derivatives.cheap(layer):
        outer = layer.__dict__["forward"]
        with pytest.raises(KeyError), second_derivatives.cheap(layer):
            raise KeyError
        assert layer.__dict__["forward"] is outer
        assert torch.allclose(layer(x), before)
    assert "forward" not in layer.__dict__


def test_reduced_precision_is_torchs() -> None:
    layer, x = layer_of("plain")
    layer, x = layer.float(), x.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = layer(x)
        with second_derivatives.cheap(layer):
            ours = layer(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
