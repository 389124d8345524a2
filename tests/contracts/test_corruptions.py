"""Laws of every registered corruption: rows, ranges, randomness, sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advex import registry
from advex.corruptions import Corruption
from advex.data import open_dataset
from advex.errors import InputError, SpecError

NAMES = list(registry.entries("corruption"))
EVERY = pytest.mark.parametrize("name", NAMES)


def build(name: str, severity: int = 3) -> Corruption:
    return registry.make("corruption", name, severity=severity)


def pictures(n: int = 4, size: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    data = open_dataset("cifar10-sample", size=size, channels=channels)
    return data.batch(slice(0, n)).x


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 47), (200, 100)])
def test_a_corrupted_picture_is_one_of_8_bits(name: str, size: tuple[int, int], channels: int) -> None:
    x = pictures(2, size, channels)
    for severity in (1, 5):
        levels = 255 * build(name, severity)(x)
        assert levels.shape == x.shape
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert levels.amin() >= 0
        assert levels.amax() <= 255


@EVERY
def test_severities_differ_and_the_picture_given_stays(name: str) -> None:
    x, before = pictures(), pictures()
    corrupted = [build(name, severity)(x) for severity in range(1, 6)]
    assert torch.equal(x, before)
    assert all((each != x).any() for each in corrupted)
    assert (corrupted[0] != corrupted[4]).any()


@EVERY
def test_a_row_does_not_depend_on_its_company(name: str) -> None:
    x, corruption = pictures(6), build(name)
    together, order = corruption(x, seed=5), torch.tensor([4, 2, 0, 5, 1, 3])
    assert torch.equal(corruption(x[order], seed=5), together[order])
    for i in range(6):
        assert torch.equal(corruption(x[i : i + 1], seed=5), together[i : i + 1])
    assert corruption(x[:0]).shape == (0, 3, 32, 32)


@EVERY
def test_what_is_random_follows_from_the_seed_alone(name: str) -> None:
    x, corruption, state = pictures(), build(name), torch.get_rng_state()
    first = corruption(x, seed=1)
    torch.rand(3)
    assert torch.equal(corruption(x, seed=1), first)
    assert torch.equal(corruption(x.double(), seed=1).float(), first)
    random = bool(corruption.draw((3, 32, 32), torch.arange(2)))
    assert (corruption(x, seed=2) != first).any() == random
    torch.set_rng_state(state)
    corruption(x, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
def test_fields_are_drawn_row_by_row(name: str) -> None:
    corruption, seeds = build(name), torch.tensor([7, -3, 2**60])
    fields = corruption.draw((3, 16, 24), seeds)
    for i in range(3):
        for key, values in corruption.draw((3, 16, 24), seeds[i : i + 1]).items():
            assert torch.equal(values, fields[key][i : i + 1])


@EVERY
def test_black_and_white_pictures_have_no_holes(name: str) -> None:
    for value in (0.0, 1.0):
        assert build(name, 5)(torch.full((1, 3, 32, 32), value)).isfinite().all()


@EVERY
def test_what_is_no_picture_is_refused(name: str) -> None:
    for shape in ((2, 12), (2, 3, 7, 32), (2, 4, 32, 32)):
        with pytest.raises(InputError, match="Corruptions need pictures"):
            build(name)(torch.zeros(shape))
    for value in (-0.1, 1.5, 255.0, float("nan")):
        with pytest.raises(InputError, match="from 0 to 1"):
            build(name)(torch.full((1, 3, 32, 32), value))


@EVERY
def test_it_is_built_from_what_it_says_of_itself(name: str) -> None:
    corruption = build(name, 4)
    assert registry.build("corruption", registry.describe(corruption)) == corruption
    for severity in (0, 6):
        with pytest.raises(SpecError, match="severity must be"):
            build(name, severity)
    assert {len(table) for table in corruption.tables.values()} == {5}
