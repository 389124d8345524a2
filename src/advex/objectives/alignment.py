"""Attributions that keep their direction when the example is changed."""

from __future__ import annotations

from torch import Tensor

from advex import registry
from advex.distances.cosine import cosine
from advex.objectives.step import Parts, State, Step, objective
from advex.options import AtLeast0, Count


@objective("alignment", cites="wang2022 (IGR)")
class Alignment:
    """strength times 1 - cos of the integrated gradients at an example before and after the other terms change it.

    It stands beside a term that changes examples, such as `adversarial`; alone it is 0. The gradients are those of the
    true class's logit, from black. strength: the paper does not state its own. points: of the path (Gauss-Legendre).
    Computed eagerly, in evaluation mode and full precision. Where the batch has weights, each example's has its own.
    """

    strength: AtLeast0 = 1.0
    points: Count = 5

    def start(self) -> State:
        return {}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        explain = registry.make("explainer", "integrated_gradients", steps=self.points, rule="gauss_legendre")
        with step.classifier.accelerated():
            before, after = (
                explain(step.classifier, x.detach(), step.y, create_graph=True).map.flatten(1)
                for x in (step.batch.x, step.x)
            )
        sizes = 1 - cosine(before, after)
        if step.batch.weight is not None:
            sizes = step.batch.weight * sizes
        loss = self.strength * sizes.mean()
        return loss, {"alignment": loss.detach()}, state
