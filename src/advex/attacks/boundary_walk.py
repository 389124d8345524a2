"""A random walk along the boundary by decisions alone: it cannot be misled by gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advex import randomness, registry
from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.classifier import Classifier
from advex.geometry import RMSE, per_row
from advex.goals import Goal
from advex.options import Count

_FIRST_STEP, _STEPS = 0.3, (1e-3, 1.0)  # sideways, as shares of the change
_INWARD = (1.0, 0.02)  # inwards, first and last, as shares of the step sideways, which counts as 0.1 at most
_DRAWS = 20
_FEW = 0.2  # share of the elements that every other step moves


@attack(
    "boundary_walk",
    cites="brendel2018, with steps sideways that adapt row by row",
    promises="smallest tried",
    examples=("start=l2min", "start=noise,queries=400"),
)
class BoundaryWalk(Search):
    """Shorten another search's change, or noise, by a walk along the boundary that uses decisions only.

    Each step goes sideways at random, then inwards, and is kept if the goal still holds there. Where gradients tell
    the truth, a good search leaves such a walk nothing to gain.

    start: the spec of the other search, or `noise`: random inputs, of which up to 20 are asked. There begin also the
    rows that the search gave up. queries: forward passes of the walk.
    """

    start: str = "minimal"
    queries: Count = 100

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        first = SearchResult.nothing(x)
        if self.start != "noise":
            first = registry.build("attack", self.start)(classifier, x, goal, mask=mask, seed=seed)
        start, passes = from_noise(classifier, x, goal, first.delta, seed=seed, mask=mask)
        walked = walk(classifier, x, goal, start, queries=self.queries, seed=seed, mask=mask)
        return SearchResult(
            delta=walked.delta, size=walked.size, gradients=first.gradients, flat=first.flat,
            queries=first.queries + passes + walked.queries,
        )  # fmt: skip


def from_noise(
    classifier: Classifier,
    x: Tensor,
    goal: Goal,
    delta: Tensor,
    *,
    seed: int,
    mask: Tensor | None = None,
    most: int = _DRAWS,
) -> tuple[Tensor, Tensor]:
    """Changes [n, *shape] that reach the goal where they did not: to random inputs in the box, of which some are asked.

    Rows that none of these reaches keep theirs. Also the passes that it took, [n] int64. most: random inputs asked, 20
    at most.
    """
    with torch.no_grad():
        lost = ~goal(classifier, x + delta).reached
        passes = torch.ones_like(lost, dtype=torch.int64)
        low, high = (wall.to(x).expand_as(x) for wall in (classifier.box.lower, classifier.box.upper))
        for k in range(min(most, _DRAWS) if bool((high - low).isfinite().all()) else 0):
            if not lost.any():
                break
            noise = low + (high - low) * randomness.uniform(x, seed, f"noise {k}") - x
            noise = classifier.box.confine(x, noise if mask is None else noise * mask)
            passes += lost
            reached = lost & goal(classifier, x + noise).reached
            delta, lost = torch.where(per_row(reached, x), noise, delta), lost & ~reached
    return delta, passes


def walk(
    classifier: Classifier, x: Tensor, goal: Goal, start: Tensor, *, queries: int, seed: int, mask: Tensor | None = None
) -> SearchResult:
    """The shortest change that a walk of so many forward passes comes to. start: [n, *shape], changes to begin with."""
    rule = _Walk(seed, queries)
    return iterate(rule, classifier, x, goal, norm=RMSE, steps=queries, mask=mask, start=start)


@dataclass(frozen=True)
class _Walk:
    seed: int
    steps: int
    needs_gradient = False

    def start(self, state: SearchState) -> None:
        state.memory = {
            "step": torch.full_like(state.best_size, _FIRST_STEP / 1.3),
            "kept": state.best_size.clone(),  # the size that the last step began at
            "row": randomness.numbers(state.x, self.seed),
        }

    def step(self, state: SearchState, k: int) -> Tensor:
        size, norm, change = state.best_size, state.norm, state.best
        before = state.memory["step"]
        step = torch.where(size < state.memory["kept"], 1.3 * before, 0.9 * before).clamp(*_STEPS)
        state.memory = {**state.memory, "step": step, "kept": size}
        draws = randomness.uniform_for(state.memory["row"], self.seed, f"walk {k}", 2 * change[0].numel())
        sideways, which = draws.to(change).reshape(len(change), 2, *change.shape[1:]).unbind(1)
        sideways = 2 * sideways - 1
        if k % 2:
            sideways = sideways * (which < _FEW)
        if state.mask is not None:
            sideways = sideways * state.mask
        flat, along = sideways.flatten(1), change.flatten(1)
        share = (flat * along).sum(dim=1) / along.square().sum(dim=1).clamp_min(torch.finfo(flat.dtype).tiny)
        sideways = norm.steepest(sideways - per_row(share, change) * change)
        moved = change + per_row(step * size.nan_to_num(posinf=0.0), change) * sideways
        first, last = _INWARD
        shorter = size.nan_to_num(posinf=0.0) * (1 - first * (last / first) ** (k / self.steps) * step.clamp_max(0.1))
        return norm.steepest(moved) * per_row(shorter, change)

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor:
        return ~state.best_reached | (state.best_size == 0)
