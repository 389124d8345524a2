"""The best change of a given size: how adversarial explanations are made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, iterate
from advex.classifier import Classifier
from advex.geometry import RMSE, as_radius, per_row
from advex.goals import Goal
from advex.options import AtLeast0, Count, RadiusOption, ShareBelow1


@attack("at_distance", cites="woods2019 Eq. 4")
class AtDistance(Search):
    """Follow the goal out to RMSE rho, then continue at exactly that distance, inside the box.

    rho: in RMSE. steps: gradients. outward: share of the steps spent on the way out; each then turns
    the change on the sphere by a step that falls linearly from `turn` rho to 0.
    """

    rho: RadiusOption = 0.1
    steps: Count = 35
    outward: ShareBelow1 = 0.3
    turn: AtLeast0 = 0.5

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        return iterate(_Orbit(self, seed), classifier, x, goal, norm=RMSE, steps=self.steps, mask=mask)


@dataclass(frozen=True)
class _Orbit:
    search: AtDistance
    seed: int

    def start(self, state: SearchState) -> None:
        pass

    def step(self, state: SearchState, k: int) -> Tensor:
        rho, steps = as_radius(self.search.rho), self.search.steps
        way_out = max(round(self.search.outward * steps), 1)
        downhill = -state.norm.steepest(state.free_gradient)
        lost = ~(downhill + state.delta).flatten(1).any(dim=1)  # no gradient and nowhere yet
        if k == 0 and lost.any():
            anywhere = state.norm.sample(state.x, 1.0, self.seed)
            state.memory["anywhere"] = anywhere if state.mask is None else anywhere * state.mask
        if "anywhere" in state.memory:  # those that were lost at the start alone can be lost later
            downhill = torch.where(per_row(lost, downhill), state.memory["anywhere"], downhill)
        if k + 1 < way_out:
            return state.delta + rho / way_out * downhill
        length = self.search.turn * rho * (steps - k) / (steps - way_out + 1)
        way = state.delta + max(length, 1e-3 * rho) * downhill
        return state.walls.to_distance(way, rho * state.classifier.width, state.mask)

    def better(self, state: SearchState) -> Tensor:
        least = as_radius(self.search.rho) * (1 - 1e-3)
        best_is_there = state.norm.size(state.best) >= least
        return ~best_is_there | ((state.size >= least) & (state.rank < state.best_rank))

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return None
