"""Laws of every registered explainer."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from advex import explainers, registry
from advex.classifier import Classifier
from advex.errors import InputError
from advex.types import Explanation, concatenate, take

EXPLAINERS = registry.entries("explainer")
EVERY = pytest.mark.parametrize("explain", [entry.make() for entry in EXPLAINERS.values()], ids=list(EXPLAINERS))
SHAPE = (3, 2, 2)


@pytest.fixture
def clf(toys: SimpleNamespace) -> Classifier:
    return toys.mlp(SHAPE)


@pytest.fixture
def x() -> Tensor:
    return (torch.rand(5, *SHAPE, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)


TARGET = torch.tensor([0, 1, 2, 0, 1])


def same(first: Explanation, second: Explanation) -> None:
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, Tensor) and a.is_floating_point():
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-9), field.name  # float64, some thirty steps
        else:
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, field.name


@EVERY
def test_a_map_is_like_its_input(explain: Any, clf: Classifier, x: Tensor) -> None:
    told = explain(clf, x, TARGET)
    assert told.map.shape == x.shape
    assert torch.isfinite(told.map).all()
    assert torch.equal(told.target, TARGET)
    assert registry.build("explainer", told.method) == explain
    if told.picture is not None:
        assert ((told.picture >= 0) & (told.picture <= 1)).all()
        assert torch.allclose(told.before, clf.predict(x))
        assert torch.allclose(told.after, clf.predict(told.picture))
        assert torch.allclose(told.rmse, (told.picture - x).square().mean(dim=(1, 2, 3)).sqrt())


@EVERY
def test_a_row_alone_is_the_row_in_the_batch(explain: Any, clf: Classifier, x: Tensor) -> None:
    together = explain(clf, x, TARGET, seed=3)
    same(concatenate([explain(clf, x[i : i + 1], TARGET[i : i + 1], seed=3) for i in range(5)]), together)
    order = torch.tensor([3, 1, 4, 0, 2])
    same(explain(clf, x[order], TARGET[order], seed=3), take(together, order))
    same(explain(clf, x, TARGET, seed=3, max_batch=2), together)


@EVERY
@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(explain: Any, clf: Classifier, x: Tensor, n: int) -> None:
    told = explain(clf, x[:n], TARGET[:n])
    assert len(told) == n
    assert told.map.shape == (n, *SHAPE)


@EVERY
def test_what_the_classifier_ignores_is_not_in_the_map(explain: Any, toys: SimpleNamespace, x: Tensor) -> None:
    weight = torch.randn(3, 12, dtype=torch.float64)
    weight[:, [1, 7]] = 0
    told = explain(toys.affine(weight, torch.zeros(3)), x, TARGET)
    assert not told.map.flatten(1)[:, [1, 7]].any()
    assert told.map.flatten(1)[:, [0, 2]].any()


@EVERY
def test_a_linear_classifier_is_explained_by_its_weights(explain: Any, toys: SimpleNamespace) -> None:
    """Two classes, far from the walls: the map is the weight vector, or weight times input, up to sign."""
    w = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 0.45 + 0.1 * torch.rand(5, *SHAPE, dtype=torch.float64)
    told = explain(toys.affine(torch.stack([w, -w]), torch.zeros(2)), x, TARGET.clamp_max(1)).map.flatten(1)
    likeness = [torch.cosine_similarity(told, truth, dim=1).abs() for truth in (w.expand(5, -1), w * x.flatten(1))]
    assert torch.stack(likeness).amax(dim=0).min() > 0.99


@EVERY
def test_only_the_mask_is_explained(explain: Any, clf: Classifier, x: Tensor) -> None:
    mask = torch.rand(SHAPE) < 0.6
    told = explain(clf, x, TARGET, mask=mask)
    assert not told.map[:, ~mask].any()
    assert told.map.any()


@EVERY
def test_targets_that_do_not_fit_are_named(explain: Any, clf: Classifier, x: Tensor) -> None:
    for wrong in (TARGET[:3], TARGET[:, None], TARGET + 5):
        with pytest.raises(InputError):
            explain(clf, x, wrong)


@EVERY
def test_a_saturated_or_dead_classifier_is_no_error(explain: Any, toys: SimpleNamespace, x: Tensor) -> None:
    w = torch.ones(12, dtype=torch.float64) * 500
    for classifier in (
        toys.affine(torch.stack([w, -w]), torch.tensor([-2000.0, 2000.0])),
        toys.deaf([3.0, -1.0], attached=False),
    ):
        told = explain(classifier, x, TARGET.clamp_max(1))
        assert torch.isfinite(told.map).all()


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adversarial_explanations_lie_on_the_sphere_and_move_the_class(
    clf: Classifier, x: Tensor, rho: float, dtype: torch.dtype
) -> None:
    clf, x = clf.to(dtype), x.to(dtype)
    for make, sign in ((explainers.Toward, 1), (explainers.Away, -1)):
        told = make(rho=rho)(clf, x, TARGET)
        assert told.rmse.tolist() == pytest.approx([rho] * 5, abs=1e-5)
        assert ((told.picture >= 0) & (told.picture <= 1)).all()
        moved = (told.after - told.before).gather(1, TARGET[:, None])
        assert (moved * sign > 0).all()


def test_a_farther_explanation_moves_the_class_farther(clf: Classifier, x: Tensor) -> None:
    told = [explainers.Toward(rho=rho)(clf, x, TARGET) for rho in (0.02, 0.1, 0.25)]
    confidences = [each.after.gather(1, TARGET[:, None]) for each in told]
    assert (confidences[0] < confidences[1]).all()
    assert (confidences[1] < confidences[2]).all()


def test_every_class_of_every_example(clf: Classifier, x: Tensor) -> None:
    repeated, target = explainers.every_class(x, 3)
    assert target.tolist() == [0, 1, 2] * 5
    assert torch.equal(repeated[::3], x)
    assert torch.equal(repeated[3:6], x[1].expand(3, *SHAPE))


def test_which_class_is_asked_about(clf: Classifier, x: Tensor) -> None:
    ranked = clf.predict(x).argsort(dim=1, descending=True)
    assert torch.equal(explainers.targets(clf, x, "predicted"), ranked[:, 0])
    assert torch.equal(explainers.targets(clf, x, "runner_up"), ranked[:, 1])
    assert explainers.targets(clf, x, 2).tolist() == [2] * 5
    assert torch.equal(explainers.targets(clf, x, TARGET), TARGET)
    with pytest.raises(InputError, match="'predicted', 'runner_up', a class number"):
        explainers.targets(clf, x, "best")


def test_a_sweep_is_every_distance_by_itself(clf: Classifier, x: Tensor) -> None:
    rhos = (0.02, "8/255", 0.1)
    swept = explainers.sweep(explainers.Toward(steps=5), rhos, clf, x, TARGET, seed=1)
    for told, rho in zip(swept, rhos, strict=True):
        same(told, explainers.Toward(rho=rho, steps=5)(clf, x, TARGET, seed=1))
    assert [told.rmse.mean().item() for told in swept] == pytest.approx([0.02, 8 / 255, 0.1], abs=1e-4)


def test_targets_may_be_named(clf: Classifier, x: Tensor) -> None:
    ranked = clf.predict(x).argsort(dim=1, descending=True)
    assert explainers.targets(clf, x, "predicted").equal(ranked[:, 0])
    assert explainers.targets(clf, x, "runner_up").equal(ranked[:, 1])
    assert explainers.targets(clf, x, 2).tolist() == [2] * len(x)
    with pytest.raises(InputError, match="runner_up"):
        explainers.targets(clf, x, "nearest")
    every, classes = explainers.every_class(x, 3)
    assert every[4].equal(x[1])
    assert classes.tolist() == [0, 1, 2] * len(x)
