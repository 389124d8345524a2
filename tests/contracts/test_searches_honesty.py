"""Searches do not fool themselves: broken gradients, fast paths that lie, restarts."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import attacks, registry
from advex.classifier import Classifier
from advex.goals import Misclassify
from advex.types import Perturbation, take

Search = Callable[..., Perturbation]
# Of the inputs `x`: see conftest.
N, SHAPE = 6, (3, 2, 2)


@pytest.mark.parametrize("attached", [True, False], ids=["zero gradient", "no graph"])
def test_a_dead_gradient_is_a_failure_and_no_error(
    search: Search, toys: SimpleNamespace, x: Tensor, attached: bool
) -> None:
    result = search(toys.deaf([3.0, -1.0, 2.0], attached=attached), x, Misclassify(torch.zeros(N, dtype=torch.int64)))
    assert not result.reached.any()
    assert torch.isinf(result.size).all()
    assert (result.flat | (result.gradients == 0)).all()  # without gradients there is none that could vanish
    assert torch.isfinite(result.delta).all()


class Cracked(nn.Module):
    """A linear network with sqrt(x_0) in its logits: infinite slope at x_0 = 0; or, with poison, NaN at x_1 = 0.25."""

    def __init__(self, poison: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64))
        self.same = nn.LeakyReLU(1.0)  # so that there is something to hear
        self.poison = poison

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(x.flatten(1))
        y = x @ self.weight + 0 * x[:, 0].sqrt()
        if self.poison:
            y = torch.where(x[:, 1] == 0.25, math.nan, y)
        return torch.stack([0.3 - y, y - 0.3], dim=1)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("poison", [False, True], ids=["infinite slope", "NaN logits"])
def test_a_broken_row_does_not_spread(search: Search, x: Tensor, poison: bool) -> None:
    x = x.clamp(0.3, 0.7)
    y = torch.zeros(N, dtype=torch.int64)
    broken = x.clone()
    broken[4, 0, 0, :] = torch.tensor([0.0, 0.25])
    others = torch.tensor([i for i in range(N) if i != 4])
    classifier = Classifier(Cracked(poison))
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[0, 0] = False  # so that no search can walk away from either
    result = search(classifier, broken, Misclassify(y), mask=mask)
    whole = search(classifier, x, Misclassify(y), mask=mask)
    assert torch.allclose(take(result, others).delta, take(whole, others).delta, atol=1e-9)
    assert torch.equal(take(result, others).reached, take(whole, others).reached)
    assert result.flat[4] or not result.gradients.any()  # without gradients nothing infinite is met
    assert torch.isfinite(result.delta).all()


@pytest.mark.filterwarnings("ignore:.*runs uncompiled")
def test_a_fast_path_that_lies_cannot_claim_success(
    search: Search, toys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, x: Tensor
) -> None:
    """A miscompiled network that always answers class 1 must not make a search believe that it got there."""

    def liar(network: nn.Module, **_: Any) -> Callable[[Tensor], Tensor]:
        return lambda at: network(at) * 0 + torch.tensor([[-1.0, 1.0]], dtype=at.dtype)

    monkeypatch.setattr(torch, "compile", liar)
    w = torch.ones(12, dtype=torch.float64)
    out_of_reach = toys.affine(torch.stack([-w, w]), torch.tensor([900.0, -900.0]))
    y = torch.zeros(N, dtype=torch.int64)
    with out_of_reach.accelerated(compiled=True):
        assert (out_of_reach.logits(x).argmax(dim=1) == 1).all()
        result = search(out_of_reach, x, Misclassify(y))
    assert not result.reached.any()
    assert torch.isinf(result.size).all()


def test_a_coarse_search_is_judged_in_full_precision(search: Search, clf: Classifier, x: Tensor, y: Tensor) -> None:
    clf, x = clf.float(), x.float()
    with clf.accelerated(bfloat16=True):
        result = search(clf, x, Misclassify(y))
    with torch.no_grad():
        logits = clf.logits(result.adversarial)
    assert torch.equal(result.reached, logits.argmax(dim=1) != y)


@pytest.mark.parametrize("norm", list(registry.entries("norm")))
def test_restarts_never_lose_a_success(clf: Classifier, x: Tensor, y: Tensor, norm: str) -> None:
    # A wide ball and a short step: whether a start succeeds is luck.
    radius = {"l1": 3.0, "l2": 1.0, "linf": 0.5, "rmse": 0.3}[norm]
    gained = 0
    for seed in range(4):
        single, several = (
            attacks.PGD(norm=norm, radius=radius, steps=1, step=radius / 100, restarts=restarts)(
                clf, x, Misclassify(y), seed=seed
            )
            for restarts in (1, 6)
        )
        assert (several.reached >= single.reached).all()
        assert torch.equal(several.delta[single.reached], single.delta[single.reached])
        gained += int((several.reached & ~single.reached).sum())
        spent_once = single.gradients[single.reached]
        assert torch.equal(several.gradients[single.reached], spent_once)  # a row that fell costs nothing more
    assert gained > 0
