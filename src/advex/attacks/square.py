"""Square Attack (Andriushchenko et al. 2020): random squares, kept where they help. No gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, deepest, finished_when_reached, iterate
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.geometry import LINF, as_norm, as_radius
from advex.goals import Goal, with_temperature
from advex.options import Count, NormOption, RadiusOption, Share
from advex.randomness import numbers, uniform_for

# After how many of 10,000 queries the share of the elements in a square is halved.
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@attack(
    "square",
    cites="andriushchenko2020 Alg. 1 to 3",
    examples=("radius=0.3,queries=200", "norm=l2,radius=1,queries=200"),
)
class Square(Search):
    """A change within a fixed distance that reaches the goal, using forward passes only.

    A change of stripes to begin with; then in each step a square at a random place gets another change, which is kept
    where the loss falls. The squares shrink. In linf a square has one of the two extreme values in each channel; in l2
    it has a bump in each, paid for by what another square loses. Inputs that are no pictures are one row of elements.

    norm: linf or l2 (or rmse). radius: in that norm, as a share of the box's width. queries: forward passes.
    share: of the elements, in the first squares.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    queries: Count = 1000
    share: Share = 0.8
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if as_norm(self.norm).name not in ("linf", "l2", "rmse"):
            raise SpecError(f"Square's norm must be linf, l2 or rmse, not {self.norm}; for l1 use apgd.")

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        rule = (_Extremes if as_norm(self.norm) is LINF else _Bumps)(self, seed)
        goal = with_temperature(goal, 0.0)
        return iterate(rule, classifier, x, goal, norm=as_norm(self.norm), steps=self.queries - 1, mask=mask)


class _Squares:
    """What both norms share: where the squares are, and what is kept. A plane is [height, width]."""

    needs_gradient = False

    def __init__(self, search: Square, seed: int) -> None:
        self.search, self.seed = search, seed

    def start(self, state: SearchState) -> None:
        # The first stripes are taken whatever they do, as published, but by rows that need no change at all.
        state.memory = {"number": numbers(state.x, self.seed), "first": torch.zeros_like(state.best_reached)}

    def step(self, state: SearchState, k: int) -> Tensor:
        state.memory = state.memory | {"first": torch.full_like(state.best_reached, k == 0)}
        planes = _planes(state.x)
        delta = self.begin(state, planes) if k == 0 else self.change(state, planes, self.side(planes, k), f"square {k}")
        return delta.reshape(state.x.shape)

    def side(self, planes: Tensor, k: int) -> tuple[int, int]:
        """Height and width of the squares of step k: about a share of the plane that is halved now and then."""
        height, width = planes.shape[2:]
        halvings = sum(k * 10_000 / self.search.queries > after for after in _HALVED)
        area = self.search.share * height * width / 2**halvings
        if height == 1:
            return 1, min(max(round(area), 1), width)
        side = max(round(math.sqrt(area)), 1)
        return min(side, height), min(side, width)

    def draw(self, state: SearchState, stream: str, columns: int) -> Tensor:
        """Uniform numbers in [0, 1) for each row: [n, columns]."""
        return uniform_for(state.memory["number"], self.seed, f"square attack: {stream}", columns).to(state.x)

    def places(self, planes: Tensor, side: tuple[int, int], draw: Tensor) -> Tensor:
        """Elements of a plane that lie in a square at a random place: [n, elements of the square]. draw: [n, 2]."""
        height, width = planes.shape[2:]
        top, left = (
            (draw[:, axis] * (whole - part + 1)).long().clamp_max(whole - part)
            for axis, (whole, part) in enumerate(zip((height, width), side, strict=True))
        )
        rows, columns = (torch.arange(part, device=planes.device) for part in side)
        inside = (rows[:, None] * width + columns).flatten()
        return (top * width + left)[:, None] + inside

    def begin(self, state: SearchState, planes: Tensor) -> Tensor: ...

    def change(self, state: SearchState, planes: Tensor, side: tuple[int, int], stream: str) -> Tensor: ...

    def better(self, state: SearchState) -> Tensor:
        return deepest(state) | (state.memory["first"] & ~state.best_reached)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return finished_when_reached(state)


def _planes(x: Tensor) -> Tensor:
    """[n, channels, height, width]; inputs that are no pictures are one plane of height 1."""
    return x if x.ndim == 4 else x.reshape(len(x), 1, 1, x.shape[1:].numel())


def _signs(draw: Tensor) -> Tensor:
    return torch.where(draw < 0.5, -1.0, 1.0).to(draw)


