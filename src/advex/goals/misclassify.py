"""The decision is another one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advex.classifier import Classifier
from advex.goals.goal import Aim, advantage, goal
from advex.goals.targets import Classes
from advex.logits import answered


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
        loss = advantage(logits, self.y, self.temperature, self.avoided)
        return Aim(loss=loss, reached=(advantage(logits, self.y).detach() < 0) | ~answered(logits))
