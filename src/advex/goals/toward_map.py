"""The explanation that somebody wants, for the same decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advex.classifier import Classifier
from advex.distances import Distance, as_distance
from advex.errors import SpecError
from advex.goals.goal import goal
from advex.goals.on_maps import SOFT, OnMaps
from advex.goals.targets import Target, targets


@goal("toward_map", cites="dombrowski2019", examples=("towards=0,outputs=0.5,distance=cosine",))
@dataclass(frozen=True, kw_only=True)
class TowardMap(OnMaps):
    """The same decision with a map as close to a given one as possible.

    explainer, target, decision, soften, seed: see `OnMaps`. wanted: [n, *shape], the maps to come near to; of a spec
    string those that x has now for the classes `towards` (a class number, predicted, runner_up or true). distance:
    between maps, or its spec. outputs: how much the mean square change of the logits counts besides. logits: [n,
    classes], where that change is counted from.
    """

    wanted: Tensor
    logits: Tensor
    distance: Distance | str = "relative_l2"
    outputs: float = 0.0

    def __post_init__(self) -> None:
        OnMaps.__post_init__(self)
        object.__setattr__(self, "distance", as_distance(self.distance))
        if not self.outputs >= 0:
            raise SpecError(f"The weight of the outputs must be at least 0, not {self.outputs}.")

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
        towards: Target = "runner_up",
        outputs: float = 0.0,
        soften: float | None = SOFT,
        seed: int = 0,
    ) -> TowardMap:
        """The goal to have the maps of another class for the decisions that x has now."""
        base = OnMaps.bound(explainer, classifier, x, y, target=target, soften=soften, seed=seed)
        wanted = base.explainer(classifier, x, targets(classifier, x, towards, y), seed=seed).map.detach()
        logits = classifier(x).detach()
        return cls(wanted=wanted, logits=logits, distance=distance, outputs=outputs, **vars(base))

    def climbed(self, maps: Tensor, logits: Tensor) -> Tensor:
        """What a search climbs in place of the distance, downwards, and how far the logits are from where they were."""
        apart = as_distance(self.distance).smooth(self.wanted, maps)
        return apart + self.outputs * (logits - self.logits).square().mean(dim=1)

    def judged(self, maps: Tensor) -> Tensor:
        """The distance."""
        return as_distance(self.distance)(self.wanted, maps)
