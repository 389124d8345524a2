"""What goals on maps share: the decision stays, and what is climbed may be the map of a softened network."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.contexts import without_doubts
from advex.errors import SpecError
from advex.goals.goal import Aim, advantage
from advex.goals.targets import Target, targets
from advex.networks import second_derivatives

SOFT = 50.0  # beta of Dombrowski et al. 2019 and Singh et al. 2020


@dataclass(frozen=True, kw_only=True)
class OnMaps:
    """A goal that is a change of the explainer's map while the decision stays. Reached wherever the decision stays.

    Of a ReLU network the slope of a map is missing, or a part of it, so that a search finds little and takes it for
    stability. So the map that is climbed is that of the network with softened activations, unless they are smooth or
    those of half-Huber with 8d of at most `soften`, whose maps have slopes; the decision, and the map by which the best
    point is chosen, are the network's own. Where the decision is lost, the loss leads back to it.

    explainer: one that is `differentiable`, or its spec. target: [n] int64, the classes explained; of a spec string a
    class number, predicted, runner_up or true. decision: [n] int64, those to keep. soften: the beta of
    `Classifier.softened`, or None. seed: the explainer's.
    Raises SpecError for an explainer whose maps cannot be differentiated, and InputError, when it is asked, for a
    network that cannot be softened.
    """

    open_ended: ClassVar[bool] = True

    explainer: Any
    target: Tensor
    decision: Tensor
    soften: float | None = SOFT
    seed: int = 0

    def __post_init__(self) -> None:
        beta = math.nan if isinstance(self.soften, bool) or not isinstance(self.soften, int | float) else self.soften
        if self.soften is not None and not 0 < beta < math.inf:
            raise SpecError(f"soften must be a beta above 0, such as {SOFT:g}, or null, not {self.soften!r}.")
        object.__setattr__(self, "explainer", differentiable(self.explainer))

    @classmethod
    def bound(
        cls, explainer: Any, classifier: Classifier, x: Tensor, y: Tensor, *, target: Target, **options: Any
    ) -> OnMaps:
        """What a spec string says of the fields of this class, for rows x."""
        decision = targets(classifier, x, "predicted")
        return cls(explainer=explainer, target=targets(classifier, x, target, y), decision=decision, **options)

    def climbed(self, maps: Tensor, logits: Tensor) -> Tensor:
        """[n], what falls towards the goal, differentiable in the maps [n, *shape] and in the logits [n, classes]."""
        raise NotImplementedError

    def judged(self, maps: Tensor) -> Tensor:
        """[n], the lowest for the best maps [n, *shape]; NaN where there is nothing to judge."""
        raise NotImplementedError

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        # Where nobody asks for a gradient, the map need not have one.
        graph = torch.is_grad_enabled() and x.requires_grad
        off = contextlib.nullcontext(0)
        cheap = second_derivatives.cheap if graph and not classifier.compiled else contextlib.nullcontext
        with (
            off if self.soften is None else classifier.softened(self.soften, sharper_only=True) as smooth,
            cheap(classifier.network),
        ):
            maps = self.map_of(classifier, x, create_graph=graph)
        with torch.no_grad():
            judged = self.judged(self.map_of(classifier, x.detach()) if smooth else maps.detach())
        kept = (logits.argmax(dim=1) == self.decision).detach()
        loss = torch.where(kept, self.climbed(maps, logits), -advantage(logits, self.decision))
        return Aim(loss=loss, reached=kept & ~judged.isnan(), score=torch.where(kept, judged, loss.detach()))

    def map_of(self, classifier: Classifier, x: Tensor, *, create_graph: bool = False) -> Tensor:
        """The explainer's map of x: [n, *shape]. Nobody is warned of doubts about it: it is no answer to anybody."""
        with without_doubts():
            return self.explainer(classifier, x, self.target, seed=self.seed, create_graph=create_graph).map


def differentiable(explainer: Any) -> Any:
    """An explainer, or the one that a spec string names. Raises SpecError unless its maps have derivatives."""
    if isinstance(explainer, str):
        explainer = registry.build("explainer", explainer)
    if not getattr(explainer, "differentiable", False):
        raise SpecError(
            f"{type(explainer).__name__} gives maps without derivatives, which cannot be attacked: use an "
            "explainer with `differentiable` true, or measure how its maps change at random points."
        )
    return explainer
