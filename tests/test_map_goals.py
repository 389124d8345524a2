"""Goals on maps where the wanted map, and the farthest centre, are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex import goals
from advex.attacks import PGD
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers import Gradient, InputXGradient
from advex.goals import MassCentre, TowardMap
from advex.goals.mass_centre import centre_of

STEEP = torch.tensor([3.0, 1.0, 0.5, 2.0], dtype=torch.float64)


class Bowl(nn.Module):
    """Logits 40 + sum_i s_i x_i^2 / 2 and 0: the gradient of the first is s x."""

    def forward(self, x: Tensor) -> Tensor:
        value = 40 + (STEEP * x.square()).sum(dim=1) / 2
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def bowl() -> Classifier:
    return Classifier(Bowl(), box=(-2.0, 2.0)).double().eval()


def start() -> Tensor:
    return torch.tensor([[0.5, 0.8, 0.6, 0.9], [1.0, 0.4, 0.7, 0.3]], dtype=torch.float64)


def test_a_wanted_map_that_can_be_had_is_had() -> None:
    x, none = start(), torch.zeros(2, dtype=torch.int64)
    there = x + 0.1 * torch.tensor([[1.0, -1, 0.5, 0], [-0.3, 1, 1, -1]], dtype=torch.float64)
    goal = TowardMap(explainer=Gradient(), target=none, decision=none, wanted=STEEP * there, logits=bowl()(x).detach())
    found = PGD(norm="linf", radius=0.1 / 4, steps=300, step=0.001 / 4)(bowl(), x, goal)
    assert found.reached.all()
    assert torch.allclose(found.adversarial, there, atol=2e-3)
    assert torch.allclose(goal(bowl(), there).loss, torch.zeros(2).double(), atol=1e-12)


def test_changed_outputs_count_besides() -> None:
    x, y = start(), torch.zeros(2, dtype=torch.int64)
    near = x + 0.01
    plain, weighed = (goals.at(f"toward_map:towards=0,outputs={w}", bowl(), x, y) for w in (0, 0.5))
    change = (bowl()(near) - bowl()(x)).square().mean(dim=1)
    both = [goal(bowl(), near).loss for goal in (plain, weighed)]
    assert torch.allclose(both[1] - both[0], 0.5 * change)
    assert torch.equal(plain(bowl(), near).score, weighed(bowl(), near).score)  # pyright: ignore


def test_a_wanted_map_of_another_shape_is_refused() -> None:
    x, none = start(), torch.zeros(2, dtype=torch.int64)
    goal = TowardMap(explainer=Gradient(), target=none, decision=none, wanted=x[:, :3], logits=bowl()(x).detach())
    with pytest.raises(InputError, match=r"maps .* of the same inputs, not \(2, 3\) and \(2, 4\)"):
        PGD(steps=1)(bowl(), x, goal)
    with pytest.raises(SpecError, match="weight of the outputs must be at least 0"):
        goals.at("toward_map:outputs=-1", bowl(), x, none)
    with pytest.raises(SpecError, match="soften must be a beta above 0"):
        goals.at("scramble:soften=0", bowl(), x, none)
    for target in (2, -1):
        with pytest.raises(InputError, match=r"class index in \[0, "):
            goals.at(f"scramble:target={target}", bowl(), x, none)


def test_the_centre_of_a_map_by_hand() -> None:
    maps = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    maps[0, :, 0, 0], maps[0, 1, 1, 3] = torch.tensor([1.0, -2, 1], dtype=torch.float64), -12.0
    centres = centre_of(maps, "sum_abs")
    assert centres[0].tolist() == [0.75, 2.25]  # 4 at (0, 0), 12 at (1, 3)
    assert centres[1].isnan().all()
    assert centre_of(maps, "sum")[0].tolist() == [1, 3]  # the first pixel's channels cancel
    assert centre_of(maps, "none")[0].tolist() == [0.75, 2.25]
    assert centre_of(torch.tensor([[1.0, 0, -3]]), "sum_abs").tolist() == [[1.5]]


def test_the_centre_moves_as_far_as_at_any_corner() -> None:
    x, none, radius = start(), torch.zeros(2, dtype=torch.int64), 0.2
    goal = MassCentre(
        explainer=InputXGradient(), target=none, decision=none, centre=centre_of(STEEP * x.square(), "sum_abs")
    )
    found = [PGD(radius=radius / 4, steps=40)(bowl(), x, goal, seed=seed) for seed in range(4)]
    places = np.arange(4)

    def way(at: np.ndarray, row: int) -> float:
        weights, before = STEEP.numpy() * at**2, STEEP.numpy() * x[row].numpy() ** 2
        return abs((weights * places).sum() / weights.sum() - (before * places).sum() / before.sum())

    for row in range(2):
        best = max(way(x[row].numpy() + radius * np.array(c), row) for c in itertools.product((-1, 1), repeat=4))
        got = max(way(each.adversarial[row].numpy(), row) for each in found)
        assert got >= best * (1 - 1e-6)
        assert -goal(bowl(), found[0].adversarial).score[row].item() == pytest.approx(  # pyright: ignore
            way(found[0].adversarial[row].numpy(), row)
        )
    assert math.isfinite(got)
