"""Another explanation of the same decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advex.classifier import Classifier
from advex.distances import Distance, as_distance
from advex.goals.goal import goal
from advex.goals.on_maps import SOFT, OnMaps
from advex.goals.targets import Target


@goal(
    "scramble",
    cites="ghorbani2019",
    examples=("explainer=(integrated_gradients:steps=5),distance=cosine", "target=1,seed=3,soften=null"),
)
@dataclass(frozen=True, kw_only=True)
class Scramble(OnMaps):
    """The same decision with a map as far from the reference as possible.

    What is climbed is the distance's smooth form, and the best point is that of the largest distance itself.

    explainer, target, decision, soften, seed: see `OnMaps`. reference: [n, *shape], the maps to leave; of a spec string
    those of x. distance: between maps, or its spec.
    """

    reference: Tensor
    distance: Distance | str

    def __post_init__(self) -> None:
        OnMaps.__post_init__(self)
        object.__setattr__(self, "distance", as_distance(self.distance))

    @classmethod
    def at(
        cls,
        classifier: Classifier,
        x: Tensor,
        y: Tensor,
        *,
        explainer: Any = "input_x_gradient",
        distance: Distance | str = "relative_l2",
        target: Target = "predicted",
        soften: float | None = SOFT,
        seed: int = 0,
    ) -> Scramble:
        """The goal to leave the maps that x has now, with the decisions that it has now."""
        base = OnMaps.bound(explainer, classifier, x, y, target=target, soften=soften, seed=seed)
        return cls(reference=base.map_of(classifier, x).detach(), distance=distance, **vars(base))

    def climbed(self, maps: Tensor, logits: Tensor) -> Tensor:
        """Minus what a search climbs in place of the distance."""
        return -as_distance(self.distance).smooth(self.reference, maps)

    def judged(self, maps: Tensor) -> Tensor:
        """Minus the distance."""
        return -as_distance(self.distance)(self.reference, maps)
