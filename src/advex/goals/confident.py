"""Another decision, made with confidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.errors import SpecError
from advex.goals.goal import Aim, goal, own_and_others
from advex.goals.targets import Classes


@goal("confident", cites="woods2019 Sec. III-H", examples=("margin=0",))
@dataclass(frozen=True)
class Confident:
    """A class other than y that is `margin` ahead of the next: max_{j != y} s_j - max_{q != j} s_q > margin.

    The loss is log(s_q + margin) - log(s_j): zero where the margin is just met, never saturated.
    y: [n] int64. margin: in confidence, in [0, 1).
    """

    y: Classes
    margin: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise SpecError(f"The margin must be a difference of confidences, in [0, 1), not {self.margin}.")

    @classmethod
    def at(cls, classifier: Classifier, x: Tensor, y: Tensor, *, margin: float = 0.5) -> Confident:
        return cls(y, margin)

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        log_s = classifier.logits(x).log_softmax(dim=1)
        _, wrong = own_and_others(log_s, self.y)
        log_j, others = own_and_others(log_s, wrong.argmax(dim=1))
        log_q = others.amax(dim=1)
        loss = torch.logaddexp(log_q, log_q.new_full((), self.margin).log()) - log_j
        return Aim(loss=loss, reached=(log_j.exp() - log_q.exp()).detach() > self.margin)
