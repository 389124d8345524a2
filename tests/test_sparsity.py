"""How concise maps are: values known by hand, laws of sparsity measures, and the definitions read out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advex.errors import InputError
from advex.measures import bootstrap_mean, compare_ginis, effective_features, entropy, gini, gini_gain

MEASURES = pytest.mark.parametrize("measure", [gini, entropy, effective_features])

# Neither so small that all sums vanish nor so large that they overflow: scale has tests of its own.
numbers = st.lists(st.floats(-100, 100, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=1)
somewhere = numbers.filter(any)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def hurley_rickard(values: list[float]) -> float:
    """Hurley and Rickard 2009: 1 - 2 sum_k c_(k) / ||c||_1 ((N - k + 1/2) / N), c_(1) <= ... <= c_(N)."""
    c = sorted(abs(v) for v in values)
    big_n, norm = len(c), sum(c)
    return 1 - 2 * sum(c[k - 1] / norm * ((big_n - k + 0.5) / big_n) for k in range(1, big_n + 1))


# -- known values -------------------------------------------------------------------------------------------


def test_one_element_alone_is_the_most_concise() -> None:
    for d in (1, 2, 5, 1000):
        maps = torch.zeros(1, d, dtype=torch.float64)
        maps[0, d // 2] = -3.0
        assert gini(maps).item() == pytest.approx(1 - 1 / d, abs=1e-12)
        assert entropy(maps).item() == 0
        assert effective_features(maps).item() == 1


def test_equal_elements_are_the_least_concise() -> None:
    for d in (1, 2, 5, 1000):
        maps = torch.full((1, d), -0.3, dtype=torch.float64)
        assert gini(maps).item() == pytest.approx(0, abs=1e-12)
        assert entropy(maps).item() == pytest.approx(math.log(d), abs=1e-12)
        assert effective_features(maps).item() == pytest.approx(d)


def test_values_by_hand() -> None:
    # (-3 * 1 - 1 * 2 + 1 * 3 + 3 * 4) / (4 * 10)
    assert gini(row([3, -1, 4, 2])).item() == pytest.approx(0.25)
    # Shares 1/2, 1/4, 1/4.
    assert entropy(row([2, 0, -1, 1])).item() == pytest.approx(1.5 * math.log(2))
    assert effective_features(row([2, 0, -1, 1])).item() == pytest.approx(2**1.5)


def test_so_many_equal_elements_count_as_that_many() -> None:
    for k in range(1, 8):
        maps = torch.zeros(1, 2, 4, dtype=torch.float64)
        maps.view(-1)[:k] = 0.7
        assert effective_features(maps).item() == pytest.approx(k)
        assert gini(maps).item() == pytest.approx(1 - k / 8)


def test_a_map_of_zeros() -> None:
    maps = torch.zeros(2, 3, 4)
    assert gini(maps).tolist() == [0, 0]
    assert entropy(maps).isnan().all()
    assert effective_features(maps).isnan().all()


@MEASURES
def test_what_is_not_finite_is_nan_and_stays_in_its_row(measure) -> None:
    maps = torch.tensor([[1.0, math.nan, 2.0], [1.0, math.inf, 2.0], [1.0, 0.0, 2.0]])
    assert measure(maps).isnan().tolist() == [True, True, False]


# -- definitions, slowly ------------------------------------------------------------------------------------


@given(somewhere)
def test_gini_is_that_of_hurley_and_rickard(values: list[float]) -> None:
    assert gini(row(values)).item() == pytest.approx(hurley_rickard(values), abs=1e-12)


@given(somewhere)
def test_gini_is_the_mean_difference_of_pairs(values: list[float]) -> None:
    """The economists' definition: sum_ij ||a_i| - |a_j|| / (2 d sum |a|)."""
    size = np.abs(np.array(values))
    pairs = np.abs(size[:, None] - size[None]).sum() / (2 * len(size) * size.sum())
    assert gini(row(values)).item() == pytest.approx(pairs, abs=1e-12)


@given(somewhere)
def test_entropy_is_scipys(values: list[float]) -> None:
    assert entropy(row(values)).item() == pytest.approx(scipy.stats.entropy(np.abs(values)), abs=1e-12)


# -- laws ---------------------------------------------------------------------------------------------------


@MEASURES
@given(values=somewhere, exponent=st.integers(-900, 900))
def test_scale_does_not_matter(measure, values: list[float], exponent: int) -> None:
    maps = row(values)
    assert torch.equal(measure(maps * 2.0**exponent), measure(maps))  # by powers of 2: not even in rounding


@MEASURES
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-7, 1.0, 1e7, 1e30, 1e38])
def test_scale_does_not_matter_in_float32(measure, scale: float) -> None:
    maps = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    exact = measure(maps.double())
    # Sums of 3,072 numbers of 24 bits (20 at 1e-38), and exp turns entropy's last bit, of 8 nats, into a share of 5e-7.
    assert torch.allclose(measure(maps * scale).double(), exact, rtol=1e-5, atol=1e-6)
    assert measure(maps).dtype == torch.float32


@MEASURES
@given(values=somewhere, data=st.data())
def test_order_sign_and_shape_do_not_matter(measure, values: list[float], data: st.DataObject) -> None:
    mixed = data.draw(st.permutations(values))
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(values), max_size=len(values)))
    changed = row([sign * value for sign, value in zip(signs, mixed, strict=True)])
    # Sums in another order round otherwise.
    assert torch.allclose(measure(changed), measure(row(values)), rtol=1e-12, atol=1e-12)
    assert torch.equal(measure(changed[:, None, :, None]), measure(changed))


