"""Distances between maps, by hand and against scipy. Their laws are in contracts/test_distances.py."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advex.distances import (
    Cosine,
    Kendall,
    LensKendall,
    LensPrecision,
    LensRecall,
    LensSpearman,
    RelativeL2,
    Spearman,
    TopK,
)
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


# -- channels -----------------------------------------------------------------------------------------------


def test_pixels_are_compared_unless_elements_are_asked_for() -> None:
    first = torch.zeros(1, 2, 2, 2).double()
    first[0, :, 0, 0], first[0, :, 0, 1], first[0, :, 1, 1] = torch.tensor([3.0, -3]), torch.tensor([4.0, 0]), 0.5
    second = first.flip(1)  # every pixel's channels change places
    for distance in (TopK(1), Spearman(), Cosine(), RelativeL2(), Kendall(), LensRecall(k=1)):
        assert distance(first, second).item() == 0
    assert TopK(1, channels="none")(first, second).item() == 1
    # The channel sums are 0, 4, 0, 1.
    assert TopK(1, channels="sum")(first, first.roll(1, 3)).item() == 1
    assert TopK(1)(first, torch.tensor([3.0, 2, 0, 0]).reshape(1, 1, 2, 2).expand(1, 2, 2, 2)).item() == 0
    assert Cosine(channels="none")(first, -first).item() == pytest.approx(2)
    with pytest.raises(SpecError, match=r"not 'sum_bas'.*did you mean 'sum_abs'"):
        TopK(1, channels="sum_bas")  # pyright: ignore
    with pytest.raises(InputError, match="of 4 values has no 5 largest"):
        TopK(5)(first, second)  # 8 elements, 4 pixels


# -- Kendall ------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_kendall_counts_pairs(seed: int) -> None:
    """tau-b, pair by pair, with ties."""
    first, second = np.random.default_rng(seed).integers(-3, 4, (2, 7)).astype(float)
    a, b = abs(first), abs(second)
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(len(first)), 2)]
    together = sum(one * other for one, other in signs)
    untied = math.prod(sum(bool(pair[k]) for pair in signs) for k in (0, 1))
    got = Kendall()(maps(first.tolist()), maps(second.tolist())).item()
    if len(set(a)) == 1:
        assert math.isnan(got)
    elif len(set(b)) == 1:
        assert got == 1
    else:
        assert got == pytest.approx(1 - together / math.sqrt(untied), abs=1e-11)


def test_kendall_of_bfloat16_and_of_single_values() -> None:
    first, second = torch.randn(2, 3, 1, 3, 3).bfloat16()
    assert Kendall()(first, second).dtype == torch.bfloat16
    assert torch.allclose(Kendall()(first, second), Kendall()(first.double(), second.double()).bfloat16())
    assert Kendall()(torch.ones(2, 1), torch.ones(2, 1)).isnan().all()  # without SciPy's warning


# -- LENS ---------------------------------------------------------------------------------------------------


def near(pixels: set[tuple[int, int]], w: int, side: int) -> set[tuple[int, int]]:
    return {
        (y, x)
        for y, x in itertools.product(range(side), repeat=2)
        if any(abs(y - v) <= w and abs(x - u) <= w for v, u in pixels)
    }


@pytest.mark.parametrize("w", [0, 1, 2])
def test_lens_is_its_definition(w: int) -> None:
    rng, side, k = torch.Generator().manual_seed(w), 6, 5
    for _ in range(20):
        first, second = torch.randn(2, 1, 3, side, side, generator=rng, dtype=torch.float64)
        top = []
        for values in (first, second):
            size = values[0].abs().sum(dim=0).numpy()
            top.append({divmod(int(place), side) for place in np.argsort(-size, axis=None)[:k]})
        s, t = top
        assert LensRecall(k=k, w=w)(first, second).item() == pytest.approx(1 - len(near(s, w, side) & t) / k)
        assert LensPrecision(k=k, w=w)(first, second).item() == pytest.approx(1 - len(s & near(t, w, side)) / k)
        sizes = [values[0].abs().sum(dim=0).numpy() for values in (first, second)]
        means = [
            [np.mean([size[p] for p in near({(y, x)}, w, side)]) for y, x in itertools.product(range(side), repeat=2)]
            for size in sizes
        ]
        tau: Any = scipy.stats.kendalltau(*means)
        rho: Any = scipy.stats.spearmanr(*means)
        assert LensKendall(w=w)(first, second).item() == pytest.approx(1 - tau.statistic, abs=1e-9)
        assert LensSpearman(w=w)(first, second).item() == pytest.approx(1 - rho.statistic, abs=1e-9)


def test_lens_ends_at_the_border_and_knows_the_first_pixel() -> None:
    """The last pixel of a row is not near the first of the next, and the corner counts."""
    side = 4
    first, second, across = (torch.zeros(1, 1, side, side).double() for _ in range(3))
    first[..., 0, 0] = 1.0
    second[..., 1, 1] = 1.0
    across[..., 0, side - 1] = 1.0
    assert LensRecall(k=1)(first, second).item() == LensPrecision(k=1)(second, first).item() == 0
    assert LensRecall(k=1)(across, across.roll(1)).item() == 1  # (0, 3) and (1, 0): neighbours in memory alone


@pytest.mark.parametrize(
    ("lens", "plain"),
    [
        (LensRecall(k=20, w=0), TopK(20)),
        (LensPrecision(k=20, w=0), TopK(20)),
        (LensKendall(w=0), Kendall()),
        (LensSpearman(w=0), Spearman()),
    ],
    ids=lambda distance: type(distance).__name__,
)
def test_without_a_square_lens_is_the_plain_distance(lens: Any, plain: Any) -> None:
    first, second = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64).round(decimals=1)  # with ties
    assert torch.equal(lens(first, second), plain(first, second))
    assert torch.equal(lens.smooth(first, second), plain.smooth(first, second))
    wider = type(lens)(**{**vars(lens), "w": 1})
    if isinstance(plain, TopK):
        assert (wider(first, second) <= plain(first, second) + 1e-12).all()


def test_lens_of_maps_with_few_pixels_divides_by_what_they_have() -> None:
    """One pixel, and ten of which one lies near it: nine tenths of the ten do not lie near the one, the one is near."""
    lone, ten = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    lone[0, 0, 0, 0] = 1.0
    ten[0, 0, 0, 1] = 1.0
    ten[0, 0, 4, :] = ten[0, 0, 6, 0] = 2.0
    recall, precision = LensRecall(k=10), LensPrecision(k=10)
    assert recall(lone, ten).item() == pytest.approx(0.9)
    assert precision(lone, ten).item() == 0
    assert recall(ten, lone).item() == 0
    assert precision(ten, lone).item() == pytest.approx(0.9)
    for distance in (recall, precision):
        assert distance(lone, torch.zeros_like(lone)).item() == 1
        assert distance(torch.zeros_like(lone), lone).isnan().all()


def test_what_lens_cannot_do_is_said() -> None:
    with pytest.raises(SpecError, match="0, 1, 2, ..., not -1"):
        LensKendall(w=-1)
    with pytest.raises(SpecError, match="at least 1, not 0"):
        LensRecall(k=0)
    for distance in (LensRecall(k=1), LensPrecision(k=1), LensKendall(), LensSpearman()):
        with pytest.raises(InputError, match=r"the values of a row \[4\] have no neighbours.*top_k, kendall"):
            distance(maps([1, 2, 3, 4]), maps([1, 2, 3, 4]))
        with pytest.raises(InputError, match="of the same inputs"):
            distance(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 5))
    for w in (4, 10**6, 10**30):  # else everything would be stable, or the same everywhere
        for distance in (LensRecall(k=1, w=w), LensPrecision(k=1, w=w), LensKendall(w=w), LensSpearman(w=w)):
            for ask in (distance, distance.smooth):
                with pytest.raises(InputError, match=f"With w={w} all pixels of a map of 4x3 are near each other"):
                    ask(torch.ones(1, 3, 4, 3), torch.ones(1, 3, 4, 3))
    with pytest.raises(InputError, match="of 16 values has no 17 largest"):
        LensRecall(k=17)(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4))
