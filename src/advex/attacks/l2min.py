"""The papers' training adversary: a few steps out to the decision boundary and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advex.attacks.search import SearchResult, SearchState, iterate, run_search, smallest
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.geometry import RMSE, as_radius, per_row
from advex.goals import Goal, with_temperature
from advex.registry import register
from advex.types import Perturbation


@register("attack", "l2min", cites="woods2019 Sec. III-G")
@dataclass(frozen=True, kw_only=True)
class L2Min:
    """L2,min: k steps of lengths psi_{k,n} epsilon, psi_{k,n} = 2 (k - n) / (k (k + 1)).

    Outwards along the gradient of cross-entropy while the goal is not reached, straight back towards
    the clean input while it is. Keeps the smallest change that reached the goal.

    epsilon: total length of the way, in RMSE. steps: k. on_failure: what a row returns that never
    reached the goal: its "last" change, or "clean" as in the authors' code (which so trains on the
    clean image there).
    """

    epsilon: float | str = 0.1
    steps: int = 7
    on_failure: str = "last"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", as_radius(self.epsilon))
        if self.steps < 1:
            raise SpecError(f"L2Min needs at least 1 step, not {self.steps}.")
        if self.on_failure not in ("last", "clean"):
            raise SpecError(f"L2Min's on_failure is 'last' or 'clean', not '{self.on_failure}'.")

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        goal: Goal,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Perturbation:
        def find(x: Tensor, goal: Goal, mask: Tensor | None) -> SearchResult:
            goal = with_temperature(goal, 1.0)
            return iterate(_OutAndBack(self), classifier, x, goal, norm=RMSE, steps=self.steps, mask=mask)

        return run_search(find, classifier, x, goal, norm=RMSE, mask=mask, max_batch=max_batch)


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
