"""The decision is another one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advex.classifier import Classifier
from advex.goals.goal import Aim, ahead, goal, lost, own_and_others
from advex.goals.targets import Classes


@goal("misclassify", cites="woods2019 Eq. 2", examples=("temperature=1",))
@dataclass(frozen=True)
class Misclassify:
    """Any class but y: s_y - max_{j != y} s_j < 0; or no answer, such as NaN.

    y: the class to lose, [n] int64, or numbers and names. temperature: tau of `advantage`, one or [n]. avoided: [n] or
    [n, k] int64 or None, classes that the loss does not pursue (they count as reached all the same).
    """

    y: Classes
    temperature: float | Tensor = 0.0
    avoided: Tensor | None = None

    @classmethod
    def at(cls, classifier: Classifier, x: Tensor, y: Tensor, *, temperature: float = 0.0) -> Misclassify:
        return cls(y, temperature)

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        own, others = own_and_others(logits, self.y)
        return Aim(loss=ahead(logits, own, others, self.temperature, self.avoided), reached=lost(own, others))
