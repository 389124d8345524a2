"""The training adversary L2,min (Woods et al. 2019, Sec. III-G) once more, slowly, in the paper's symbols."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex.attacks import L2Min
from advex.classifier import Classifier
from advex.geometry import RMSE
from advex.goals import Misclassify


def psi(k: int, n: int) -> float:
    """psi_{k,n} = 2 (k - n) / (k (k + 1))."""
    return 2 * (k - n) / (k * (k + 1))


def test_psi_is_the_papers_schedule() -> None:
    printed = [0.25, 0.2143, 0.1786, 0.1429, 0.1071, 0.0714, 0.0357]
    assert [psi(7, n) for n in range(7)] == pytest.approx(printed, abs=5e-5)
    assert sum(psi(7, n) for n in range(7)) == pytest.approx(1)


def l2min(f: Classifier, x: Tensor, t: int, epsilon: float, k: int, on_failure: str) -> tuple[Tensor, bool]:
    """k steps of length psi_{k,n} epsilon: correct -> gradient of cross-entropy, wrong -> back along -delta."""
    delta, best = torch.zeros_like(x), None
    visited = []
    for n in range(k + 1):
        free = delta.clone().requires_grad_(True)
        y = f.logits((x + free)[None])
        wrong = bool(y[0, t] < max(y[0, j] for j in range(y.shape[1]) if j != t))
        visited.append(delta)
        if wrong and (best is None or RMSE.size(delta[None]) < RMSE.size(best[None])):
            best = delta
        if n == k:
            break
        if wrong:
            direction = -delta
        else:
            (direction,) = torch.autograd.grad(cross_entropy(y, torch.tensor([t])), free)
        rmse = (direction**2).mean().sqrt()
        step = direction / rmse if rmse > 0 else torch.zeros_like(x)
        delta = (x + delta + psi(k, n) * epsilon * step).clamp(0, 1) - x
    if best is not None:
        return best, True
    return (visited[-1] if on_failure == "last" else torch.zeros_like(x)), False


@pytest.mark.parametrize("on_failure", ["last", "clean"])
@pytest.mark.parametrize(("epsilon", "k"), [(0.3, 7), (0.1, 7), (0.2, 3), (0.05, 1)])
def test_l2min_is_the_papers(
    toys: SimpleNamespace, epsilon: float, k: int, on_failure: Literal["last", "clean"]
) -> None:
    f: Classifier = toys.mlp()
    rng = torch.Generator().manual_seed(6)
    x = (torch.rand(12, 3, 2, 2, generator=rng, dtype=torch.float64) * 1.2 - 0.1).clamp(0, 1)
    with torch.no_grad():
        t = f(x).argmax(dim=1)
    t[3] = (t[3] + 1) % 3
    found = L2Min(epsilon=epsilon, steps=k, on_failure=on_failure)(f, x, Misclassify(t, temperature=1.0))
    slow = [l2min(f, image, int(c), epsilon, k, on_failure) for image, c in zip(x, t, strict=True)]
    assert found.reached.tolist() == [success for _, success in slow]
    if (epsilon, k) == (0.1, 7):
        assert 2 <= found.reached.sum() <= 10  # both outcomes occur
    for ours, (theirs, _) in zip(found.delta, slow, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_the_way_out_is_never_longer_than_epsilon(toys: SimpleNamespace) -> None:
    stubborn = toys.affine(torch.eye(2, 12, dtype=torch.float64), torch.tensor([50.0, 0.0]), box=(-5.0, 5.0))
    found = L2Min(epsilon=0.1)(stubborn, torch.zeros(1, 12, dtype=torch.float64), Misclassify(torch.tensor([0])))
    assert not found.reached.item()
    assert RMSE.size(found.delta).item() == pytest.approx(
        0.1 * 10
    )  # a straight way, in shares of the box's width of 10
