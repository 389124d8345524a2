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
from advex.errors import InputError, SpecError
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


def with_temperature(goal: G, temperature: float | Tensor) -> G:
    """The same goal with another tau, if it has one; else the goal itself."""
    if hasattr(goal, "temperature"):
        return dataclasses.replace(goal, temperature=temperature)  # pyright: ignore[reportArgumentType]
    return goal


def without_class(goal: G, avoided: Tensor) -> G | None:
    """The same goal, pursued by way of other classes than `avoided` [n]; None if it knows no such detour.

    Searches use it to leave a local minimum. What counts as reached does not change.
    """
    if hasattr(goal, "avoided"):
        return dataclasses.replace(goal, avoided=avoided)  # pyright: ignore[reportArgumentType]
    return None


def advantage(
    logits: Tensor, classes: Tensor, temperature: float | Tensor = 0.0, avoided: Tensor | None = None
) -> Tensor:
    """How far `classes` [n] lie ahead of the others: [n], see the module's formula.

    temperature: tau, one or [n]. avoided: [n], one class per row that the others do not include.
    """
    own, others = _apart(logits, classes)
    if avoided is not None:
        others = others.scatter(1, avoided[:, None], -math.inf)
    if isinstance(temperature, Tensor):
        # A tau of nothing is the margin, up to rounding.
        tau = temperature.clamp_min(1e-6).reshape(-1, 1)
        return own - (tau * torch.logsumexp(others / tau, dim=1, keepdim=True))[:, 0]
    if temperature <= 0:
        return own - others.amax(dim=1)
    return own - temperature * torch.logsumexp(others / temperature, dim=1)


def _apart(values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """values [n, classes] of the named classes, [n], and all of them with -inf in their place."""
    try:
        if classes.shape != values.shape[:1]:
            raise IndexError(f"got the shape {tuple(classes.shape)}")
        own = values.gather(1, classes[:, None])[:, 0]
        return own, values.scatter(1, classes[:, None], -math.inf)
    except (IndexError, RuntimeError) as error:
        raise InputError(
            f"A goal needs one class per input, int64 in [0, {values.shape[1]}), for {len(values)} inputs: {error}"
        ) from None


@register("goal", "misclassify", cites="woods2019 Eq. 2")
@dataclass(frozen=True)
class Misclassify:
    """Any class but y: s_y - max_{j != y} s_j < 0.

    y: [n] int64, the class to lose. temperature: the formula's tau, one or [n]. avoided: [n] int64 or
    None, classes that the loss does not pursue (they count as reached all the same).
    """

    y: Tensor
    temperature: float | Tensor = 0.0
    avoided: Tensor | None = None

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        loss = advantage(logits, self.y, self.temperature, self.avoided)
        return Aim(loss=loss, reached=advantage(logits, self.y).detach() < 0)


@register("goal", "below_chance", cites="woods2019 Eq. 3")
@dataclass(frozen=True)
class BelowChance:
    """The class's confidence below that of a random guess ("better than random", BTR): s_y < 1/V.

    The loss is logit(s_y) - logit(1/V), which is monotone in s_y and does not saturate.
    y: [n] int64. avoided: [n] int64 or None, classes that the loss does not pursue.
    """

    y: Tensor
    avoided: Tensor | None = None

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        chance = math.log(logits.shape[1] - 1)
        loss = advantage(logits, self.y, 1.0, self.avoided) + chance
        return Aim(loss=loss, reached=advantage(logits, self.y, 1.0).detach() < -chance)


@register("goal", "become", cites="woods2019 Sec. III-A2")
@dataclass(frozen=True)
class Become:
    """The decision is class c.

    c: [n] int64, the class wanted. temperature: the formula's tau, one or [n].
    """

    c: Tensor
    temperature: float | Tensor = 0.0

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        reached = advantage(logits, self.c).detach() > 0
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

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise SpecError(f"The margin is a difference of confidences, in [0, 1), not {self.margin}.")

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        log_s = classifier.logits(x).log_softmax(dim=1)
        _, wrong = _apart(log_s, self.y)
        log_j, others = _apart(log_s, wrong.argmax(dim=1))
        log_q = others.amax(dim=1)
        loss = torch.logaddexp(log_q, log_q.new_tensor(self.margin).log()) - log_j
        return Aim(loss=loss, reached=(log_j.exp() - log_q.exp()).detach() > self.margin)
