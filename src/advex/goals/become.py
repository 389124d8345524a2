"""The decision is a certain class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advex.classifier import Classifier
from advex.goals.goal import Aim, advantage, goal
from advex.goals.targets import Classes, Target, targets
from advex.logits import answered


@goal("become", cites="woods2019 Sec. III-A2", examples=("target=2,temperature=0.5",))
@dataclass(frozen=True)
class Become:
    """The decision is class c.

    c: the class wanted, [n] int64, or numbers and names (`Become("dog")`); in a spec string by `target`: a number, or
    runner_up, the second most confident. temperature: tau of `advantage`, one or [n].
    """

    c: Classes
    temperature: float | Tensor = 0.0

    @classmethod
    def at(
        cls, classifier: Classifier, x: Tensor, y: Tensor, *, target: Target = "runner_up", temperature: float = 0.0
    ) -> Become:
        return cls(targets(classifier, x, target, y), temperature)

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        reached = (advantage(logits.detach(), self.c) > 0) & answered(logits)
        return Aim(loss=-advantage(logits, self.c, self.temperature), reached=reached)
