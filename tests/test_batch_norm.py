"""Batch norm where one step makes several passes, and in the form that changes nothing in place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import batch_norm
from advex.errors import SpecError

KINDS = {
    "table": (lambda **o: nn.BatchNorm1d(3, **o), (7, 3)),
    "series": (lambda **o: nn.BatchNorm1d(3, **o), (5, 3, 4)),
    "pictures": (lambda **o: nn.BatchNorm2d(3, **o), (4, 3, 2, 5)),
    "volumes": (lambda **o: nn.BatchNorm3d(3, **o), (2, 3, 2, 2, 3)),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"affine": False},
    {"momentum": 0.7, "eps": 0.1},
    {"momentum": None},
    {"track_running_stats": False},
]


def layer(kind: str, **options: Any) -> tuple[nn.Module, Tensor]:
    """A layer whose weights and statistics are not those of a fresh one, and an input."""
    make, shape = KINDS[kind]
    made = make(**options).double()
    for value in [*made.parameters(), *made.buffers()]:
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5)
    return made, torch.randn(shape, dtype=torch.float64) * 2 + 1


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def same(one: dict[str, Tensor], other: dict[str, Tensor], rtol: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], rtol=rtol, atol=0) for name in one)


# -- unrecorded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unrecorded_pass_is_the_usual_one_without_its_trace(kind: str, options: dict[str, Any]) -> None:
    module, x = layer(kind, **options)
    before, flags = statistics(module), dict(vars(module))
    with batch_norm.unrecorded(module):
        result = module(x)
    assert same(statistics(module), before)
    assert dict(vars(module)) == flags
    assert torch.equal(result, module(x))
    with batch_norm.unrecorded(module.eval()):
        evaluated = module(x)
    assert torch.equal(evaluated, module(x))


def test_layers_record_again_when_a_pass_broke() -> None:
    module, x = layer("table")
    before = statistics(module)
    with pytest.raises(OSError), batch_norm.unrecorded(module):  # noqa: PT011, PT012
        module(x)
        raise OSError
    assert same(statistics(module), before)
    module(x)
    assert not same(statistics(module), before)


# -- noting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_noted_and_recorded_is_what_a_pass_would_have_done(kind: str, options: dict[str, Any]) -> None:
    module, x = layer(kind, **options)
    usual, before = copy.deepcopy(module), statistics(module)
    for _ in range(2):  # twice: a plain mean over batches depends on how many there were
        inputs = [x.clone().requires_grad_(True) for _ in range(2)]
        with batch_norm.noting(module):
            result = module(inputs[0])
            if options.get("track_running_stats", True) and "num_batches_tracked" in before:
                assert module.num_batches_tracked == before["num_batches_tracked"]
            moments = batch_norm.noted(module)
            assert batch_norm.noted(module) == [[]]
        batch_norm.record_noted(module, moments)
        expected = usual(inputs[1])
        assert torch.equal(result, expected)
        assert same(statistics(module), statistics(usual), rtol=1e-12)
        weights = torch.randn_like(result)
        gradients = []
        for at, output in zip(inputs, (result, expected), strict=True):
            (first,) = torch.autograd.grad((output * weights).sum(), at, create_graph=True)
            gradients.append((first, *torch.autograd.grad(first.square().sum(), at)))
        assert torch.equal(gradients[0][0], gradients[1][0])
        assert torch.equal(gradients[0][1], gradients[1][1])
        before = statistics(module)
        x = x * 1.5 - 0.3


class Odd(nn.Module):
    """A layer that is used twice, one that is never used, one that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.still = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.still(self.twice(self.twice(x) * 2 + 1))


def test_layers_that_are_used_twice_or_never_or_evaluated() -> None:
    module = Odd().double()
    module.still.eval()
    usual, x = copy.deepcopy(module), torch.randn(6, 3, dtype=torch.float64)
    with batch_norm.noting(module):
        result = module(x)
        moments = batch_norm.noted(module)
    assert [len(passes) for passes in moments] == [2, 0, 0]
    batch_norm.record_noted(module, moments)
    assert torch.equal(result, usual(x))
    assert same(statistics(module), statistics(usual), rtol=1e-12)


def test_noting_leaves_a_module_as_it_was_also_when_a_pass_breaks() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[2].forward = module[2].forward  # somebody's own
    before = [dict(vars(one)) for one in module.modules()]
    with pytest.raises(OSError), batch_norm.noting(module):  # noqa: PT011, PT012
        module(torch.rand(4, 3))
        raise OSError
    assert [dict(vars(one)) for one in module.modules()] == before


def test_moments_of_bfloat16_are_taken_in_float32() -> None:
    """As torch's own pass takes them. In bfloat16 a mean of 100 would be off by up to a quarter."""
    x = (torch.randn(64, 3) + 100).bfloat16()
    module, usual = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with batch_norm.noting(module):
        module(x)
        moments = batch_norm.noted(module)
    batch_norm.record_noted(module, moments)
    usual(x)
    assert same(statistics(module), statistics(usual), rtol=1e-5)
    assert torch.allclose(module.running_mean, 0.1 * x.float().mean(dim=0), rtol=1e-6)  # pyright: ignore


def test_one_value_per_channel_is_refused_as_usual() -> None:
    module = nn.BatchNorm1d(3)
    with batch_norm.noting(module), pytest.raises(ValueError, match="more than 1 value per channel"):
        module(torch.rand(1, 3))


# -- standing in for layers --------------------------------------------------------------------------------


class Renormalised(nn.BatchNorm1d):
    """A batch norm of its own kind."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_a_batch_norm_of_its_own_kind_is_not_replaced() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), Renormalised(3))
    before = [dict(vars(one)) for one in module.modules()]
    sentence = "The network's Renormalised overrides forward"
    for stand_in in (batch_norm.replaced(module, lambda layer, x: x), batch_norm.noting(module)):
        with pytest.raises(SpecError, match=sentence), stand_in:
            pass
    assert [dict(vars(one)) for one in module.modules()] == before


def test_replacements_nest_and_parametrised_layers_are_plain_ones() -> None:
    module = nn.BatchNorm1d(3, affine=True)
    nn.utils.parametrize.register_parametrization(module, "weight", nn.Softplus())
    x = torch.rand(4, 3)
    usual = module(x)
    with batch_norm.replaced(module, lambda layer, x: x + 1):
        with batch_norm.replaced(module, lambda layer, x: x + 2):
            assert torch.equal(module(x), x + 2)
        assert torch.equal(module(x), x + 1)
    assert torch.equal(module(x), usual)
    with batch_norm.noting(module):
        assert torch.equal(module(x), usual)