@given(somewhere, st.integers(2, 4))
def test_copies_and_zeros(values: list[float], copies: int) -> None:
    """Hurley and Rickard's laws P2 and D4: zeros make a list sparser, copies of it do not."""
    once = gini(row(values)).item()
    assert gini(row(values * copies)).item() == pytest.approx(once, abs=1e-12)
    assert gini(row([*values, 0.0])).item() > once - 1e-12
    assert effective_features(row(values * copies)).item() == pytest.approx(
        copies * effective_features(row(values)).item()
    )


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=9), st.floats(0.05, 0.45))
def test_what_the_strong_give_to_the_weak_makes_it_less_concise(values: list[float], share: float) -> None:
    """Hurley and Rickard's law D1, Robin Hood."""
    given_away = list(values)
    strong, weak = int(np.argmax(values)), int(np.argmin(values))
    gift = share * (values[strong] - values[weak])
    given_away[strong] -= gift
    given_away[weak] += gift
    assert gini(row(given_away)).item() <= gini(row(values)).item() + 1e-12
    assert entropy(row(given_away)).item() >= entropy(row(values)).item() - 1e-12


@MEASURES
def test_rows_do_not_mix_and_may_be_none(measure) -> None:
    maps = torch.randn(5, 3, 4, dtype=torch.float64)
    alone = torch.cat([measure(maps[i : i + 1]) for i in range(5)])
    assert torch.allclose(measure(maps), alone, rtol=1e-12, atol=0)
    assert measure(maps[:0]).shape == (0,)


def test_gini_is_not_the_published_codes() -> None:
    """Which adds 1e-7 to every element: the same at scale 1, another number for a small map."""

    def published(maps: np.ndarray) -> float:
        a = np.sort(np.abs(maps) + 1e-7)
        k = np.arange(1, len(a) + 1)
        return ((2 * k - len(a) - 1) * a).sum() / (len(a) * a.sum())

    values = np.arange(20.0) ** 4
    assert gini(row(list(values))).item() == pytest.approx(published(values), abs=1e-6)
    assert abs(gini(row(list(values * 1e-12))).item() - published(values * 1e-12)) > 0.1


# -- derivatives --------------------------------------------------------------------------------------------


@MEASURES
def test_derivatives_off_ties(measure) -> None:
    maps = torch.tensor([[0.5, -1.0, 2.0, -3.5], [1.0, 0.2, -0.3, 0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(measure, maps)
    (gradient,) = torch.autograd.grad(measure(maps).sum(), maps)
    along = (gradient * maps).sum(dim=1)
    assert torch.allclose(along, torch.zeros(2, dtype=torch.float64), atol=1e-12)  # scale does not matter


@MEASURES
def test_derivatives_are_finite_where_it_has_corners(measure) -> None:
    maps = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 2.0, 0.0]], requires_grad=True)
    values = measure(maps)
    values[values == values].sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad[1:]).all()
    assert gini(maps).isfinite().all()


def test_ginis_derivative_is_finite_at_every_scale_and_zero_at_zero() -> None:
    for scale in (1e-38, 1.0, 1e38):
        maps = (torch.tensor([[0.3, -1.0, 2.0, 0.0]]) * scale).requires_grad_(True)
        gini(maps).sum().backward()
        assert maps.grad is not None
        assert torch.isfinite(maps.grad).all()
    zeros = torch.zeros(1, 4, requires_grad=True)
    gini(zeros).sum().backward()
    assert torch.equal(zeros.grad, torch.zeros(1, 4))  # pyright: ignore[reportArgumentType]


# -- gains --------------------------------------------------------------------------------------------------


def test_the_gain_is_paired() -> None:
    natural, model = row([1, 1, 1, 1]).repeat(2, 1), torch.cat([row([0, 0, 0, 5]), row([3, 1, 4, 2])])
    assert gini_gain(model, natural).tolist() == pytest.approx([0.75, 0.25])
    assert gini_gain(natural, model).tolist() == pytest.approx([-0.75, -0.25])


def test_the_mean_gain_and_its_interval() -> None:
    natural = torch.rand(200)
    score = compare_ginis(natural + 0.06, natural)
    # The same gain everywhere has no spread, however much the models' own indices have.
    assert (score.value, score.low, score.high) == pytest.approx((0.06, 0.06, 0.06), abs=1e-7)
    model = torch.rand(200)
    score = compare_ginis(model, natural, seed=3)
    assert (score.value, score.low, score.high) == bootstrap_mean(model.double() - natural.double(), seed=3)
    assert score.value == pytest.approx(model.double().mean().item() - natural.double().mean().item())  # Eq. 21
    assert (score.name, score.n, score.better, score.failures) == ("dG", 200, "high", 0)


def test_maps_that_are_not_finite_are_left_out_and_counted() -> None:
    score = compare_ginis(torch.tensor([0.5, math.nan, 0.7]), torch.tensor([0.4, 0.5, 0.6]))
    assert (score.n, score.failures) == (2, 1)
    assert score.value == pytest.approx(0.1)
    nothing = compare_ginis(torch.empty(0), torch.empty(0))
    assert nothing.n == 0
    assert math.isnan(nothing.value)


# -- what it refuses ----------------------------------------------------------------------------------------


def test_it_refuses_what_is_no_map() -> None:
    for maps in (torch.ones(4), torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 0), torch.tensor(1.0)):
        with pytest.raises(InputError, match=r"[Mm]ap"):
            gini(maps)
    with pytest.raises(InputError, match=r"\(2, 3\) against \(2, 4\)"):
        gini_gain(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(InputError, match="one Gini index per example"):
        compare_ginis(torch.ones(2), torch.ones(3))
