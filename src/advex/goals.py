"""What a search wants. A goal's loss falls towards it; `reached` is the plain truth.

All classification goals follow one family of differences between a class and the others,

    y_c - tau * log sum_{j != c} exp(y_j / tau),

which is the margin to the runner-up as tau -> 0 and the log-odds of class c (the direction of
cross-entropy, without its saturation) at tau = 1. No single tau is best on every network, so
searches may ask for another one: `with_temperature`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.registry import register


@dataclass(frozen=True, kw_only=True)
class Aim:
    """loss: [n], falls towards the goal. reached: [n] bool."""

    loss: Tensor
    reached: Tensor


class Goal(Protocol):
    """Row i of the aim depends on row i of x alone."""

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim: ...


G = TypeVar("G")


def with_temperature(goal: G, temperature: float) -> G:
    """The same goal with another tau, if it has one; else the goal itself."""
    if hasattr(goal, "temperature"):
        return dataclasses.replace(goal, temperature=temperature)  # pyright: ignore[reportArgumentType]
    return goal


def advantage(logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """How far `classes` [n] lie ahead of the others: [n], see the module's formula."""
    own = logits.gather(1, classes[:, None])[:, 0]
    others = logits.scatter(1, classes[:, None], -math.inf)
    if temperature <= 0:
        return own - others.amax(dim=1)
    return own - temperature * torch.logsumexp(others / temperature, dim=1)


@register("goal", "misclassify", cites="woods2019 Eq. 2")
@dataclass(frozen=True)
class Misclassify:
    """Any class but y: s_y - max_{j != y} s_j < 0.

    y: [n] int64, the class to lose.
    """

    y: Tensor
    temperature: float = 0.0

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        loss = advantage(logits, self.y, self.temperature)
        return Aim(loss=loss, reached=advantage(logits, self.y, 0.0).detach() < 0)


@register("goal", "below_chance", cites="woods2019 Eq. 3")
@dataclass(frozen=True)
class BelowChance:
    """The class's confidence below that of a random guess ("better than random", BTR): s_y < 1/V.

    The loss is logit(s_y) - logit(1/V), which is monotone in s_y and does not saturate.
    y: [n] int64.
    """

    y: Tensor

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        loss = advantage(logits, self.y, 1.0) + math.log(logits.shape[1] - 1)
        return Aim(loss=loss, reached=loss.detach() < 0)


@register("goal", "become", cites="woods2019 Sec. III-A2")
@dataclass(frozen=True)
class Become:
    """The decision is class c.

    c: [n] int64, the class wanted.
    """

    c: Tensor
    temperature: float = 0.0

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        reached = advantage(logits, self.c, 0.0).detach() > 0
        return Aim(loss=-advantage(logits, self.c, self.temperature), reached=reached)


@register("goal", "confident", cites="woods2019 Sec. III-H")
@dataclass(frozen=True)
class Confident:
    """A class other than y that is `margin` ahead of the next: max_{j != y} s_j - max_{q != j} s_q > margin.

    The loss is log(s_q + margin) - log(s_j): zero where the margin is just met, never saturated.
    y: [n] int64. margin: in confidence, in [0, 1).
    """

    y: Tensor
    margin: float = 0.5

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        log_s = classifier.logits(x).log_softmax(dim=1)
        wrong = log_s.scatter(1, self.y[:, None], -math.inf)
        j = wrong.argmax(dim=1, keepdim=True)
        log_j = log_s.gather(1, j)[:, 0]
        log_q = log_s.scatter(1, j, -math.inf).amax(dim=1)
        loss = (log_q.exp() + self.margin).log() - log_j
        return Aim(loss=loss, reached=(log_j.exp() - log_q.exp()).detach() > self.margin)
