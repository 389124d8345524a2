"""Counterfactuals: the least that somebody would have to change for another answer, column by column.

A person changes few columns of a row, each one way, by a valid amount. So the search moves along *ways*: of a number
one up and one down, of a category one to each other value. It asks the classifier at a ladder of rungs on every way;
where no single way reaches the goal it combines the most promising ones; what reaches the goal is drawn back to the
smallest step that still does. It takes no gradients: categories have none, and integers would round them away.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult
from advex.classifier import Classifier
from advex.features import Feature, FeatureSpec
from advex.geometry import L1, Norm
from advex.goals import Goal
from advex.options import Count
from advex.types import take

_CONTINUOUS = 2**20  # steps from an element to the wall, where nothing says how fine a change may be
_FINEST = 100  # a number without a step of its own moves in powers of ten of at most this part of its scale
_SLACK = 1e-3  # of a step: what single precision may have taken from a number that lay on one
_EXTENSIONS = 1024  # single changes, the best, that combinations are built of
_ELEMENTS = 2**24  # of the inputs of one pass


@attack("counterfactual", cites="wachter2018; mothilal2020", promises="fewest", examples=("beam=1",))
class FewFeatures(Search):
    """The smallest change of the fewest columns that reaches the goal.

    "Smallest" is the L1 norm of the encoded row: numbers count in units of their scale, another category
    counts 2. Of a classifier with `features` every change is a valid row: integers stay integers, a column
    is moved only as it may be, and numbers without a step go to round values. Of others each element is a
    number that may move inside the box.

    features: columns changed at most. beam: combinations that are followed at once; where none of them
    leads to the goal, none is claimed. rungs: values tried on every way, closer to each other near the clean one.
    The result's `gradients` are 0; `flat` says that nothing that was tried altered the goal's loss.
    """

    features: Count = 3
    beam: Count = 32
    rungs: Count = 8
    norm: ClassVar[Norm] = L1

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        delta, size = torch.zeros_like(x), x.new_full((len(x),), math.inf)
        queries, flat = (torch.zeros(len(x), dtype=kind, device=x.device) for kind in (torch.int64, torch.bool))
        with torch.no_grad(), classifier.accelerated():
            for i in range(len(x)):  # a row's candidates are the batch
                part = None if mask is None else mask[i]
                row = _Row(classifier, x[i], take(goal, slice(i, i + 1)), part, self.rungs)
                changed, flat[i] = _fewest(row, self)
                queries[i] = row.queries
                if changed is not None:
                    delta[i] = changed - x[i]
                    size[i] = L1.size(delta[i : i + 1])[0]
        return SearchResult(delta=delta, size=size, gradients=torch.zeros_like(queries), queries=queries, flat=flat)


def _fewest(row: _Row, search: FewFeatures) -> tuple[Tensor | None, bool]:
    """The best change of one row, as a changed input, and whether nothing that was tried altered the goal's loss."""
    nothing = row.ways.new_empty(1, 0)
    start, reached = row.ask(nothing, nothing)
    if reached[0]:
        return row.inputs(nothing, nothing)[0], False
    single = ways, steps = row.ways[:, None], row.rungs[:, None]
    blind = True
    for count in range(1, search.features + 1):
        loss, reached = row.ask(ways, steps)
        blind = blind and not bool((loss != start).logical_and(torch.isfinite(loss)).any())
        if reached.any():
            ways, steps = ways[reached], steps[reached]
            cheapest = _first_of_each(ways, row.price(ways, steps), search.beam)
            ways, steps = ways[cheapest], steps[cheapest]
            steps = _drawn_back(row, ways, steps)
            best = row.price(ways, steps).argmin()
            return row.inputs(ways[best : best + 1], steps[best : best + 1])[0], False
        if count == 1:
            single = tuple(part[loss.argsort(stable=True)[:_EXTENSIONS]] for part in (ways, steps))
        nearest = _first_of_each(ways, loss, search.beam)
        ways, steps = _extended(row, ways[nearest], steps[nearest], *single)
    return None, blind


def _first_of_each(ways: Tensor, score: Tensor, most: int) -> Tensor:
    """Row numbers of the lowest score for each set of ways [m, f], at most `most`, the lowest first."""
    order = score.argsort(stable=True)
    sets = ways.sort(dim=1).values[order].cpu().numpy()
    _, first = np.unique(sets, axis=0, return_index=True)
    return order[torch.from_numpy(np.sort(first)[:most]).to(order.device)]


