"""Every explainer with derivatives is attacked where the worst map is known: two quadratic logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex import registry
from advex.attacks import PGD
from advex.classifier import Classifier
from advex.distances import Cosine, RelativeL2
from advex.explainers import (
    ExpectedGradients,
    GradCAM,
    GradCAMPlusPlus,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    NormGrad,
    SmoothGrad,
)
from advex.measures import worst_case_stability

pytestmark = pytest.mark.filterwarnings("ignore:The background is a single row")  # so that its map is known

STEEP = 3.0
FROM = torch.tensor([[0.1, 0.2]]).double()  # where expected gradients begin
WIDTH = 4.0


class Quadratic(nn.Module):
    """Logits 40 + 3/2 |x|^2 and 0, by way of a layer that has places."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.places.weight)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.places(x.reshape(len(x), 1, 1, 2) if x.ndim == 2 else x)
        value = 40 + STEEP / 2 * seen.square().flatten(1).sum(dim=1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def direction(x: np.ndarray) -> np.ndarray:
    """The map of a gradient, but for its size: linear in x."""
    return x


def by_third_derivatives(x: np.ndarray) -> np.ndarray:
    """Grad-CAM++: each place adds g / (2 + S g) to the one channel's weight, g being its slope and S the sum of x."""
    slope, total = STEEP * x, x.sum(axis=-1, keepdims=True)
    return (slope / (2 + total * slope)).sum(axis=-1, keepdims=True) * x


# explainer -> its map of the first logit by hand, up to a factor
MAPS: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray], float]] = {
    "gradient": (Gradient(), direction, 1e-4),
    "grad_cam": (GradCAM(), lambda x: x.sum(axis=-1, keepdims=True) * x, 1e-4),
    "grad_cam_plus_plus": (GradCAMPlusPlus(), by_third_derivatives, 1e-4),
    "layer_cam": (LayerCAM(), np.square, 1e-4),
    "norm_grad": (NormGrad(), np.square, 1e-4),
    "input_x_gradient": (InputXGradient(), np.square, 1e-4),
    "integrated_gradients": (IntegratedGradients(steps=20), np.square, 1e-4),
    "expected_gradients": (
        ExpectedGradients(baseline=FROM, samples=100),
        lambda x: x**2 - FROM[0].numpy() ** 2,
        0.02,  # of its random points
    ),
    "smooth_grad": (SmoothGrad(sigma=0.0002, samples=20), direction, 0.01),
}
RADIUS = 0.3


def worst_on_the_disc(x: np.ndarray, of: Callable[[np.ndarray], np.ndarray], cosine: bool) -> float:
    """The largest distance of maps over a fine grid of the disc about x, its edge first of all."""
    angle, share = np.meshgrid(np.linspace(0, 2 * np.pi, 4001), np.linspace(0, 1, 21))
    near = x + RADIUS * share[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    first, maps = np.abs(of(x)), np.abs(of(near))
    length = np.linalg.norm(maps, axis=-1)
    apart = (
        1 - (maps @ first) / (length * np.linalg.norm(first))
        if cosine
        else np.linalg.norm(maps - first, axis=-1) / np.linalg.norm(first)
    )
    return float(apart.max())


def attacked(explain: Any, x: Tensor, distance: Any) -> Tensor:
    classifier = Classifier(Quadratic().double(), box=(-WIDTH / 2, WIDTH / 2)).eval()
    search = PGD(norm="l2", radius=RADIUS / WIDTH, steps=30, step=0.1 / WIDTH)
    change = worst_case_stability(
        explain, classifier, x, torch.zeros(len(x), dtype=torch.int64), search=search, distance=distance, points=None,
        restarts=10,  # a disc has two worst sides, and a search climbs the one that is nearer
    )  # fmt: skip
    assert change.by_attack.all()
    return change.attack


def test_every_differentiable_explainer_is_attacked_here() -> None:
    ready = {name for name, entry in registry.entries("explainer").items() if entry.make.differentiable}
    assert set(MAPS) == ready


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("distance", [Cosine(), RelativeL2()], ids=["cosine", "relative_l2"])
def test_the_search_finds_the_worst_map(name: str, distance: Any) -> None:
    explain, of, tolerance = MAPS[name]
    x = torch.tensor([[0.9, 0.5], [0.7, 1.2], [1.1, 1.0]]).double()
    shaped = x.reshape(3, 1, 1, 2) if explain.looks_at == "layer" else x
    got = attacked(explain, shaped, distance)
    expected = [worst_on_the_disc(row.numpy(), of, isinstance(distance, Cosine)) for row in x]
    assert np.allclose(got, expected, rtol=tolerance)


def test_of_a_map_that_is_the_input_the_worst_angle_is_that_of_a_tangent() -> None:
    """The oracle above against geometry: the widest angle from the origin to a disc has the sine r / |x|."""
    x = torch.tensor([[0.9, 0.5]]).double()
    angle = math.asin(RADIUS / x.norm().item())
    assert worst_on_the_disc(x[0].numpy(), direction, True) == pytest.approx(1 - math.cos(angle), rel=1e-4)
    assert attacked(Gradient(), x, Cosine()).item() == pytest.approx(1 - math.cos(angle), rel=1e-4)
    assert attacked(Gradient(), x, RelativeL2()).item() == pytest.approx(RADIUS / x.norm().item(), rel=1e-9)
