"""Sigma-zero (Cina et al. 2025): the fewest changed elements that reach a goal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.classifier import Classifier
from advex.geometry import L0, LINF, Norm, per_row
from advex.goals import Goal, with_temperature
from advex.options import Above0, AtLeast0, Count, Share

_LAST_STEP = 0.1  # of the first


@attack("sigma_zero", cites="cina2025 Alg. 1", promises="smallest", examples=("gradients=20",))
class SigmaZero(Search):
    """The fewest input elements (each channel counts) whose change reaches the goal.

    Descent on the goal's loss, until it is reached, and on a smooth count of the changed elements, the sum of
    d^2 / (d^2 + sigma); after each step changes below a threshold are taken back. The threshold rises while the goal
    holds and falls while it does not. Unlike in the paper, the gradient of the loss is normalised before the two are
    added, so that the scale of the logits alters nothing. And the last gradient, at the best change, ranks the elements
    by how far they bring the loss down, as they are changed and at the walls of the box: as few of the first of these
    as reach the goal are found by bisection, in forward passes alone. That is exact on linear networks of two classes.

    gradients: at most that many per example. step: of the largest element, a share of the box's width; it falls to a
    tenth as a cosine. sigma: where the smooth count of an element is a half, squared. threshold: the first, and
    adaptation: by how much of the step it moves; all as shares of the box's width.
    """

    gradients: Count = 100
    step: Above0 = 1.0
    sigma: Above0 = 1e-3
    threshold: Share = 0.3
    adaptation: AtLeast0 = 0.01
    norm: ClassVar[Norm] = L0

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        goal = with_temperature(goal, 0.0)
        return iterate(_Sparse(self), classifier, x, goal, norm=L0, steps=self.gradients, mask=mask)


@dataclass(frozen=True)
class _Sparse:
    search: SigmaZero

    def start(self, state: SearchState) -> None:
        state.memory = {"threshold": torch.full_like(state.best_size, self.search.threshold)}

    def step(self, state: SearchState, k: int) -> Tensor:
        last = self.search.gradients - 1
        if k == last:
            return _fewest(state)
        moved = self.moved(state, k)
        return torch.where(per_row(state.best_reached, moved), state.best, moved) if k == last - 1 else moved

    def moved(self, state: SearchState, k: int) -> Tensor:
        """A step of the paper's algorithm."""
        search, width = self.search, state.classifier.width
        share = state.delta / width
        step = search.step * (_LAST_STEP + (1 - _LAST_STEP) * (1 + math.cos(math.pi * k / search.gradients)) / 2)
        slope = torch.where(per_row(state.reached, share), 0.0, _normalised(state.gradient))
        count = 2 * share * search.sigma / (share.square() + search.sigma).square() / share[0].numel()
        moved = state.confine(state.delta - width * step * _normalised(slope + count))
        sign = torch.where(state.reached, 1.0, -1.0).to(state.best_size)
        threshold = (state.memory["threshold"] + sign * search.adaptation * step).clamp(0, 1)
        state.memory = {"threshold": threshold}
        return torch.where(moved.abs() < per_row(threshold, moved) * width, 0.0, moved)

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor:
        return state.best_size == 0


def _normalised(direction: Tensor) -> Tensor:
    largest = per_row(LINF.size(direction), direction)
    return torch.where(largest > 0, direction / largest, 0.0)


def _fewest(state: SearchState) -> Tensor:
    """The fewest elements of the present change, or of one to the walls of the box, that reach the goal."""
    room = state.classifier.box.room(state.x, -state.gradient)
    walls = torch.where(room.isfinite(), -state.gradient.sign() * room, 0.0)
    (kept, fewest), (pushed, others) = _first(state, state.delta), _first(state, walls)
    return torch.where(per_row(others < fewest, pushed), pushed, kept)


def _first(state: SearchState, change: Tensor) -> tuple[Tensor, Tensor]:
    """The elements of a change that bring the loss down furthest, as few of them as reach the goal, by bisection.

    Also how many, [n]: inf where so many are no fewer than are known, or none do.
    """
    gain = torch.where(change != 0, -state.gradient * change, -math.inf).flatten(1)
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1).reshape(change.shape)
    low, high = torch.zeros_like(state.best_size), torch.minimum(L0.size(change) + 1, state.best_size)
    best, fewest = torch.zeros_like(change), torch.full_like(high, math.inf)
    with torch.no_grad():
        while (between := (high - low > 1) & ~state.done).any():
            middle = ((low + high) / 2).floor()
            tried = torch.where(rank < per_row(middle, change), change, 0.0)
            reached = state.goal(state.classifier, state.x + tried).reached & between
            state.queries = state.queries + between
            best = torch.where(per_row(reached, change), tried, best)
            fewest = torch.where(reached, middle, fewest)
            low, high = torch.where(between & ~reached, middle, low), torch.where(reached, middle, high)
    return best, fewest
