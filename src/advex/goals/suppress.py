"""The class's own output falls below zero."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advex.classifier import Classifier
from advex.goals.goal import Aim, goal, own_and_others
from advex.goals.targets import Classes, Target, targets
from advex.logits import answered


@goal("suppress", cites="elliott2021 Eq. 2", examples=("target=1",))
@dataclass(frozen=True)
class Suppress:
    """The logit of class c is below 0, whatever the others are: C_c < 0; or no answer, such as NaN.

    For networks whose outputs are detectors, one for each class (a sigmoid each: 0 is a probability of one half). Where
    the logits are those of a softmax, a constant added to all of them changes no decision but this goal: there
    `Misclassify` is the question.

    c: [n] int64, the class that is to go; in a spec string by `target`: true, predicted, runner_up or a class number.
    Raises InputError for classes that the network does not have.
    """

    c: Classes

    @classmethod
    def at(cls, classifier: Classifier, x: Tensor, y: Tensor, *, target: Target = "true") -> Suppress:
        return cls(targets(classifier, x, target, y))

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        own, _ = own_and_others(logits, self.c)
        return Aim(loss=own, reached=(own.detach() < 0) | ~answered(logits))
