"""Projected gradient descent on the goal, in any norm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from advex import randomness
from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, deepest, in_turn, iterate
from advex.classifier import Classifier
from advex.geometry import as_norm, as_radius
from advex.goals import Goal
from advex.options import Count, NormOption, RadiusOption


@attack(
    "pgd",
    cites="madry2018",
    examples=(
        "norm=l1,radius=0.5,restarts=2",
        "norm=l2,radius=0.2,random_start=false",
        "norm=rmse,radius=0.05,step=0.01",
        "keep=last",
    ),
)
class PGD(Search):
    """The lowest loss within a fixed distance.

    norm: l1, l2, linf or rmse. radius: in that norm, as a share of the box's width (`"8/255"` is accepted).
    steps: gradients per start. step: length of one step; None is 2.5 radius / steps.
    random_start: begin at a point drawn uniformly from the ball. restarts: further starts, for rows that still stand.
    keep: the best point on the way, or the last one, without a look at it unless further starts depend on that.
    draws: answers of which the mean is attacked, where they vary. The goal decides the loss: `Misclassify(y)` is the
    margin, `Misclassify(y, temperature=1)` the direction of cross-entropy.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    steps: Count = 40
    step: RadiusOption | None = None
    random_start: bool = True
    restarts: Count = 1
    keep: Literal["best", "last"] = "best"
    draws: Count = 1

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        def descend(restart: int, x: Tensor, goal: Goal, mask: Tensor | None, rows: Tensor) -> SearchResult:
            return iterate(
                _Descend(self), classifier, x, goal, norm=as_norm(self.norm), steps=self.steps, mask=mask,
                start=self.begin(classifier, x, mask, seed, restart), unseen=self.keep == "last" and self.restarts == 1,
            )  # fmt: skip

        return in_turn((partial(descend, restart) for restart in range(self.restarts)), x, goal, mask)

    def begin(
        self, classifier: Classifier, x: Tensor, mask: Tensor | None = None, seed: int = 0, restart: int = 0
    ) -> Tensor:
        """The change of x [n, *shape] that a search with this seed begins with."""
        if not self.random_start:
            return torch.zeros_like(x)
        start = classifier.norm(self.norm).sample(x, as_radius(self.radius), randomness.draw(seed, restart))
        return classifier.box.confine(x, start if mask is None else start * mask)


@dataclass(frozen=True)
class _Descend:
    pgd: PGD

    def start(self, state: SearchState) -> None:
        pass

    def step(self, state: SearchState, k: int) -> Tensor:
        radius = as_radius(self.pgd.radius)
        length = 2.5 * radius / self.pgd.steps if self.pgd.step is None else as_radius(self.pgd.step)
        return state.norm.project(state.delta - length * state.norm.steepest(state.free_gradient), radius)

    def better(self, state: SearchState) -> Tensor:
        return deepest(state) if self.pgd.keep == "best" else torch.ones_like(state.reached)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return None
