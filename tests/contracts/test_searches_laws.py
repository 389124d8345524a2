"""Laws of every registered search: rows do not mix, seeds repeat, limits hold, failure is said and not hidden."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from advex import attacks, registry
from advex.classifier import Classifier
from advex.errors import InputError
from advex.geometry import RMSE, as_norm
from advex.goals import Become, BelowChance, Confident, Misclassify
from advex.types import Perturbation, concatenate, take

Search = Callable[..., Perturbation]
# Of the inputs `x`: see conftest.
N, SHAPE = 6, (3, 2, 2)


def same(first: Perturbation, second: Perturbation) -> None:
    """All fields agree. 1e-7: float64 matrix products round differently for one row and for many, and a search
    of 20 steps enlarges that by a few powers of ten; a row that sees its neighbours differs in the first digit."""
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if a is None:
            assert b is None, field.name
            continue
        assert a.shape == b.shape, field.name
        if a.is_floating_point():
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-9), field.name
        else:
            assert torch.equal(a, b), field.name


# -- rows do not mix ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [Misclassify, BelowChance, Become, Confident])
def test_a_row_alone_is_the_row_in_the_batch(search: Search, clf: Classifier, x: Tensor, y: Tensor, goal: Any) -> None:
    together = search(clf, x, goal(y), seed=3)
    alone = [search(clf, x[i : i + 1], goal(y[i : i + 1]), seed=3) for i in range(N)]
    same(concatenate(alone), together)


def test_order_does_not_matter(search: Search, clf: Classifier, x: Tensor, y: Tensor) -> None:
    order = torch.randperm(N)
    same(search(clf, x[order], Misclassify(y[order]), seed=3), take(search(clf, x, Misclassify(y), seed=3), order))


@pytest.mark.parametrize("max_batch", [1, 4, "auto"])
def test_slices_give_the_result_of_the_whole(
    search: Search, clf: Classifier, x: Tensor, y: Tensor, max_batch: int | str
) -> None:
    mask = torch.rand(N, *SHAPE) < 0.8
    whole = search(clf, x, Misclassify(y), mask=mask)
    same(search(clf, x, Misclassify(y), mask=mask, max_batch=max_batch), whole)


@pytest.mark.parametrize("max_batch", [0, -2])
def test_slices_of_no_rows_are_refused(
    search: Search, clf: Classifier, x: Tensor, y: Tensor, max_batch: int | str
) -> None:
    with pytest.raises(InputError, match="max_batch must be at least 1"):
        search(clf, x, Misclassify(y), max_batch=max_batch)


@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(search: Search, clf: Classifier, x: Tensor, y: Tensor, n: int) -> None:
    result = search(clf, x[:n], Misclassify(y[:n]))
    assert len(result) == n
    assert result.delta.shape == (n, *SHAPE)
    for field in ("reached", "size", "rmse", "gradients", "queries", "flat"):
        assert getattr(result, field).shape == (n,)


def test_the_same_seed_gives_the_same_result(spec: str, search: Search, clf: Classifier, x: Tensor, y: Tensor) -> None:
    first, again = search(clf, x, Misclassify(y), seed=5), search(clf, x, Misclassify(y), seed=5)
    assert torch.equal(first.delta, again.delta)
    rebuilt = registry.build("attack", registry.describe(search))
    assert rebuilt == search
    assert torch.equal(rebuilt(clf, x, Misclassify(y), seed=5).delta, first.delta)
    if getattr(search, "random_start", False):
        assert not torch.equal(search(clf, x, Misclassify(y), seed=6).delta, first.delta)


# -- what is claimed is so ---------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [Misclassify, BelowChance, Become])
def test_what_is_claimed_is_so(search: Search, clf: Classifier, x: Tensor, y: Tensor, goal: Any) -> None:
    result = search(clf, x, goal(y))
    with torch.no_grad():
        s = clf.logits(result.clean + result.delta).softmax(dim=1)
    own = s.gather(1, y[:, None])[:, 0]
    others = s.scatter(1, y[:, None], -1).amax(dim=1)
    ahead = {Misclassify: others - own, BelowChance: 1 / 3 - own, Become: own - others}[goal]
    assert (ahead[result.reached] > -1e-12).all()  # the softmax itself rounds
    assert (ahead[~result.reached] < 1e-12).all()
    assert result.reached.any()
    norm = as_norm(getattr(search, "norm", RMSE))
    assert torch.equal(result.size, torch.where(result.reached, norm.size(result.delta), math.inf))
    assert torch.equal(result.rmse, torch.where(result.reached, RMSE.size(result.delta), math.inf))
    assert torch.equal(result.clean, x)


def test_the_result_lies_in_the_box(search: Search, toys: SimpleNamespace, clf: Classifier, x: Tensor) -> None:
    if getattr(search, "published", False):
        return  # leaves it on purpose: see references/test_algorithm1
    weight = torch.randn(3, 12, dtype=torch.float64)
    other = toys.affine(weight, -weight @ x.mean(dim=0).flatten(), box=(-0.1, 1.3))
    changed = 0
    for classifier in (clf, other):
        result = search(classifier, x, Misclassify(classifier(x).argmax(dim=1)))
        assert ((result.adversarial >= classifier.lower) & (result.adversarial <= classifier.upper)).all()
        changed += int(result.delta.count_nonzero())
    assert changed


@pytest.mark.parametrize("norm", list(registry.entries("norm")))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{"step": 5.0}, {"random_start": False}, {"restarts": 3}], ids=str)
def test_the_radius_is_never_exceeded(
    clf: Classifier, x: Tensor, y: Tensor, norm: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    for radius in (1e-3, 0.07, 2.0):
        search = attacks.PGD(norm=norm, radius=radius, steps=5, **options)
        result = search(clf.to(dtype), x.to(dtype), Misclassify(y))
        assert (as_norm(norm).size(result.delta) <= radius).all()  # exactly


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_at_distance_is_at_that_distance(clf: Classifier, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
    mask = torch.rand(N, *SHAPE) < 0.7
    narrow: list[dict[str, Any]] = [{}, {"steps": 1}, {"steps": 3, "outward": 0.9}, {"turn": 2.0}]
    wide: list[dict[str, Any]] = [{"rho": 0.6}, {"rho": 0.6, "steps": 1}, {"rho": 0.9}]
    for options in narrow + wide:
        search: Any = attacks.AtDistance(**{"rho": 0.2, **options})
        for kept in (None, mask):
            result = search(clf.to(dtype), x.to(dtype), Misclassify(y), mask=kept)
            farthest = RMSE.size(torch.maximum(x, 1 - x) * (1 if kept is None else kept))
            expected = farthest.clamp_max(search.rho)  # as far as the box goes
            assert RMSE.size(result.delta).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_at_distance_leaves_even_without_a_gradient(toys: SimpleNamespace, x: Tensor) -> None:
    mask = torch.rand(N, *SHAPE) < 0.7
    for steps in (1, 35):
        search = attacks.AtDistance(rho=0.2, steps=steps)
        result = search(toys.deaf([1.0, -1.0], attached=True), x, Misclassify(torch.zeros(N).long()), mask=mask)
        assert RMSE.size(result.delta).numpy() == pytest.approx(0.2, abs=1e-5)
        assert result.flat.all()


def test_only_the_mask_changes(search: Search, toys: SimpleNamespace, clf: Classifier, x: Tensor, y: Tensor) -> None:
    w = torch.randn(12, dtype=torch.float64)
    near = toys.affine(torch.stack([w, -w]), torch.zeros(2))
    near.network[1].bias.data.copy_(torch.tensor([1.0, -1.0]) * (0.02 - (x.flatten(1) @ w)[0]))
    per_row = torch.rand(N, *SHAPE) < 0.6
    shared = torch.tensor([[1, 0], [1, 1]])  # broadcast over rows and channels, and not yet boolean
    for mask in (per_row, shared):
        assert not search(clf, x, Misclassify(y), mask=mask).delta[~mask.bool().expand(x.shape)].any()
        assert search(near, x[:1], Misclassify(y[:1] * 0), mask=mask[:1]).delta.any()
    frozen = search(clf, x, Misclassify(y), mask=torch.zeros(1, dtype=torch.bool))
    assert not frozen.delta.any()
    assert frozen.reached.nonzero()[:, 0].tolist() == [2, 5]  # those that are misclassified as they are


def test_a_mask_that_does_not_fit_is_refused(search: Search, clf: Classifier, x: Tensor, y: Tensor) -> None:
    with pytest.raises(InputError, match=r"mask .*\(5,\)"):
        search(clf, x, Misclassify(y), mask=torch.ones(5))


def test_labels_that_do_not_fit_are_refused(search: Search, clf: Classifier, x: Tensor, y: Tensor) -> None:
    for wrong in (y[:2], torch.cat([y, y])):
        with pytest.raises(InputError, match=rf"\by\b.* {len(wrong)} rows .* {N} inputs"):
            search(clf, x, Misclassify(wrong))
    with pytest.raises(InputError, match="one class index per input, int64 in"):
        search(clf, x, Misclassify(y + 3))


def test_what_is_misclassified_already_needs_no_change(search: Search, clf: Classifier, x: Tensor, y: Tensor) -> None:
    result = search(clf, x, Misclassify(y))
    assert result.reached[[2, 5]].all()
    if search.promises != "lowest":  # pyright: ignore[reportFunctionMemberAccess]
        assert result.size[[2, 5]].tolist() == [0, 0]
        assert not result.delta[[2, 5]].any()
        assert (result.size > 0).sum() == N - 2


def test_what_cannot_be_reached_is_not_claimed(search: Search, toys: SimpleNamespace, x: Tensor) -> None:
    # The boundary sum(x) = 20 lies far outside the box, where sum(x) is at most 12.
    w = torch.ones(12, dtype=torch.float64)
    far = toys.affine(torch.stack([-w, w]), torch.tensor([20.0, -20.0]))
    if getattr(search, "published", False):
        return  # knows no box
    result = search(far, x, Misclassify(torch.zeros(N, dtype=torch.int64)))
    assert not result.reached.any()
    assert torch.isinf(result.size).all()
    assert torch.isinf(result.rmse).all()
    assert torch.isfinite(result.delta).all()


SHARES = ("minimal:gradients=40", "pgd:norm=linf,radius=0.2,steps=10", "pgd:norm=l2,radius=0.6",
          "pgd:norm=l1,radius=1.5", "pgd:norm=rmse,radius=0.2", "at_distance:rho=0.2", "l2min:epsilon=0.3",
          "algorithm1:steps=60", "closed_form:radius=0.2")  # fmt: skip


@pytest.mark.parametrize("chosen", SHARES)
@pytest.mark.parametrize(("low", "width"), [(0.0, 255.0), (-1.0, 2.0)])
def test_sizes_are_shares_of_the_boxs_width(chosen: str, low: float, width: float, toys: SimpleNamespace) -> None:
    """One network in other units: the same rows are reached, by the same shares of black to white."""
    rng = torch.Generator().manual_seed(3)
    weight, bias = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((4, 12), (4,)))
    unit, other = toys.affine(weight, bias), toys.affine(weight / width, bias - weight.sum(1) * low / width)
    other = Classifier(other.network, box=(low, low + width))
    x = torch.rand(6, 3, 2, 2, generator=rng, dtype=torch.float64)
    goal = Misclassify(unit.predict(x).argmax(dim=1))
    same, scaled = (attacks.build(chosen)(clf, inputs, goal) for clf, inputs in ((unit, x), (other, low + width * x)))
    assert same.reached.any()
    if "pgd:" not in chosen:  # it starts at random, by the row's content
        assert torch.equal(same.reached, scaled.reached)
        assert torch.allclose(same.rmse, scaled.rmse, rtol=1e-4)
        assert torch.allclose(same.size, scaled.size, rtol=1e-4)
    within = scaled.delta / width
    if "rmse" in chosen or "at_distance" in chosen:
        assert (RMSE.size(within) <= 0.2 * (1 + 1e-6)).all()
    assert torch.allclose(scaled.rmse[scaled.reached], RMSE.size(within)[scaled.reached], rtol=1e-6)
