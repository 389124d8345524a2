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
    pixels = [sum(g[c, i, j].abs() for c in range(2)) for i in range(4) for j in range(3)]
    order = sorted(range(12), key=lambda each: -pixels[each].item())
    topk_pair = [(i, topk - 1) for i in range(topk - 1)] + [(topk - 1, topk + i) for i in range(topk)]
    tx: Any = sum(pixels[order[bottom]] - pixels[order[top]] for top, bottom in topk_pair)
    ahead = gradient(network, x + probe * g.detach().sign(), y)
    return tx, (ahead - g).square().sum().sqrt() / (24 * probe)


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("strengths", [(0.7, 0.3), (1.0, 0.0), (0.0, 2.0)])
def test_it_is_the_authors_code_picture_by_picture(k: int, strengths: tuple[float, float]) -> None:
    network, at = Small(), pictures()
    classifier = Classifier(network).train()
    term = R2ET(k=k, strength=strengths[0], curvature=strengths[1], probe=0.02)
    loss = value(term, classifier, at)
    each = [penalty(network, x, y, k, 0.02) for x, y in zip(at.x, at.y.tolist(), strict=True)]
    theirs = torch.stack([strengths[0] * tx + strengths[1] * norm for tx, norm in each]).mean()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-10)
    parameters = list(network.parameters())
    for one, other in zip(*(torch.autograd.grad(each, parameters) for each in (loss, theirs)), strict=True):
        assert (one - other).norm() <= 1e-9 * other.norm()


class Straight(nn.Module):
    """Logits w x and 0, of which the cross-entropy of class 1 has the gradient s w, s = sigmoid(w x)."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.w
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_of_a_linear_network_by_hand() -> None:
    """Gaps: 5 - 3, 3 - 2 and 3 - 1, times s. Curvature: the derivative s (1 - s) w w' along w's signs."""
    w, x = torch.tensor([-3.0, 1.0, 5.0, 2.0], dtype=torch.float64), torch.full((1, 4), 0.1, dtype=torch.float64)
    classifier, at = Classifier(Straight(w)).train(), Batch(x=x, y=torch.tensor([1]))
    s = torch.sigmoid((x @ w)[0]).item()
    assert value(R2ET(k=2, curvature=0), classifier, at).item() == pytest.approx(-5 * s, rel=1e-12)
    bent = s * (1 - s) * w.abs().sum().item() * w.norm().item() / 4
    assert value(R2ET(k=2, strength=0, probe=1e-6), classifier, at).item() == pytest.approx(bent, rel=1e-4)
    assert value(R2ET(curvature=0), classifier, at).item() == pytest.approx(-5 * s, rel=1e-12)  # half of four elements


def test_weights_count() -> None:
    classifier = Classifier(Small()).train()
    at = pictures(2, torch.tensor([0.5, 2.0], dtype=torch.float64))
    each = [value(R2ET(k=3), classifier, Batch(x=at.x[i : i + 1], y=at.y[i : i + 1])).item() for i in range(2)]
    assert value(R2ET(k=3), classifier, at).item() == pytest.approx((0.5 * each[0] + 2 * each[1]) / 2)


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
    for terms in ("natural", "r2et:k=3,strength=0.1,curvature=0"):
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
