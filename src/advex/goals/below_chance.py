"""The class is less likely than by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from advex.classifier import Classifier
from advex.goals.goal import Aim, advantage, goal
from advex.goals.targets import Classes
from advex.logits import answered


@goal("below_chance", cites="woods2019 Eq. 3")
@dataclass(frozen=True)
class BelowChance:
    """The class's confidence is below that of a random guess ("better than random", BTR): s_y < 1/V; or no answer.

    The loss is logit(s_y) - logit(1/V), which is monotone in s_y and does not saturate.
    y: [n] int64. avoided: [n] or [n, k] int64, or None: classes that the loss does not pursue.
    """

    y: Classes
    avoided: Tensor | None = None

    @classmethod
    def at(cls, classifier: Classifier, x: Tensor, y: Tensor) -> BelowChance:
        return cls(y)

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        chance = math.log(logits.shape[1] - 1)
        loss = advantage(logits, self.y, 1.0, self.avoided) + chance
        reached = (advantage(logits.detach(), self.y, 1.0) < -chance) | ~answered(logits)
        return Aim(loss=loss, reached=reached)
