"""Ranking thickness: the loss by hand and pixel by pixel, its derivative, and what training with it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import objectives
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.objectives import R2ET, Step
from advex.types import Batch


class Small(nn.Module):
    """Two channels of 4 x 3; no layer mixes examples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head = nn.Conv2d(2, 5, 3, padding=1).double(), nn.Linear(60, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(3 * self.conv(x)).flatten(1))


def pictures(n: int = 4, weight: Tensor | None = None) -> Batch:
    x = torch.rand(n, 2, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Batch(x=x, y=torch.arange(n) % 3, weight=weight)


def value(term: R2ET, classifier: Classifier, at: Batch) -> Tensor:
    step = Step(classifier=classifier, batch=at, seed=0)
    with step.seeded():
        return term(step, term.start())[0]


# -- the authors' code, in its own notation, one picture at a time ---------------------------------------------


def gradient(network: nn.Module, x: Tensor, y: int) -> Tensor:
    x = x.detach().clone().requires_grad_(True)
    loss = -network(x[None])[0].log_softmax(dim=0)[y]
    return torch.autograd.grad(loss, x, create_graph=True)[0]


def penalty(network: nn.Module, x: Tensor, y: int, topk: int, probe: float) -> tuple[Tensor, Tensor]:
    """(tx, est_norm)."""
    g = gradient(network, x, y)
    pixels = [g[0, i, j].abs() + g[1, i, j].abs() for i in range(4) for j in range(3)]
    order = sorted(range(12), key=lambda each: -pixels[each].item())
    topk_pair = [(i, topk - 1) for i in range(topk - 1)] + [(topk - 1, topk + i) for i in range(topk)]
    tx: Any = sum(pixels[order[bottom]] - pixels[order[top]] for top, bottom in topk_pair)
    ahead = gradient(network, x + probe * g.detach().sign(), y)
    return tx, (ahead - g).square().sum().sqrt() / (24 * probe)


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("strengths", [(0.7, 0.3), (1.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0, 0.1], dtype=torch.float64)], ids=["", "weights"])
def test_it_is_the_authors_code_picture_by_picture(
    k: int, strengths: tuple[float, float], weight: Tensor | None
) -> None:
    network, at = Small(), pictures(weight=weight)
    loss = value(R2ET(k=k, strength=strengths[0], curvature=strengths[1], probe=0.02), Classifier(network).train(), at)
    each = [penalty(network, x, y, k, 0.02) for x, y in zip(at.x, at.y.tolist(), strict=True)]
    cls_loss = nn.functional.cross_entropy(network(at.x), at.y, reduction="none")
    w = torch.ones(4, dtype=torch.float64) if weight is None else weight
    theirs = torch.zeros((), dtype=torch.float64)
    for strength, sizes in zip(strengths, map(torch.stack, zip(*each, strict=True)), strict=True):
        retrain_reg = (w * sizes).mean()
        theirs = theirs + (strength * ((w * cls_loss).mean().detach() + 1) / retrain_reg.detach()).abs() * retrain_reg
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-10)
    parameters = list(network.parameters())
    for one, other in zip(*(torch.autograd.grad(each, parameters) for each in (loss, theirs)), strict=True):
        assert (one - other).norm() <= 1e-9 * other.norm()


def test_gaps_by_hand() -> None:
    """Sizes 5, 3, 2, 1: 5 - 3, 3 - 2 and 3 - 1. Of four elements k is two at most; of a picture channels are summed."""
    g = torch.tensor([[-3.0, 1.0, 5.0, 2.0]])
    assert R2ET(k=2)._thickness(g).item() == R2ET()._thickness(g).item() == 5
    assert R2ET(k=1)._thickness(g).item() == 2
    picture = torch.tensor([[[[-1.0, 0.5], [3.0, -1.0]], [[2.0, 0.5], [2.0, 1.0]]]])
    assert R2ET(k=2)._thickness(picture).item() == 5


def test_where_there_are_no_gaps_nothing_is_added() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.scores + 0 * x.sum(dim=(1, 2, 3))[:, None]

    loss = value(R2ET(k=2), Classifier(Constant()).train(), Batch(x=pictures(2).x, y=torch.tensor([0, 1])))
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize("options", [{"k": 0}, {"strength": -1.0}, {"curvature": -1.0}, {"probe": 0.0}], ids=str)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="at least|above 0"):
        R2ET(**options)


def test_training_with_it_widens_the_gaps() -> None:
    """On held-out rows, as a share of the map, with answers as right."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(2, (256,), generator=rng)
    x = (0.5 + (2 * y - 1)[:, None] * 0.15 + 0.15 * torch.randn(256, 12, generator=rng)).clamp(0, 1)
    data, held_out = Batch(x=x[:128], y=y[:128]), Batch(x=x[128:], y=y[128:])
    gaps, right = [], []
    for terms in ("natural", "r2et:k=3,strength=0.05,curvature=0.01"):
        torch.manual_seed(0)
        classifier = Classifier("mlp:features=12,classes=2,widths=16,activation=softplus", mean=0.5, std=0.2).train()
        objective, optimiser = objectives.build(terms), torch.optim.Adam(classifier.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            objective(classifier, data, objective.start(), rng=rng)[0].backward()
            optimiser.step()
        at = held_out.x.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(classifier.logits(at), held_out.y, reduction="sum")
        h = torch.autograd.grad(loss, at)[0].abs().sort(dim=1, descending=True).values
        gaps.append(((h[:, 2] - h[:, 3]) / h.sum(dim=1)).mean().item())
        right.append((classifier.predict(held_out.x).argmax(dim=1) == held_out.y).double().mean().item())
    assert gaps[1] > 1.5 * gaps[0]
    assert min(right) > 0.95