def _extended(row: _Row, ways: Tensor, steps: Tensor, more: Tensor, rungs: Tensor) -> tuple[Tensor, Tensor]:
    """Each combination [b, f] with each further change [t, 1] of a feature that it does not change yet: [m, f + 1]."""
    b, t = len(ways), len(more)
    ways = torch.cat([ways.repeat_interleave(t, 0), more.repeat(b, 1)], dim=1)
    steps = torch.cat([steps.repeat_interleave(t, 0), rungs.repeat(b, 1)], dim=1)
    feature = row.feature[ways]
    other = (feature[:, :-1] != feature[:, -1:]).all(dim=1)
    return ways[other], steps[other]


def _drawn_back(row: _Row, ways: Tensor, steps: Tensor) -> Tensor:
    """Fewer steps [m, f] of combinations that reach the goal, which they still do.

    Way by way: each is bisected with the others as they are, and the one that so saves most is drawn back.
    """
    m, f = steps.shape
    drawn = torch.zeros(m, f, dtype=torch.bool, device=steps.device)
    for _ in range(f):
        each = steps[:, None].repeat(1, f, 1)  # [m, f, f]: in copy j, way j is bisected
        diagonal = torch.arange(f, device=steps.device)
        low, high = torch.zeros_like(steps), steps.clone()
        while (high - low > 1).any():
            middle = torch.where(high - low > 1, (low + high) // 2, high)
            each[:, diagonal, diagonal] = middle
            reached = row.ask(ways.repeat_interleave(f, 0), each.reshape(m * f, f))[1].reshape(m, f)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        saved = row.prices(ways, steps) - row.prices(ways, high)
        chosen = torch.where(drawn, -1.0, saved).argmax(dim=1, keepdim=True)
        steps = steps.scatter(1, chosen, high.gather(1, chosen))
        drawn = drawn.scatter(1, chosen, True)
    return steps


class _Row:
    """One input, the goal, and the ways it can move.

    Of the W ways, in tensors [W]: feature; at, the element that is written; former, the element that is set to
    0 before (of a number the same one); last, how many steps there are. After k steps the element holds
    (base + k * step, not beyond limit, - center) / scale.
    ways, rungs: [r] the single changes to begin with, as way and number of steps. queries: how many changed inputs the
    goal has been asked about.
    """

    def __init__(self, classifier: Classifier, x: Tensor, goal: Any, mask: Tensor | None, rungs: int) -> None:
        self.classifier, self.goal, self.shape, self.queries = classifier, goal, x.shape, 0
        spec = classifier.features
        self.x = x.flatten() if spec is None else spec.nearest(x[None])[0]
        self.float32 = spec is not None  # a table's valid rows are single precision
        ways = _element_ways(classifier, x) if spec is None else _column_ways(spec, self.x)
        if mask is not None:
            free = mask.flatten().tolist()
            ways = [way for way in ways if free[way[1]] and free[way[2]]]
        self.feature, self.at, self.former, self.last = (
            torch.tensor([way[i] for way in ways], dtype=torch.int64, device=x.device) for i in range(4)
        )
        table = torch.tensor([way[4:] for way in ways], dtype=torch.float64, device=x.device).reshape(-1, 5)
        self.base, self.step, self.limit, self.center, self.scale = table.T
        ladder = (torch.arange(1, rungs + 1, device=x.device) / rungs) ** 2
        steps = (self.last[:, None] * ladder).ceil().long().clamp_min(1)
        new = torch.diff(steps, dim=1, prepend=steps.new_zeros(len(steps), 1)) > 0
        self.ways, self.rungs = new.nonzero()[:, 0], steps[new]

    def values(self, ways: Tensor, steps: Tensor) -> Tensor:
        """What the moved elements hold, [m, f], in the input's precision."""
        raw = self.base[ways] + steps * self.step[ways]
        limit = self.limit[ways]
        raw = torch.where(self.step[ways] > 0, torch.minimum(raw, limit), torch.maximum(raw, limit))
        encoded = (raw - self.center[ways]) / self.scale[ways]
        return (encoded.float() if self.float32 else encoded).to(self.x.dtype)

    def inputs(self, ways: Tensor, steps: Tensor) -> Tensor:
        """The changed inputs [m, *shape] of combinations [m, f] of ways."""
        x = self.x.repeat(len(ways), 1)
        x.scatter_(1, self.former[ways], 0.0).scatter_(1, self.at[ways], self.values(ways, steps))
        return x.reshape(-1, *self.shape)

    def prices(self, ways: Tensor, steps: Tensor) -> Tensor:
        """What each way adds to the L1 norm of the change, [m, f]."""
        moved = (self.values(ways, steps) - self.x[self.at[ways]]).abs()
        return moved + torch.where(self.at[ways] != self.former[ways], 1.0, 0.0).to(moved)

    def price(self, ways: Tensor, steps: Tensor) -> Tensor:
        """L1 norm of the change, [m]."""
        return self.prices(ways, steps).sum(dim=1)

    def ask(self, ways: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The goal's loss [m] (infinite where it is not a number), and whether it is reached [m]."""
        self.queries += len(ways)
        size = max(1, min(4096, _ELEMENTS // max(self.x.numel(), 1)))
        losses, reached = [self.x.new_empty(0)], [torch.empty(0, dtype=torch.bool, device=self.x.device)]
        for some, few in zip(ways.split(size), steps.split(size), strict=True):
            if len(some):
                goal = take(self.goal, torch.zeros(len(some), dtype=torch.int64, device=self.x.device))
                aim = goal(self.classifier, self.inputs(some, few))
                losses.append(aim.loss.nan_to_num(nan=math.inf, posinf=math.inf))
                reached.append(aim.reached)
        return torch.cat(losses), torch.cat(reached)


def finest(scale: float) -> float:
    """The power of ten, at most a hundredth of its scale, in which a number without a step of its own moves."""
    return 10.0 ** math.floor(math.log10(scale / _FINEST))


# One way: (feature, at, former, last, base, step, limit, center, scale).
_Way = tuple[int, int, int, int, float, float, float, float, float]


def _element_ways(classifier: Classifier, x: Tensor) -> list[_Way]:
    """Each element of an input without columns: to the lower and to the upper wall of its box."""
    ways: list[_Way] = []
    for far in (-math.inf, math.inf):
        reach = classifier.box.confine(x, torch.full_like(x, far)).flatten().tolist()
        for i, (value, change) in enumerate(zip(x.flatten().tolist(), reach, strict=True)):
            if change:
                ways.append((i, i, i, _CONTINUOUS, value, change / _CONTINUOUS, value + change, 0.0, 1.0))
    return ways


def _column_ways(spec: FeatureSpec, x: Tensor) -> list[_Way]:
    """Each column of a table: a number up and down, a category to each other, as far as the column may change."""
    ways: list[_Way] = []
    for number, (feature, where) in enumerate(zip(spec.features, spec.slices, strict=True)):
        if feature.change == "never":
            continue
        if feature.kind == "number":
            ways += _number_ways(feature, number, where.start, float(x[where.start]))
            continue
        now = int(x[where].argmax())
        for value in range(feature.width):
            if value != now and feature.change != ("down" if value > now else "up"):
                ways.append((number, where.start + value, where.start + now, 1, 0.0, 1.0, 1.0, 0.0, 1.0))
    return ways


def _number_ways(feature: Feature, number: int, at: int, value: float) -> list[_Way]:
    """Up and down from the encoded `value`, by the column's own steps or by round ones."""
    low, high = feature.range
    raw = feature.center + feature.scale * value
    if feature.step is not None:
        step, high = feature.step, low + math.floor((high - low) / feature.step + _SLACK) * feature.step
        below = above = low + round((raw - low) / step) * step
    else:
        step = finest(feature.scale)
        below, above = math.floor(raw / step + _SLACK) * step, math.ceil(raw / step - _SLACK) * step
    ways: list[_Way] = []
    for direction, base, limit, signed in (("down", above, low, -step), ("up", below, high, step)):
        last = math.ceil((limit - base) / signed - _SLACK)
        if feature.change in ("free", direction) and last > 0:
            ways.append((number, at, at, last, base, signed, limit, feature.center, feature.scale))
    return ways
