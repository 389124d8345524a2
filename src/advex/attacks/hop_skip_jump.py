"""HopSkipJump (Chen et al. 2020): small changes by decisions alone, along estimates of the boundary's normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.boundary_walk import from_noise
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.geometry import as_norm, per_row
from advex.goals import Goal
from advex.options import Count, NormOption
from advex.randomness import numbers, uniform_for

_FIRST_PROBE = 0.1  # size of the first probes, a share of the box's width
_LEAP, _DRAW_IN, _PROBE = range(3)  # what a row is at


@attack(
    "hop_skip_jump",
    cites="chen2020 Alg. 2",
    promises="smallest tried",
    examples=("queries=200,probes=20", "norm=linf,queries=200"),
)
class HopSkipJump(Search):
    """A small change that reaches the goal, starting from noise and using decisions only.

    Rounds of three parts. At a point of the boundary, random probes on either side estimate its normal (the mean of the
    probes, each with the sign of its decision). A leap along it, halved until the goal holds there, leads away from the
    boundary; and bisection back towards the input, to the boundary again, closer than before. Leaps become shorter with
    the square root of the round's number, and probes more numerous. Each example has its own pace.

    norm: l2 or linf (or rmse), in which changes are made small. queries: forward passes at most, with those that find
    the first point of noise. probes: in the first round.
    """

    norm: NormOption = "l2"
    queries: Count = 1000
    probes: Count = 100
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if as_norm(self.norm).name not in ("linf", "l2", "rmse"):
            raise SpecError(f"HopSkipJump's norm must be l2, linf or rmse, not {self.norm}.")

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        none, most = torch.zeros_like(x), self.queries - 1
        start, passes = from_noise(classifier, x, goal, none, seed=seed, mask=mask, most=most)
        rule, spent = _Rounds(self, seed, passes), passes >= self.queries
        norm = as_norm(self.norm)
        result = iterate(
            rule, classifier, x, goal, norm=norm, steps=self.queries, mask=mask, start=start, skip=spent
        )  # fmt: skip
        return SearchResult(
            delta=result.delta, size=result.size, gradients=result.gradients, queries=result.queries + passes,
            flat=result.flat,
        )  # fmt: skip


@dataclass(frozen=True)
class _Rounds:
    """A row leaps, is drawn in, and probes, again and again. Its first leap is the start."""

    search: HopSkipJump
    seed: int
    passes: Tensor
    needs_gradient = False

    def start(self, state: SearchState) -> None:
        zero, still = torch.zeros_like(state.best_size), torch.zeros_like(state.x)
        state.memory = {
            "part": zero, "round": zero, "queries": (self.search.queries - self.passes).to(zero),
            "row": numbers(state.x, self.seed),
            "end": still, "near": zero, "far": zero,  # of the line that is bisected: sizes
            "at": still, "probe": zero, "left": zero,  # where probes start, their size, and how many are left
            "signed": still, "sum": still, "signs": zero,  # sums over the probes of this round
            "way": still, "leap": zero,
        }  # fmt: skip

    def step(self, state: SearchState, k: int) -> Tensor:
        memory, norm = state.memory, state.norm
        leaps, draws, probes = (memory["part"] == part for part in (_LEAP, _DRAW_IN, _PROBE))
        self.drawn_in(state, leaps & state.reached, draws)
        self.probed(state, probes)
        memory["leap"] = torch.where(leaps & ~state.reached, memory["leap"] / 2, memory["leap"])
        self.begin_probes(state, leaps & ~state.reached & (memory["leap"] < memory["probe"]))
        middle = norm.project(memory["end"], (memory["near"] + memory["far"]) / 2)
        ahead = memory["at"] + per_row(memory["leap"], state.x) * memory["way"]
        count = state.x[0].numel()
        direction = 2 * uniform_for(memory["row"], self.seed, f"hop {k}", count).to(state.x).reshape(state.x.shape) - 1
        direction = direction if state.mask is None else direction * state.mask
        size = norm.size(direction).clamp_min(torch.finfo(direction.dtype).tiny)
        beside = memory["at"] + per_row(memory["probe"] / size, state.x) * direction
        part = per_row(memory["part"], state.x)
        return torch.where(part == _LEAP, ahead, torch.where(part == _DRAW_IN, middle, beside))

    def drawn_in(self, state: SearchState, arrived: Tensor, draws: Tensor) -> None:
        """Bisection between the input and where a leap arrived."""
        memory, middle = state.memory, (state.memory["near"] + state.memory["far"]) / 2
        memory["near"] = torch.where(draws & ~state.reached, middle, memory["near"])
        memory["far"] = torch.where(draws & state.reached, middle, memory["far"])
        memory["end"] = torch.where(per_row(arrived, state.x), state.delta, memory["end"])
        memory["near"] = torch.where(arrived, 0.0, memory["near"])
        memory["far"] = torch.where(arrived, state.size, memory["far"])
        memory["part"] = torch.where(arrived, float(_DRAW_IN), memory["part"])
        close = memory["far"] - memory["near"] <= memory["far"] * state.x[0].numel() ** -1.5
        back = draws & close
        at = state.norm.project(memory["end"], memory["far"])
        memory["at"] = torch.where(per_row(back, at), at, memory["at"])
        memory["round"] = memory["round"] + back
        probe = torch.where(memory["round"] == 1, _FIRST_PROBE, memory["far"] / state.x[0].numel())
        memory["probe"] = torch.where(back, probe, memory["probe"])
        self.begin_probes(state, back)

    def begin_probes(self, state: SearchState, rows: Tensor) -> None:
        memory = state.memory
        memory["part"] = torch.where(rows, float(_PROBE), memory["part"])
        memory["left"] = torch.where(rows, (self.search.probes * memory["round"].sqrt()).floor(), memory["left"])
        for name in ("signed", "sum", "signs"):
            value = memory[name]
            memory[name] = torch.where(per_row(rows, value), 0.0, value)

    def probed(self, state: SearchState, probes: Tensor) -> None:
        """What the last probe told; after the last of a round, the estimate (Eq. 16, with the baseline)."""
        memory, x = state.memory, state.x
        sign = torch.where(state.reached, 1.0, -1.0).to(x) * probes
        aside = (state.delta - memory["at"]) / per_row(memory["probe"].clamp_min(torch.finfo(x.dtype).tiny), x)
        aside = torch.where(per_row(probes, x), aside, 0.0)
        memory["signed"], memory["sum"] = memory["signed"] + per_row(sign, x) * aside, memory["sum"] + aside
        memory["signs"], memory["left"] = memory["signs"] + sign, memory["left"] - probes.to(sign)
        over = probes & (memory["left"] <= 0)
        count = (self.search.probes * memory["round"].sqrt()).floor().clamp_min(1)
        mean = memory["signs"] / count
        mean = torch.where(mean.abs() == 1, 0.0, mean)  # all alike: their plain mean is the way
        way = state.norm.steepest(memory["signed"] - per_row(mean, x) * memory["sum"])
        memory["way"] = torch.where(per_row(over, x), way, memory["way"])
        memory["leap"] = torch.where(over, state.norm.size(memory["at"]) / memory["round"].sqrt(), memory["leap"])
        memory["part"] = torch.where(over, float(_LEAP), memory["part"])

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor:
        return ~state.best_reached | (state.best_size == 0) | (state.queries >= state.memory["queries"])
