"""Another explanation of the same decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.distances import Distance, as_distance
from advex.errors import SpecError
from advex.goals.goal import Aim, advantage, goal
from advex.goals.targets import Target, targets


@goal(
    "scramble",
    cites="ghorbani2019",
    examples=("explainer=(integrated_gradients:steps=5),distance=cosine", "target=1,seed=3"),
)
@dataclass(frozen=True, kw_only=True)
class Scramble:
    """Another map for the same decision, as far from the reference as possible.

    Reached wherever the decision stays, so that a search keeps the lowest loss, which is the largest distance,
    among such points. Where the decision is lost, the loss leads back to it.

    explainer: one that is `differentiable`, or its spec. reference: [n, *shape], the maps to leave; of a spec string
    those of x. target: [n] int64, the classes explained; of a spec string a class number, predicted, runner_up or true.
    decision: [n] int64, those to keep. distance: between maps, or its spec. seed: the explainer's.
    Raises SpecError for an explainer whose maps cannot be differentiated.
    """

    open_ended: ClassVar[bool] = True

    explainer: Any
    reference: Tensor
    target: Tensor
    decision: Tensor
    distance: Distance | str
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "explainer", _differentiable(self.explainer))
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
        seed: int = 0,
    ) -> Scramble:
        """The goal to leave the maps that x has now, with the decisions that it has now."""
        explainer, explained = _differentiable(explainer), targets(classifier, x, target, y)
        return cls(
            explainer=explainer,
            reference=explainer(classifier, x, explained, seed=seed).map.detach(),
            target=explained,
            decision=targets(classifier, x, "predicted"),
            distance=distance,
            seed=seed,
        )

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        # Where nobody asks for a gradient, the map need not have one.
        graph = torch.is_grad_enabled() and x.requires_grad
        changed = self.explainer(classifier, x, self.target, seed=self.seed, create_graph=graph).map
        closeness = -as_distance(self.distance).smooth(self.reference, changed)
        kept = (logits.argmax(dim=1) == self.decision).detach()
        loss = torch.where(kept, closeness, -advantage(logits, self.decision))
        return Aim(loss=loss, reached=kept & ~closeness.detach().isnan())


def _differentiable(explainer: Any) -> Any:
    """An explainer, or the one that a spec string names. Raises SpecError unless its maps have derivatives."""
    if isinstance(explainer, str):
        explainer = registry.build("explainer", explainer)
    if not getattr(explainer, "differentiable", False):
        raise SpecError(
            f"{type(explainer).__name__} gives maps without derivatives, which a search cannot follow: take an "
            "explainer whose `differentiable` is true, or measure how its maps change at random points."
        )
    return explainer
