"""SPSA (Spall 1992; Uesato et al. 2018): descent along gradients that are estimated from pairs of forward passes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, deepest, finished_when_reached, iterate
from advex.classifier import Classifier
from advex.geometry import as_norm, as_radius
from advex.goals import Goal
from advex.options import Above0, Count, NormOption, RadiusOption
from advex.randomness import numbers, uniform_for

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # of Adam


@attack("spsa", cites="spall1992; uesato2018 Alg. 1", examples=("norm=l2,radius=0.5,samples=2",))
class SPSA(Search):
    """A change within a fixed distance that reaches the goal, using forward passes only.

    The loss at two points that lie opposite each other in a random direction of signs gives the slope along it. The
    mean over some pairs stands for the gradient, by which Adam steps.

    norm: l1, l2, linf or rmse. radius: in that norm, as a share of the box's width. queries: forward passes.
    samples: pairs per step. step: Adam's, and probe: how far from the present change the pairs lie in each element;
    both are shares of the box's width.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    queries: Count = 1000
    samples: Count = 4
    step: Above0 = 0.01
    probe: Above0 = 0.01
    needs_gradient: ClassVar[bool] = False

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        norm = as_norm(self.norm)
        return iterate(_Pairs(self, seed), classifier, x, goal, norm=norm, steps=self.queries - 1, mask=mask)


class _Pairs:
    """Rounds: one look at the present change, then two for each pair."""

    needs_gradient = False

    def __init__(self, search: SPSA, seed: int) -> None:
        self.search, self.seed, self.round = search, seed, 2 * search.samples + 1

    def start(self, state: SearchState) -> None:
        zero = torch.zeros_like(state.x)
        names = ("centre", "slope", "first", "second")
        state.memory = {"number": numbers(state.x, self.seed), "ahead": torch.zeros_like(state.best_rank)}
        state.memory |= dict.fromkeys(names, zero)

    def step(self, state: SearchState, k: int) -> Tensor:
        number, phase = divmod(k, self.round)
        if phase % 2:
            state.memory = state.memory | {"ahead": state.loss}
        elif phase:
            fall = (state.memory["ahead"] - state.loss).nan_to_num(0.0, 0.0, 0.0)
            way = self.direction(state, number, phase // 2)
            slope = state.memory["slope"] + fall.reshape(-1, *[1] * (way.ndim - 1)) * way
            state.memory = state.memory | {"slope": slope}
        if phase + 1 == self.round:
            return self.moved(state, number + 1)
        pair, side = phase // 2 + 1, 1 if phase % 2 == 0 else -1
        probe = side * self.search.probe * state.classifier.width
        return state.memory["centre"] + probe * self.direction(state, number, pair)

    def direction(self, state: SearchState, number: int, pair: int) -> Tensor:
        """Signs: [n, *shape]."""
        count = state.x.shape[1:].numel()
        draw = uniform_for(state.memory["number"], self.seed, f"spsa {number} {pair}", count)
        return torch.where(draw < 0.5, -1.0, 1.0).to(state.x).reshape(state.x.shape)

    def moved(self, state: SearchState, number: int) -> Tensor:
        """The next change to begin at, by a step of Adam. number: of the step, from 1."""
        width = state.classifier.width
        gradient = state.memory["slope"] / (2 * self.search.probe * width * self.search.samples)
        first = _FIRST * state.memory["first"] + (1 - _FIRST) * gradient
        second = _SECOND * state.memory["second"] + (1 - _SECOND) * gradient.square()
        way = first / (1 - _FIRST**number) / ((second / (1 - _SECOND**number)).sqrt() + _TINY)
        centre = state.norm.project(
            state.memory["centre"] - self.search.step * width * way, as_radius(self.search.radius)
        )
        centre = state.confine(centre)
        zero = torch.zeros_like(centre)
        state.memory = state.memory | {"centre": centre, "first": first, "second": second, "slope": zero}
        return centre

    def better(self, state: SearchState) -> Tensor:
        return deepest(state) & (state.size <= as_radius(self.search.radius) * (1 + 1e-6))  # pairs may lie outside

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return finished_when_reached(state)
