"""HopSkipJump: near the exact optimum where that is known, by decisions alone, within its queries."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from advex.attacks import BoundaryWalk, HopSkipJump
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.geometry import as_norm
from advex.goals import Misclassify


def plane(toys: SimpleNamespace, d: int, n: int = 8) -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """(classifier, x, y, w): two classes beside a plane, far from the walls of the box."""
    rng = torch.Generator().manual_seed(1)
    w = torch.randn(d, generator=rng, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    bias = -0.5 * w.sum()
    classifier = toys.affine(torch.stack([w, -w]) / 2, torch.stack([bias, -bias]) / 2)
    return classifier, x, ((x - 0.5) @ w < 0).long(), w


@pytest.mark.parametrize(
    ("norm", "d", "queries", "within"),
    [("l2", 10, 500, 1.1), ("l2", 10, 3000, 1.01), ("l2", 100, 3000, 1.06), ("linf", 10, 3000, 1.04)],
)
def test_the_exact_distance_to_a_plane_is_nearly_reached(
    toys: SimpleNamespace, norm: str, d: int, queries: int, within: float
) -> None:
    classifier, x, y, w = plane(toys, d)
    result = HopSkipJump(norm=norm, queries=queries)(classifier, x, Misclassify(y))
    exact = ((x - 0.5) @ w).abs() / (w.norm() if norm == "l2" else w.abs().sum())
    assert result.reached.all()
    assert torch.equal(result.size, as_norm(norm).size(result.delta))
    assert (result.size >= exact * (1 - 1e-9)).all()
    assert (result.size / exact).max() <= within
    assert (result.queries == queries).all()
    assert not result.gradients.any()


@pytest.mark.parametrize("outside", [False, True], ids=["outwards", "inwards"])
def test_the_exact_distance_to_a_sphere_is_nearly_reached(toys: SimpleNamespace, outside: bool) -> None:
    x = torch.randn(16, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    length = torch.linspace(1.5, 2.5, 16) if outside else torch.linspace(0.2, 0.8, 16)
    x = x / x.norm(dim=1, keepdim=True) * length.double()[:, None]
    result = HopSkipJump(queries=3000)(toys.spheres(1.0), x, Misclassify(torch.full((16,), int(outside))))
    if outside:  # noise does not meet a ball that fills less than a millionth of the box
        assert not result.reached.any()
        assert (result.queries <= 22).all()
        return
    ratio = result.size / ((length - 1).abs() / 6)  # the box's width
    assert (ratio >= 1 - 1e-9).all()
    assert ratio.mean() <= 1.06
    assert ratio.max() <= 1.2


def test_many_dimensions_are_nearer_than_by_a_random_walk(toys: SimpleNamespace) -> None:
    classifier, x, y, w = plane(toys, 1000, 4)
    exact = ((x - 0.5) @ w).abs() / w.norm()
    hops = HopSkipJump(queries=1000)(classifier, x, Misclassify(y)).delta.norm(dim=1) / exact
    walk = BoundaryWalk(start="noise", queries=1000)(classifier, x, Misclassify(y)).delta.norm(dim=1) / exact
    assert (hops < 0.8 * walk).all()


@pytest.mark.parametrize("queries", [1, 5, 60, 300])
def test_labels_alone_are_enough_and_asked_within_the_queries(toys: SimpleNamespace, queries: int) -> None:
    classifier, x, y, w = plane(toys, 10, 6)
    asked = np.zeros(6, dtype=int)

    def labels(inputs: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(inputs).double()
        if len(rows) == 6:
            asked[:] += 1
        return ((rows - 0.5) @ w < 0).long().numpy()

    alone = Classifier.from_function(labels, classes=2, returns="labels", box=(0, 1))
    search = HopSkipJump(queries=queries, probes=20)
    by_labels = search(alone, x.float(), Misclassify(y))
    assert (by_labels.queries <= queries).all()
    assert by_labels.queries.float().mean() <= asked.max()  # what it says that it asked, it did
    if queries == 300:
        by_logits = search(classifier.float(), x.float(), Misclassify(y))
        assert torch.allclose(by_labels.size, by_logits.size, rtol=0.02)
        exact = ((x - 0.5) @ w).abs() / w.norm()
        assert (by_labels.size / exact).max() < 1.2


def test_other_norms_are_refused() -> None:
    with pytest.raises(SpecError, match="norm must be l2, linf or rmse, not l1"):
        HopSkipJump(norm="l1")
