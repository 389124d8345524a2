"""Attributional robustness: explanations that lie along the input, at the examples where they do least."""

from __future__ import annotations

import contextlib
from typing import Literal

from torch import Tensor

from advex import attacks, batch_norm
from advex.distances.channels import Channels
from advex.goals import Misaligned, Misclassify
from advex.goals.misaligned import Anchor, Form, Negative
from advex.objectives.step import AttackSpec, Parts, State, Step, objective
from advex.options import AtLeast0


@objective(
    "attributional",
    cites="singh2020 Eq. 5, 6 and Alg. 1",
    examples=(
        "inner=both,negative=least,anchor=raw,channels=mean_abs,statistics=running",
        "inner=loss,form=cosine",
        "form=direct,attack=(pgd:norm=l2,radius=0.5,steps=2),beta=10",
        "inner=none,form=l2,beta=0",
        "strength=0",
    ),
)
class Attributional:
    """Cross-entropy and strength times L_attr, both at the neighbour x' of each example at which L_attr is largest.

    L_attr is small where the gradient of the true class's logit lies along the input: more than that of the runner-up
    (form `triplet`). See `goals.misaligned` for form, negative, anchor, channels and beta.

    attack: spec string of the search for x'. inner: what it raises: L_attr (`attributional`), the cross-entropy
    (`loss`), their sum (`both`); `none`: x' is the example. strength: lambda; 0: the search alone, whose x' the
    cross-entropy is taken at. statistics: batch norm's in the pass of L_attr, which it never records: those of the
    `batch`, or the `running` ones. The search runs in evaluation mode.

    Search and L_attr run eagerly and in full precision, whatever the rest of the step does: compiled code cannot be
    differentiated twice. Where the batch has weights, each example's L_attr is multiplied by its own.
    """

    attack: AttackSpec = "pgd:norm=linf,radius=8/255,steps=3,step=1.5/255,keep=last"
    inner: Literal["attributional", "loss", "both", "none"] = "attributional"
    strength: AtLeast0 = 0.5
    form: Form = "triplet"
    negative: Negative = "runner_up"
    anchor: Anchor = "normalised"
    channels: Channels = "none"
    beta: AtLeast0 = 50.0
    statistics: Literal["batch", "running"] = "batch"

    def start(self) -> State:
        return {}

    def alter(self, step: Step) -> Tensor:
        if self.inner == "none":
            return step.x
        search = attacks.build(self.attack)
        with step.classifier.accelerated():
            if self.inner == "loss":
                goal = Misclassify(step.y, temperature=1.0)
            else:
                with step.classifier.frozen():
                    goal = self._goal(step, loss=float(self.inner == "both")).away_from(step.classifier, step.x)
            return search(step.classifier, step.x, goal, seed=step.seed).adversarial

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        if self.strength == 0:
            return step.x.new_zeros(()), {"attributional": 0.0}, state
        running = self.statistics == "running"
        with (
            step.classifier.accelerated(),
            batch_norm.by_running_statistics(step.classifier) if running else contextlib.nullcontext(),
        ):
            goal = self._goal(step).away_from(step.classifier, step.batch.x, step.glance)
            sizes = goal.size(step.classifier, step.x.detach(), step.glance)
        if step.batch.weight is not None:
            sizes = step.batch.weight * sizes
        loss = self.strength * sizes.mean()
        return loss, {"attributional": loss.item()}, state

    def _goal(self, step: Step, loss: float = 0.0) -> Misaligned:
        return Misaligned(
            y=step.y, form=self.form, negative=self.negative, anchor=self.anchor, channels=self.channels,
            beta=self.beta, loss=loss,
        )  # fmt: skip