class _Extremes(_Squares):
    """Of the L-infinity ball: each element at one of its two ends (Alg. 2)."""

    def begin(self, state: SearchState, planes: Tensor) -> Tensor:
        n, channels, _, width = planes.shape
        signs = _signs(self.draw(state, "stripes", channels * width)).reshape(n, channels, 1, width)
        return (signs * self.end(state)).expand(planes.shape)

    def change(self, state: SearchState, planes: Tensor, side: tuple[int, int], stream: str) -> Tensor:
        n, channels = planes.shape[:2]
        draw = self.draw(state, stream, 2 + channels)
        places = self.places(planes, side, draw[:, :2])[:, None].expand(-1, channels, -1)
        ends = (_signs(draw[:, 2:]) * self.end(state))[:, :, None].expand(places.shape)
        return state.best.reshape(n, channels, -1).scatter(2, places, ends)

    def end(self, state: SearchState) -> float:
        return as_radius(self.search.radius) * state.classifier.width


class _Bumps(_Squares):
    """Of the L2 ball: bumps that move weight from one square to another (Alg. 3)."""

    def side(self, planes: Tensor, k: int) -> tuple[int, int]:
        height, width = super().side(planes, k)
        most = planes.shape[2:]
        odd = (max(part, 3) + (max(part, 3) % 2 == 0) for part in (height, width))
        height, width = (min(part, whole) for part, whole in zip(odd, most, strict=True))
        return height, width

    def begin(self, state: SearchState, planes: Tensor) -> Tensor:
        n, channels, height, width = planes.shape
        side = max(height // 5, 1), max(width // 5, 1)
        tiles = height // side[0], width // side[1]
        draw = self.draw(state, "stripes", channels * tiles[0] * tiles[1])
        bump = _bump(side, draw.new_zeros(1))[0]
        bumps = _signs(draw).reshape(n, channels, tiles[0], 1, tiles[1], 1) * bump[:, None, :]
        delta = torch.zeros_like(planes)
        top, left = (height - tiles[0] * side[0]) // 2, (width - tiles[1] * side[1]) // 2
        delta[:, :, top : top + tiles[0] * side[0], left : left + tiles[1] * side[1]] = bumps.reshape(
            n, channels, tiles[0] * side[0], tiles[1] * side[1]
        )
        # Where the box is not in the way, this is of the full radius.
        return state.norm.steepest(delta) * as_radius(self.search.radius)

    def change(self, state: SearchState, planes: Tensor, side: tuple[int, int], stream: str) -> Tensor:
        n, channels = planes.shape[:2]
        radius = as_radius(self.search.radius) * state.classifier.width * self.units(state)
        draw = self.draw(state, stream, 5 + channels)
        filled, emptied = (self.places(planes, side, part) for part in (draw[:, :2], draw[:, 2:4]))
        flat = state.best.reshape(n, channels, -1)
        both = torch.zeros_like(flat[:, 0], dtype=torch.bool).scatter(1, filled, True).scatter(1, emptied, True)
        weight = (flat.square() * both[:, None]).sum(dim=2)  # [n, channels], of both squares
        unused = (radius**2 - flat.square().sum(dim=(1, 2))).clamp_min(0)
        inside = filled[:, None].expand(-1, channels, -1)
        former = flat.gather(2, inside)
        bump = _bump(side, draw[:, 4]).flatten(1)[:, None] * _signs(draw[:, 5:])[:, :, None]
        bump = _unit(bump + _unit(former))
        bump = bump * (weight + unused[:, None] / channels).sqrt()[:, :, None]
        flat = flat.scatter(2, emptied[:, None].expand(-1, channels, -1), 0.0).scatter(2, inside, bump)
        return state.norm.project(flat.reshape(state.x.shape), as_radius(self.search.radius))

    def units(self, state: SearchState) -> float:
        """L2 of a change of size 1 in the norm of the search."""
        return 1.0 if as_norm(self.search.norm).name == "l2" else math.sqrt(state.x[0].numel())


def _unit(values: Tensor) -> Tensor:
    """Along the last axis of length 1; zero stays."""
    return values / torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp_min(1e-12)


def _bump(side: Sequence[int], draw: Tensor) -> Tensor:
    """Two bumps of opposite sign, of L2 norm 1 (Eq. 2): [n, *side].

    draw: [n], where it is below 0.5 one is above the other, else they are side by side.
    """
    tall, wide = side
    upright = torch.cat([_pyramid(tall // 2, wide), -_pyramid(tall - tall // 2, wide)])
    level = torch.cat([_pyramid(tall, wide // 2), -_pyramid(tall, wide - wide // 2)], dim=1)
    both = torch.stack([_unit(part.flatten()).reshape(tall, wide) for part in (upright, level)]).to(draw)
    return both[(draw >= 0.5).long()]


def _pyramid(height: int, width: int) -> Tensor:
    """Rings around the middle, of L2 norm 1: the k-th from there is sum_{j > k} 1 / j^2 high, up to half a side."""
    rings = max(height // 2, width // 2) + 1
    ring = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    heights = torch.arange(1, rings + 1, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)
    return _unit(heights[ring].flatten()).reshape(height, width) if height and width else torch.zeros(height, width)
