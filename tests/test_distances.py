"""Distances between maps, by hand and against scipy. Their laws are in contracts/test_distances.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advex.distances import Cosine, RelativeL2, Spearman, TopK
from advex.errors import InputError, SpecError


def maps(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_distances_by_hand() -> None:
    first, second = maps([3, 4, 0, 0]), maps([0, 4, 4, 0])
    assert RelativeL2()(first, second).item() == pytest.approx(1)  # |(-3, 0, 4, 0)| / |(3, 4, 0, 0)|
    assert Cosine()(first, second).item() == pytest.approx(1 - 16 / (5 * math.sqrt(32)))
    assert Cosine()(first, -first).item() == pytest.approx(2)
    assert TopK(2)(first, second).item() == 0.5
    assert TopK(1)(first, maps([0, -9, 4, 0])).item() == 0  # signs do not count
    assert TopK(4)(first, maps([1, 0, 0, 0])).item() == 0.5  # of the two elements that first has at all
    assert Spearman()(maps([1, -2, 3, 4]), maps([-40, 30, 20, 1])).item() == pytest.approx(2)
    assert Spearman()(maps([1, -2, 3, 4]), maps([0.1, 0.2, -0.7, 0.9])).item() == pytest.approx(0)


def test_distances_are_scipys() -> None:
    first, second = torch.randn(6, 4, 5, dtype=torch.float64), torch.randn(6, 4, 5, dtype=torch.float64).round()
    for i in range(6):
        a, b = first[i].flatten().numpy(), second[i].flatten().numpy()
        rho = scipy.stats.spearmanr(np.abs(a), np.abs(b))[0]  # rounding has made ties
        assert Spearman()(first, second)[i].item() == pytest.approx(1 - rho, abs=1e-12)
        assert Cosine()(first, second)[i].item() == pytest.approx(scipy.spatial.distance.cosine(a, b), abs=1e-12)
        top = [set(np.argsort(-np.abs(values))[:3]) for values in (a, first[i].flatten().numpy() * 1.0)]
        assert TopK(3)(first, first * 2.0)[i].item() == 1 - len(top[0] & top[1]) / 3


def test_what_is_climbed_in_place_of_a_step_function_rises_with_it() -> None:
    first = maps([5, 4, 3, 0.1, 0.1, 0.1])
    near, far = maps([4, 5, 3, 0.2, 0.1, 0.1]), maps([0.1, 0.3, 0.2, 4, 5, 3])
    for distance in (TopK(3), Spearman()):
        assert distance(first, near).item() < distance(first, far).item()
        assert distance.smooth(first, near).item() < distance.smooth(first, far).item()


def test_more_elements_than_a_map_has_are_refused() -> None:
    with pytest.raises(InputError, match="no 5 largest"):
        TopK(5)(torch.ones(1, 4), torch.ones(1, 4))
    with pytest.raises(SpecError, match="at least 1"):
        TopK(0)


def chosen_in_order(values: np.ndarray, k: int, order: tuple[int, ...]) -> set[int]:
    """The k largest, zeros never, of equal ones those that come first in an order."""
    ranked = sorted(range(len(values)), key=lambda i: (-abs(values[i]), order.index(i)))
    return {i for i in ranked[:k] if values[i]}


@given(st.integers(0, 10**6))
def test_ties_are_broken_by_chance_for_both_maps_at_once(seed: int) -> None:
    """The expected overlap, against all orders of six elements."""
    rng = np.random.default_rng(seed)
    k, (first, second) = int(rng.integers(1, 6)), rng.integers(-2, 3, (2, 6)).astype(float)
    if not first.any():
        first[0] = 1
    shares = []
    for order in itertools.permutations(range(6)):
        one, other = (chosen_in_order(values, k, order) for values in (first, second))
        shares.append(len(one & other) / len(one))
    got = TopK(k)(maps(first.tolist()), maps(second.tolist())).item()
    assert got == pytest.approx(1 - np.mean(shares), abs=1e-12)
    assert TopK(k)(maps(first.tolist()), maps(first.tolist())).item() == 0


def test_ties_do_not_depend_on_where_the_elements_stand() -> None:
    """Large plateaus: of 200 equal elements 50 are chosen, of 300 others, 100 of them the same, 50 too."""
    first, second = torch.zeros(500), torch.zeros(500)
    first[:200], second[100:400] = 1.0, 2.0
    rng = torch.Generator().manual_seed(0)
    orders = [torch.randperm(500, generator=rng) for _ in range(4000)]
    overlaps = [
        len(set(order[first[order] > 0][:50].tolist()) & set(order[second[order] > 0][:50].tolist()))
        for order in orders
    ]
    got = TopK(50)(first[None], second[None]).item()
    assert got == pytest.approx(1 - np.mean(overlaps) / 50, abs=4 * np.std(overlaps) / 50 / len(orders) ** 0.5)
    order = orders[0]
    assert TopK(50)(first[None, order], second[None, order]).item() == pytest.approx(got, abs=1e-12)
