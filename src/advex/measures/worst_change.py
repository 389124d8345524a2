"""How far a search can move an explanation while the decision stays (Ghorbani et al. 2019).

A search finds more than random points do, but never certainly the most: what it finds is a lower bound. It is blind
where a map is constant, and the gradient of a ReLU network's logit is, piece by piece. There it finds nothing, which
does not mean that there is nothing: the value is undefined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex import attacks
from advex.attacks import Search
from advex.classifier import Classifier
from advex.distances import Distance, as_distance
from advex.errors import SpecError
from advex.goals import Scramble
from advex.measures.case import Better, Case, DistanceOption, Measured, Need, Of, SearchOption, measure
from advex.measures.intervals import mean_score
from advex.measures.nearby import logits_of
from advex.types import Explainer, Score


@dataclass(frozen=True, kw_only=True)
class WorstChange:
    """How far the map lies from that of the input at the worst point that a search found: a lower bound.

    distance: [n]; NaN where the search was blind, where it found no point that keeps the decision, and where the
    distance is. delta: [n, *shape], the change of the input. reached: [n] bool, the decision stays there and the
    distance is defined. flat: [n] bool, the derivative of the map vanished on the way: the search was blind.
    gradients: [n] int64, those that it spent.
    """

    distance: Tensor
    delta: Tensor
    reached: Tensor
    flat: Tensor
    gradients: Tensor

    def __len__(self) -> int:
        return len(self.distance)

    def score(self, *, seed: int = 0) -> Score:
        """The mean over examples with its bootstrap interval; undefined examples are left out and counted."""
        return mean_score("map change, worst found", self.distance, better="low", seed=seed)


def worst_case_stability(
    explainer: Explainer,
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    search: Search | str = "pgd",
    distance: Distance | str = "relative_l2",
    map: Tensor | None = None,
    seed: int = 0,
    max_batch: int | str | None = None,
) -> WorstChange:
    """How far a search can move the map of each input [n, *shape] while the decision stays.

    search: or its spec string. It must leave the input without a slope to follow, as PGD and AtDistance do: there the
    distance has its least value. distance: or its spec string. map: that of x, where it is known already. max_batch:
    inputs at a time.
    Raises SpecError for an explainer whose maps cannot be differentiated, InputError for inputs that are refused.
    """
    if not has_derivatives(explainer):
        raise SpecError(
            f"{type(explainer).__name__} gives maps without derivatives, which a search cannot follow: measure its "
            "random stability, or take an explainer whose `differentiable` is true."
        )
    classifier.check(x)

    def explain(points: Tensor) -> Tensor:
        return explainer(classifier, points, target, seed=seed, max_batch=max_batch).map.detach()

    goal = Scramble(
        explainer=explainer,
        reference=(explain(x) if map is None else map).detach(),
        target=target,
        decision=logits_of(classifier, x).argmax(dim=1),
        distance=as_distance(distance),
        seed=seed,
    )
    worst = attacks.as_search(search)(classifier, x, goal, seed=seed, max_batch=max_batch)
    seen = worst.reached & ~worst.flat
    return WorstChange(
        distance=torch.where(seen, as_distance(distance)(goal.reference, explain(worst.adversarial)), math.nan),
        delta=worst.delta,
        reached=worst.reached,
        flat=worst.flat,
        gradients=worst.gradients,
    )


def has_derivatives(explainer: Explainer) -> bool:
    """Whether an explainer's maps can be differentiated, so that a search can follow them."""
    return getattr(explainer, "differentiable", False)


@measure(
    "worst_case", cites="ghorbani2019", examples=("search=(pgd:norm=l2,radius=0.2,steps=10),distance=(top_k:k=10)",)
)
class WorstCase:
    """How far the map moves at the worst point that a search found near the input, the decision kept: a lower bound.

    search: spec of an attack; its norm and radius are the neighbourhood. distance: spec of one between maps.
    """

    search: SearchOption = "pgd"
    distance: DistanceOption = "relative_l2"

    title: ClassVar[str] = "Map change, worst found"
    better: ClassVar[Better] = "low"
    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Measured:
        if not has_derivatives(case.explainer):
            every = torch.ones(len(case), dtype=torch.bool)
            return Measured(value=every.double(), undefined={"the explainer gives maps without derivatives": every})
        worst = worst_case_stability(
            case.explainer, case.classifier, case.x, case.explanation.target,
            search=self.search, distance=self.distance, map=case.explanation.map, seed=case.seed,
            max_batch=case.max_batch,
        )  # fmt: skip
        comparable = as_distance(self.distance)(case.maps, case.maps) == 0
        return Measured(
            value=worst.distance,
            undefined={
                "the search was blind: the derivative of the map vanished": worst.flat & worst.reached,
                "the search met no point that keeps the decision": ~worst.reached & comparable,
            },
        )
