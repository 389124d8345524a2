"""Several searches within one distance: what withstands, withstands all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advex import registry
from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, in_turn
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.geometry import Norm, as_norm, as_radius, per_row
from advex.goals import Goal
from advex.options import NormOption, RadiusOption

# What a suite's name stands for, in the order of cost.
SUITES = {"standard": ("apgd", "minimal", "apgd:loss=targeted_dlr,steps=50", "square")}


@dataclass(frozen=True, kw_only=True)
class Ball:
    """All changes whose size in a norm is at most a radius. key: as it was typed, but for the norm's other names."""

    norm: Norm
    radius: float
    key: str = ""

    @classmethod
    def of(cls, text: str) -> Ball:
        """Of NORM:RADIUS, such as `linf:8/255`. Raises SpecError for anything else."""
        name, colon, size = (part.strip() for part in text.partition(":"))
        if not (name or size):
            raise SpecError(
                "There is an empty entry next to a comma: write NORM:RADIUS,..., such as linf:8/255,l2:0.5."
            )
        if not (colon and name and size):
            lacks = "norm" if size or not colon and name[:1].isdigit() else "radius"
            if lacks == "radius":
                as_norm(name)  # raises for what is none
            raise SpecError(f"'{text}' has no {lacks}: write NORM:RADIUS, such as linf:8/255 or l2:0.5.")
        norm, radius = as_norm(name), as_radius(size)
        if radius == 0:
            raise SpecError(f"'{text}' allows no change: the robust accuracy within it is the accuracy.")
        if norm.name in ("linf", "rmse") and radius > 1:
            raise SpecError(
                f"'{text}' is too large: radii are fractions of the input range, at most 1 in {norm.name}. "
                f"For {size} of 255 grey levels write {norm.name}:{size}/255."
            )
        return cls(norm=norm, radius=radius, key=f"{norm.name}:{size}")

    def holds(self, size: Tensor) -> Tensor:
        """[n] bool: changes of these sizes lie within, but for rounding."""
        return size <= self.radius * (1 + 1e-6)

    def check(self, shape: Sequence[int]) -> None:
        """Raise SpecError where every change of an input of that shape is smaller, so that nothing is left to ask."""
        most = self.norm.size(torch.ones(1, *shape, dtype=torch.float64)).item()
        if self.radius >= most:
            raise SpecError(
                f"'{self.key}' includes every input of shape {'x'.join(map(str, shape))}: the distance from "
                f"black to white is {most:.4g} in {self.norm.name}. Radii are fractions of the input range, "
                "not numbers of grey levels."
            )


@attack("suite", cites="croce2020 (AutoAttack)", examples=("norm=l2,radius=0.5,searches=(apgd,square)",))
class Suite(Search):
    """A change within a fixed distance that reaches the goal, by any of several attacks in turn.

    Each has the rows that those before it left standing. What a search for the smallest change comes to counts where it
    lies within the distance. A row that withstands all keeps no change.

    norm, radius: of the ball, the radius as a share of the box's width, and of all its searches. searches: spec strings
    with commas between them, in their order, or a suite's name. `standard` is APGD on cross-entropy, `minimal`, APGD on
    the targeted difference of logits ratio, and Square.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    searches: str = "standard"

    def __post_init__(self) -> None:
        members((self.searches,), self.ball)  # refuses what names none

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        return overcome(self.members, classifier, x, goal, self.ball, mask=mask, seed=seed).result

    @property
    def ball(self) -> Ball:
        """Within which it looks."""
        return Ball(norm=as_norm(self.norm), radius=as_radius(self.radius))

    @property
    def members(self) -> dict[str, Search]:
        """Its searches by name."""
        return members((self.searches,), self.ball)


def members(specs: Sequence[str], ball: Ball) -> dict[str, Search]:
    """The searches of a suite by name, in their order, within a distance.

    specs: as typed, with names of suites among them. Raises SpecError for what names no search, or one twice, and for
    one that says a distance of its own.
    """
    wanted = [(spec, part) for spec in registry.specs_from(specs) for part in SUITES.get(spec, (spec,))]
    within: dict[str, Any] = {"norm": ball.norm.name, "radius": ball.radius}
    names, searches = [], []
    for suite, spec in wanted:
        name, options = registry.parse(spec)
        known = registry.entries("attack").get(name)
        allowed = {} if known is None else known.options()
        given = {key: value for key, value in within.items() if key in allowed}
        if own := [key for key in (*within, "rho") if key in options]:
            raise SpecError(
                f"The search '{spec}' in the suite sets its own {own[0]}: remove it. All searches in a suite "
                f"use the same radius, here '{ball.key}'."
            )
        try:
            search = registry.make("attack", name, **{**given, **options})
        except SpecError:
            if suite in SUITES:  # which is without those of its searches that do not know the norm
                continue
            raise
        if search in searches:
            raise SpecError(f"The search '{spec}' is listed twice in the suite.")
        names.append(name)
        searches.append(search)
    if not searches:
        raise SpecError("A suite needs at least one search.")
    return dict(zip(registry.numbered(names), searches, strict=True))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What several searches within a distance came to.

    result: their changes, those of the rows that were overcome. by: [n] int64, which of the searches overcame a row, -1
    for none. distance: [n], the smallest change that any of them came to, be it farther, as far as it is known; and
    nearest: [n] int64, which of them.
    """

    result: SearchResult
    by: Tensor
    distance: Tensor
    nearest: Tensor


def overcome(
    searches: Mapping[str, Search],
    classifier: Classifier,
    x: Tensor,
    goal: Goal,
    ball: Ball,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Outcome:
    """Search after search, each on the rows that those before it left standing. Rows do not depend on each other."""
    by = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    distance, nearest = x.new_full((len(x),), math.inf), by.clone()

    def run(number: int, search: Search, x: Tensor, goal: Any, mask: Tensor | None, rows: Tensor) -> SearchResult:
        each = search(classifier, x, goal, seed=seed, mask=mask, max_batch="auto")
        size = torch.where(each.reached, classifier.norm(ball.norm).size(each.delta), math.inf)
        broken = ball.holds(size)
        by[rows[broken]] = number
        closer = size < distance[rows]
        distance[rows[closer]], nearest[rows[closer]] = size[closer], number
        return SearchResult(
            delta=torch.where(per_row(broken, x), each.delta, 0.0),
            size=torch.where(broken, size, math.inf),
            gradients=each.gradients,
            queries=each.queries,
            flat=each.flat,
        )

    runs = (partial(run, number, search) for number, search in enumerate(searches.values()))
    return Outcome(result=in_turn(runs, x, goal, mask), by=by, distance=distance, nearest=nearest)
