"""What a classifier and an explainer say near inputs: random points that measures of stability share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advex import randomness
from advex.attacks.attack import in_slices
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.explainers.request import rows_of_a_pass
from advex.geometry import Norm, as_radius
from advex.measures.case import Case
from advex.types import Explainer

NO_NEIGHBOUR = "no random point near the input kept the decision"


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What a classifier and an explainer say of inputs, and of m points near each.

    x, map: [n, *shape]. logits: [n, classes]. near, maps: [n, m, *shape]. near_logits: [n, m, classes].
    """

    x: Tensor
    map: Tensor
    logits: Tensor
    near: Tensor
    maps: Tensor
    near_logits: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def kept(self) -> Tensor:
        """[n, m] bool: the decision at the point is that at the input."""
        return self.near_logits.argmax(dim=2) == self.logits.argmax(dim=1, keepdim=True)

    @property
    def undefined(self) -> dict[str, Tensor]:
        """Reason -> [n] bool, as `Measured` has it: the rows without any point that keeps the decision."""
        return {NO_NEIGHBOUR: ~self.kept.any(dim=1)}

    def largest(self, values: Tensor) -> Tensor:
        """The largest of values [n, m] over the points that keep the decision: [n], NaN where there are none."""
        return torch.where(self.kept.any(dim=1), torch.where(self.kept, values, -math.inf).amax(dim=1), math.nan)


def neighbours(
    explainer: Explainer,
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    norm: Norm | str = "linf",
    radius: float | str = "8/255",
    samples: int = 10,
    map: Tensor | None = None,
    seed: int = 0,
    max_batch: int | str | None = None,
) -> Neighbours:
    """Explain inputs [n, *shape] and `samples` points drawn uniformly from the ball around each, cut to the box.

    Rows of tables are moved on to the nearest valid ones. The maps are the dear part; all measures of `Neighbours`
    share them. A row's points follow from (seed, the row) alone. All maps are of the class `target` [n], whatever the
    decision at a point. map: that of x, where it is known already. max_batch: as the explainer takes it.
    Raises SpecError for an impossible norm, radius or number of samples, InputError for inputs that the classifier
    refuses.
    """
    norm, radius = classifier.norm(norm), as_radius(radius)
    if samples < 1:
        raise SpecError(f"samples must be at least 1, not {samples}.")
    classifier.check(x)
    x = x.detach()
    draws = [norm.sample(x, radius, randomness.draw(seed, k)) for k in range(samples)]
    near = [x + classifier.box.confine(x, draw) for draw in draws]
    if (features := classifier.features) is not None:
        near = [features.nearest(points, x) for points in near]

    def explain(points: Tensor) -> Tensor:
        return explainer(classifier, points, target, seed=seed, max_batch=max_batch).map.detach()

    return Neighbours(
        x=x,
        map=explain(x) if map is None else map.detach(),
        logits=logits_of(classifier, x, max_batch),
        near=torch.stack(near, dim=1),
        maps=torch.stack([explain(points) for points in near], dim=1),
        near_logits=torch.stack([logits_of(classifier, points, max_batch) for points in near], dim=1),
    )


def neighbours_of(case: Case, norm: Norm | str, radius: float | str, samples: int) -> Neighbours:
    """The neighbours of a case's inputs, made once for all measures that ask for the same ball and number."""

    def make() -> Neighbours:
        return neighbours(
            case.explainer, case.classifier, case.x, case.explanation.target,
            norm=norm, radius=radius, samples=samples, map=case.explanation.map, seed=case.seed,
            max_batch=case.max_batch,
        )  # fmt: skip

    return case.shared(("neighbours", str(norm), as_radius(radius), samples), make)


@torch.no_grad()
def logits_of(classifier: Classifier, x: Tensor, max_batch: int | str | None) -> Tensor:
    """Logits [n, classes] at x, max_batch inputs at a time; None: as many as explainers take."""
    with classifier.frozen():
        size = rows_of_a_pass(x) if max_batch is None else max_batch
        return torch.cat(list(in_slices(lambda rows: classifier(x[rows]), len(x), size)))
