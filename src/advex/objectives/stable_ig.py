"""Training for attributions that stay as they are when the input moves a little."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from advex import attacks
from advex.attacks.closed_form import ClosedForm
from advex.goals import Misclassify, Unstable
from advex.objectives.step import AttackSpec, Parts, State, Step, objective
from advex.options import AtLeast0, Count


@objective(
    "stable_ig",
    cites="chalasani2020 Eq. 17; chen2019",
    examples=("attack=(pgd:norm=l2,radius=0.5,steps=2)", "at=worst,strength=0.1"),
)
class StableIG:
    """strength times max over x' of ||IG^{L_y}(x, x')||_1: how much the attribution of the loss can change nearby.

    IG^{L_y}(x, x') are integrated gradients of the cross-entropy along the straight path from x' to x. They add up to
    its difference, so with a strength of 1 the loss is never below the adversarial loss at the same x'; for a linear
    network of two classes, and without a wall in the way, both are equal (Theorem 5.1).

    attack: spec string of the search for x'; its norm and radius are the neighbourhood. It should start at x: the
    norm hardly tells up from down nearby, and from a random start many elements go the wrong way. With `closed_form`
    and two classes the norm is the difference of the losses itself, and no path is walked. strength: 1 in the paper.
    at: where cross-entropy is taken: at the `example` (IG-NORM of Chen et al. 2019), or at x' (`worst`: IG-SUM-NORM),
    which then makes the sum of both as large as can be, and takes the example's place for the terms that follow.
    points: of the path (Gauss-Legendre). Everything here is computed in evaluation mode, so batch-norm statistics
    do not see it, and in full precision. Where the batch has weights, each example's norm has its own.
    """

    attack: AttackSpec = "pgd:norm=linf,radius=8/255,steps=5,random_start=false"
    strength: AtLeast0 = 1.0
    points: Count = 5
    at: Literal["example", "worst"] = "example"

    def start(self) -> State:
        return {}

    def alter(self, step: Step) -> Tensor:
        if self.at == "example":
            return step.x
        goal = Unstable(x=step.batch.x, y=step.y, points=self.points, strength=self.strength, loss=1.0)
        with step.classifier.accelerated():
            return attacks.build(self.attack)(step.classifier, step.x, goal, seed=step.seed).adversarial

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        with step.classifier.accelerated():  # compiled code cannot be differentiated twice
            sizes = self._largest(step)
        if step.batch.weight is not None:
            sizes = step.batch.weight * sizes
        loss = self.strength * sizes.mean()
        return loss, {"stable_ig": loss.detach()}, state

    def _largest(self, step: Step) -> Tensor:
        """[n], with a gradient in the parameters; x' itself is held constant, as an adversarial example is."""
        classifier, x, y = step.classifier, step.x.detach(), step.y
        if self.at == "worst":
            return Unstable(x=step.batch.x, y=y, points=self.points).size(classifier, x)
        search = attacks.build(self.attack)
        if isinstance(search, ClosedForm) and step.classes == 2:
            worst = search(classifier, x, Misclassify(y, temperature=1.0), seed=step.seed).adversarial
            before, after = (cross_entropy(classifier.logits(at), y, reduction="none") for at in (x, worst))
            return after - before  # all elements of the map have one sign
        goal = Unstable(x=x, y=y, points=self.points)
        return goal.size(classifier, search(classifier, x, goal, seed=step.seed).adversarial)
