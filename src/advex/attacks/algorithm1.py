"""Algorithm 1 of Woods et al. 2019: alternate between losing the class and shrinking the change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.classifier import Classifier
from advex.geometry import RMSE, per_row
from advex.goals import Aim, Become, BelowChance, Goal, advantage, with_temperature
from advex.options import Count, Number


@attack("algorithm1", cites="woods2019 Algorithm 1", promises="smallest", examples=("published=true",))
class Algorithm1(Search):
    """The papers' minimal attack, in `steps` gradients.

    As printed: delta <- o(delta, d) with o = SGD(rate, momentum), d = 2 delta where the goal is
    reached and eta grad / |grad| elsewhere, evaluated at c(x + delta) with c the box. |.| is the RMSE,
    as in the authors' code (with the L2 norm of the text a step would depend on the image's size).

    published=True follows the authors' code instead, so that their figures can be compared: both
    directions normalised to RMSE 1, momentum as an exponential average, steps of RMSE
    20 * 2 (N - n) / (N (N + 1)), and no box: the result may leave the valid range, where
    `Perturbation.adversarial` is not an image any more.

    steps: N. rate, momentum, eta: of the printed form. distance: total RMSE length of the published
    form's steps.
    """

    steps: Count = 450
    rate: Number = 0.01
    momentum: Number = 0.9
    eta: Number = 0.55
    published: bool = False
    distance: Number = 20.0

    @property
    def clip(self) -> bool:
        """Whether changes are cut to the box."""
        return not self.published

    @property
    def stride(self) -> float:
        """RMSE of a step at the end of the search: how far beyond the boundary its result may lie."""
        return 2 * self.distance / (self.steps * (self.steps + 1)) if self.published else self.rate * self.eta

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        rule = _Published(self) if self.published else _Printed(self)
        if self.published and isinstance(goal, BelowChance):
            goal = _Odds(goal.y)
        goal = with_temperature(goal, 1.0)
        return iterate(rule, classifier, x, goal, norm=RMSE, steps=self.steps, mask=mask, clip=self.clip)


@dataclass(frozen=True)
class _Odds:
    """`BelowChance`, its loss without the constant that moves its zero to chance: the log-odds of s_y."""

    y: Tensor

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        loss = advantage(logits, self.y, 1.0)
        return Aim(loss=loss, reached=loss.detach() < -math.log(logits.shape[1] - 1))


@dataclass(frozen=True)
class _Printed:
    search: Algorithm1

    def start(self, state: SearchState) -> None:
        # The optimiser moves a delta that may leave the box; the network sees c(x + delta).
        state.memory = {"delta": state.delta.clone(), "velocity": torch.zeros_like(state.x)}

    def step(self, state: SearchState, k: int) -> Tensor:
        delta, velocity = state.memory["delta"], state.memory["velocity"]
        through_clip = torch.where(delta == state.delta, state.gradient, 0.0)
        lose = self.search.eta * state.norm.steepest(through_clip)
        direction = torch.where(per_row(state.reached, state.x), 2 * delta, lose)
        velocity = self.search.momentum * velocity + direction
        delta = delta - self.search.rate * velocity
        state.memory = {"delta": delta, "velocity": velocity}
        return delta

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return None


@dataclass(frozen=True)
class _Published:
    search: Algorithm1

    def start(self, state: SearchState) -> None:
        state.memory = {"average": torch.zeros_like(state.x)}

    def step(self, state: SearchState, k: int) -> Tensor:
        # The goal's loss is y_t - log sum exp of the others, L; cross-entropy is log(1 + exp(-L)), so
        # its gradient is -(1 - s_t) dL/dx. The factor matters: with 1e-8 below, a saturated softmax stalls.
        # For `Become` the loss is -L, and cross-entropy is descended.
        log_odds = -state.loss if isinstance(state.goal, Become) else state.loss
        cross_entropy = -per_row(torch.sigmoid(-log_odds), state.x) * state.gradient
        direction = torch.where(per_row(state.reached, state.x), -state.delta, cross_entropy)
        direction = direction / (1e-8 + per_row(state.norm.size(direction), state.x))
        momentum, steps = self.search.momentum, self.search.steps
        average = momentum * state.memory["average"] + (1 - momentum) * direction
        state.memory = {"average": average}
        return state.delta + self.search.distance * 2 * (steps - k) / (steps * (steps + 1)) * average

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return None
