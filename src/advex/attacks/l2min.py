"""The papers' training adversary: a few steps out to the decision boundary and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.classifier import Classifier
from advex.geometry import RMSE, as_radius, per_row
from advex.goals import Goal, with_temperature
from advex.options import Count, RadiusOption


@attack("l2min", cites="woods2019 Sec. III-G", promises="smallest tried", examples=("on_failure=clean",))
class L2Min(Search):
    """L2,min: k steps of lengths psi_{k,n} epsilon, psi_{k,n} = 2 (k - n) / (k (k + 1)).

    Outwards along the gradient of cross-entropy while the goal is not reached, straight back towards
    the clean input while it is. Keeps the smallest change that reached the goal.

    epsilon: total length of the way, in RMSE. steps: k. on_failure: what a row returns that never
    reached the goal: its "last" change, or "clean" as in the authors' code (which so trains on the
    clean image there).
    """

    epsilon: RadiusOption = 0.1
    steps: Count = 7
    on_failure: Literal["last", "clean"] = "last"

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        goal = with_temperature(goal, 1.0)
        return iterate(_OutAndBack(self), classifier, x, goal, norm=RMSE, steps=self.steps, mask=mask)


@dataclass(frozen=True)
class _OutAndBack:
    search: L2Min

    def start(self, state: SearchState) -> None:
        pass

    def step(self, state: SearchState, k: int) -> Tensor:
        steps = self.search.steps
        psi = 2 * (steps - k) / (steps * (steps + 1))
        towards = torch.where(per_row(state.reached, state.x), state.delta, state.gradient)
        return state.delta - psi * as_radius(self.search.epsilon) * state.norm.steepest(towards)

    def better(self, state: SearchState) -> Tensor:
        if self.search.on_failure == "clean":
            return smallest(state)
        # Until the goal is reached the latest change counts.
        return smallest(state) | (~state.reached & ~state.best_reached)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return None
