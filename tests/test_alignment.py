"""The alignment term: the angle between attributions at an example and at what another term has made of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from advex import objectives
from advex.classifier import Classifier
from advex.objectives import Step
from advex.objectives.alignment import Alignment
from advex.types import Batch


def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier("mlp:features=5,classes=3,widths=8,activation=silu").double().train()


def batch(n: int = 4, weight: Tensor | None = None) -> Batch:
    x = torch.rand(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Batch(x=x, y=torch.arange(n) % 3, weight=weight)


def by_hand(classifier: Classifier, x: Tensor, y: Tensor, points: int = 200) -> Tensor:
    """Integrated gradients from 0, row by row and point by point, with a graph to the parameters."""
    maps = []
    for row, label in zip(x, y, strict=True):
        total = torch.zeros_like(row)
        for k in range(points):
            z = ((k + 0.5) / points * row).requires_grad_(True)
            total = total + torch.autograd.grad(classifier.logits(z[None])[0, label], z, create_graph=True)[0] / points
        maps.append(row * total)
    return torch.stack(maps)


def test_value_and_derivative_are_those_of_the_angle_by_hand() -> None:
    classifier, at = network(), batch()
    step = Step(classifier=classifier, batch=at, seed=0)
    step.x = (at.x + 0.3 * torch.randn(at.x.shape, dtype=torch.float64)).clamp(0, 1)
    loss, parts, _ = Alignment(strength=0.7, points=20)(step, {})
    theirs = 0.7 * (1 - cosine_similarity(by_hand(classifier, at.x, at.y), by_hand(classifier, step.x, at.y))).mean()
    assert loss.item() == parts["alignment"] == pytest.approx(theirs.item(), rel=1e-4)
    parameters = list(classifier.parameters())
    ours, others = (torch.autograd.grad(each, parameters, materialize_grads=True) for each in (loss, theirs))
    for one, other in zip(ours, others, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def test_it_is_zero_alone_and_counts_weights() -> None:
    classifier, moved = network(), 0.2 * torch.randn(2, 5, dtype=torch.float64)
    assert objectives.make("alignment")(classifier, batch(), {}, rng=torch.Generator())[1]["alignment"] < 1e-12

    def value(at: Batch, move: Tensor) -> float:
        step = Step(classifier=classifier, batch=at, seed=0)
        step.x = (at.x + move).clamp(0, 1)
        return Alignment()(step, {})[0].item()

    weighted = batch(2, torch.tensor([0.5, 2.0], dtype=torch.float64))
    each = [value(Batch(x=weighted.x[i : i + 1], y=weighted.y[i : i + 1]), moved[i : i + 1]) for i in range(2)]
    assert value(weighted, moved) == pytest.approx((0.5 * each[0] + 2 * each[1]) / 2)
