"""Minimal changes of rows of tables, against all valid rows that there are."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from advex.attacks import Minimal
from advex.attacks.counterfactual import FewFeatures
from advex.classifier import Classifier
from advex.features import Feature, FeatureSpec
from advex.goals import BelowChance, Misclassify

SPEC = FeatureSpec(
    features=(
        Feature(name="a", low=0, high=8, center=4, scale=2, step=1.0),
        Feature(name="b", low=0, high=4, center=1, scale=1.5, step=1.0, change="up"),
        Feature(name="c", kind="category", values=("p", "q", "r")),
        Feature(name="d", kind="category", values=("x", "y")),
        Feature(name="e", low=0, high=3, center=1, scale=0.8, step=1.0),
        Feature(name="f", low=0, high=2, center=1, scale=1, step=1.0, change="never"),
    ),
    target="t",
)
GRID = [
    dict(zip("abcdef", row, strict=True))
    for row in itertools.product(range(9), range(5), "pqr", "xy", range(4), range(3))
]
ALL = SPEC.encode(GRID)


def linear(classes: int, seed: int) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(f"linear:features={SPEC.width},classes={classes}", features=SPEC)


def smallest(rows: list[dict[str, Any]], reached: Tensor) -> list[float]:
    """RMSE to the nearest of the rows that reach the goal and may be gone to; inf where there is none.

    reached: [rows, all] bool.
    """
    b, f = (torch.tensor([row[name] for row in GRID]) for name in "bf")
    sizes = []
    for row, holds in zip(rows, reached, strict=True):
        rmse = (ALL - SPEC.encode([row])).square().mean(dim=1).sqrt()
        allowed = holds & (b >= row["b"]) & (f == row["f"])
        sizes.append(rmse[allowed].min().item() if allowed.any() else math.inf)
    return sizes


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("goal", [Misclassify, BelowChance])
def test_every_row_that_can_be_changed_is_and_hardly_farther_than_it_must_be(classes: int, goal: Any) -> None:
    classifier = linear(classes, seed=classes)
    rows = [GRID[i] for i in torch.randperm(len(GRID), generator=torch.Generator().manual_seed(0))[:50].tolist()]
    x = SPEC.encode(rows)
    y = classifier.predict(x).argmax(dim=1)
    reached = torch.stack([goal(label.expand(len(ALL)))(classifier, ALL).reached for label in y])
    exact = torch.tensor(smallest(rows, reached))
    found = Minimal()(classifier, x, goal(y))
    assert torch.equal(found.reached, exact.isfinite())
    torch.testing.assert_close(SPEC.nearest(found.adversarial, x), found.adversarial)  # they are valid rows
    ratio = (found.rmse / exact)[found.reached]
    assert ratio.min() >= 1 - 1e-5
    assert ratio.mean() <= 1.1
    few = FewFeatures()(classifier, x, goal(y))
    assert (found.rmse <= few.rmse * (1 + 1e-6)).all()


def test_only_the_mask_is_changed() -> None:
    classifier = linear(2, seed=0)
    x = SPEC.encode(GRID[::40])
    mask = torch.tensor([feature.name != "a" for feature in SPEC.features])[SPEC.owner]
    found = Minimal()(classifier, x, Misclassify(classifier.predict(x).argmax(dim=1)), mask=mask)
    assert not found.delta[:, ~mask].any()
    assert found.reached.any()
