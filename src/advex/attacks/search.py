"""The one search loop. A search is a rule for the next step; everything else is here.

`iterate` asks the goal, remembers the best row by row, lets the rule step, keeps to the box and the mask, and drops
rows that are finished, so that they stop costing anything. Rules that need no gradients go through it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from advex.classifier import Classifier, input_gradient
from advex.geometry import LINF, Norm, Walls, per_row
from advex.goals import Goal
from advex.types import take
from advex.waits import ASKED, asking_waits


@dataclass
class SearchState:
    """Where the active rows are. Tensors are [n, ...]; `rows` maps them back to the whole batch.

    norm: of changes as shares of the box's width. x, mask: the clean input, and which of its elements may change.
    delta: the present change, inside the box. loss, rank, reached, size: of the goal there; gradient: of its loss, 0
    outside the mask, and everywhere for a rule that needs none. best, best_size, best_rank, best_reached: the best
    change so far in the rule's sense. rank: what the best is the lowest by (see `Aim`).
    gradients, queries, flat: see `SearchResult`. sloped: [n] bool, of a goal without an end, a gradient led on from
    where it is reached. memory: the rule's own tensors, with a row per example.
    done: the rule has finished the row; it may stay in the batch for a while, but no longer counts or changes.

    On a GPU the host learns what has come of the rows in some steps alone (see `waits`): `asked`, whether this is one
    of them. wanted: numbers [m] that a rule wants to know then, set in `finished`; known: what they were the last time.
    held: rows that stand where they are until then: their next look is the same one, and does not count.
    """

    classifier: Classifier
    norm: Norm
    x: Tensor
    goal: Any
    mask: Tensor | None
    delta: Tensor
    rows: Tensor
    best: Tensor
    best_size: Tensor
    best_rank: Tensor
    best_reached: Tensor
    gradients: Tensor
    queries: Tensor
    flat: Tensor
    sloped: Tensor
    done: Tensor
    gradient: Tensor
    loss: Tensor
    rank: Tensor
    reached: Tensor
    size: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)
    asked: bool = True
    wanted: Tensor | None = None
    known: list[int] | None = None
    held: Tensor | None = None

    @cached_property
    def walls(self) -> Walls:
        """What the box allows x."""
        return self.classifier.box.walls(self.x)

    @property
    def counts(self) -> Tensor:
        """[n] bool: rows of which a look is one more."""
        return ~self.done if self.held is None else ~(self.done | self.held)

    def confine(self, delta: Tensor) -> Tensor:
        """delta on the mask and inside the box."""
        return self.walls.confine(delta if self.mask is None else delta * self.mask)

    @property
    def free_gradient(self) -> Tensor:
        """The gradient, 0 where the box does not let the row go downhill."""
        return self.walls.free_gradient(self.delta, self.gradient)


class Rule(Protocol):
    """How a search steps. `state.memory` holds what it must remember from step to step.

    A rule with `needs_gradient = False` steps by the goal's loss alone: `iterate` then makes forward passes only. One
    that descends something else than the goal's loss has `ask(state, changed) -> Aim`, at changed inputs [n, *shape].
    """

    def start(self, state: SearchState) -> None: ...

    def step(self, state: SearchState, k: int) -> Tensor:
        """The change to try next, [n, *shape]; `iterate` cuts it to the mask and the box."""
        ...

    def better(self, state: SearchState) -> Tensor:
        """[n] bool: the present change beats the best so far."""
        ...

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        """[n] bool: rows that need no further step, or None."""
        ...


def smallest(state: SearchState) -> Tensor:
    """Better is: reached, by a smaller change."""
    return state.reached & (state.size < state.best_size)


def deepest(state: SearchState) -> Tensor:
    """Better is: reached first of all, then a lower rank."""
    return (state.reached & ~state.best_reached) | (
        (state.reached == state.best_reached) & (state.rank < state.best_rank)
    )


def finished_when_reached(state: SearchState) -> Tensor | None:
    """A row is finished once its goal is reached; a goal without an end is followed to the last step."""
    return None if _open_ended(state) else state.best_reached


def _open_ended(state: SearchState) -> bool:
    return getattr(state.goal, "open_ended", False)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search has come to, before it is verified. Rows as the input's.

    delta: [n, *shape]. size: [n], inf where the search did not reach the goal. gradients, queries: [n] int64, how often
    the goal was evaluated at the example with its gradient, and without. flat: see `Perturbation`.
    weight: see `Perturbation`.
    """

    delta: Tensor
    size: Tensor
    gradients: Tensor
    queries: Tensor
    flat: Tensor
    weight: Tensor | None = None

    @classmethod
    def nothing(cls, x: Tensor) -> SearchResult:
        """No change of any row of x, no success and no cost."""
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        size = x.new_full((len(x),), math.inf)
        return cls(delta=torch.zeros_like(x), size=size, gradients=count, queries=count.clone(), flat=count.bool())


# (x, goal, mask, rows) -> result of these rows, which are a part of the whole: rows [m] int64 says which.
Run = Callable[[Tensor, Any, Tensor | None, Tensor], SearchResult]


_ADDED = ("delta", "size", "gradients", "queries", "flat")


def in_turn(
    runs: Iterable[Run], x: Tensor, goal: Goal, mask: Tensor | None, *, keep: Literal["first", "last"] = "first"
) -> SearchResult:
    """Several runs, each of the rows that those before it left standing; what a row cost is added up.

    keep: the run whose change a row has that none of them overcomes.
    """
    standing, result, part, own = torch.arange(len(x), device=x.device), None, None, False
    for run in runs:
        if result is None or part is None:
            result = part = run(x, goal, mask, standing)
            continue
        standing = standing[torch.isinf(part.size)]
        if not len(standing):
            break
        part = run(x[standing], take(goal, standing), None if mask is None else mask[standing], standing)
        if not own:
            own, copies = True, {name: getattr(result, name).clone() for name in _ADDED}
            result = replace(result, **copies)  # what a search has returned may be its own
        taken = torch.isfinite(part.size) | (keep == "last")
        result.delta[standing[taken]], result.size[standing[taken]] = part.delta[taken], part.size[taken]
        result.gradients[standing] += part.gradients
        result.queries[standing] += part.queries
        result.flat[standing] |= part.flat
    return SearchResult.nothing(x) if result is None else result


def iterate(
    rule: Rule,
    classifier: Classifier,
    x: Tensor,
    goal: Goal,
    *,
    norm: Norm,
    steps: int,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    skip: Tensor | None = None,
    clip: bool = True,
    unseen: bool = False,
) -> SearchResult:
    """Step `steps` times, look once more, and return the best.

    Each step costs a gradient, or a query (a forward pass) if the rule needs none; the last look is a query.
    start: the first change (zero if not given). skip: [n] bool, rows left out: they cost and find nothing. clip=False
    leaves the box (only for published protocols). unseen: return where the last step leads without a look at it, with
    its size, reached or not.
    """
    n, climbs = len(x), getattr(rule, "needs_gradient", True)
    whole = SearchResult.nothing(x)
    at = SearchState(
        classifier=classifier,
        norm=classifier.norm(norm),
        x=x,
        goal=goal,
        mask=mask,
        delta=torch.zeros_like(x) if start is None else start,
        rows=torch.arange(n, device=x.device),
        best=whole.delta.clone(),
        best_size=whole.size.clone(),
        best_rank=x.new_full((n,), math.inf),
        best_reached=torch.zeros(n, dtype=torch.bool, device=x.device),
        gradients=whole.gradients.clone(),
        queries=whole.queries.clone(),
        flat=whole.flat.clone(),
        sloped=whole.flat.clone(),
        done=torch.zeros(n, dtype=torch.bool, device=x.device),
        gradient=x.new_zeros(()).expand_as(x),
        loss=x.new_zeros(n),
        rank=x.new_zeros(n),
        reached=torch.zeros(n, dtype=torch.bool, device=x.device),
        size=x.new_zeros(n),
    )
    rule.start(at)
    if skip is not None:
        at.done = skip
        at = _compact(at, whole)
    waits = asking_waits(x)
    for k in range(steps + 1):
        at.asked = not waits or (k + 1) % ASKED == 0 or k + 1 == steps
        if unseen and k == steps:
            at.best, at.best_size = at.delta, at.norm.size(at.delta)
            break
        _look(at, rule, gradient=climbs and k < steps)
        _remember(at, rule.better(at))
        if k == steps:
            break
        finished = rule.finished(at, k)
        if finished is not None:
            at.done = at.done | finished
            if at.asked and (at := _compact(at, whole)).rows.numel() == 0:
                break
        delta = rule.step(at, k)
        at.delta = at.confine(delta) if clip else delta
    _write_back(at, whole)
    return whole


def _look(at: SearchState, rule: Rule, *, gradient: bool) -> None:
    """Ask the goal, or what the rule has in its place, at the present change."""

    def ask(changed: Tensor) -> Any:
        asked_by_rule = getattr(rule, "ask", None)
        return at.goal(at.classifier, changed) if asked_by_rule is None else asked_by_rule(at, changed)

    counts = at.counts
    if gradient:
        raw, aim = input_gradient(ask, at.x + at.delta)
        # A gradient that is not finite leads nowhere: those elements stand still, and the row counts as flat.
        at.gradient = raw.nan_to_num(0.0, 0.0, 0.0)
        largest = steepest = LINF.size(raw)
        if at.mask is not None:
            at.gradient = torch.where(at.mask, at.gradient, 0.0)
            steepest = LINF.size(at.gradient)
        at.gradients = at.gradients + counts
        slope = (largest < math.inf) & (steepest > 0)
        at.flat = at.flat | (counts > slope)  # and not
        if _open_ended(at):
            at.sloped = at.sloped | (counts & slope & aim.reached)
            at.flat = at.flat & ~at.sloped
    else:
        with torch.no_grad():
            aim = ask(at.x + at.delta)
        at.queries = at.queries + counts
    at.loss, at.rank, at.reached = aim.loss.detach(), aim.rank, aim.reached
    at.size = at.norm.size(at.delta)


def _remember(at: SearchState, better: Tensor) -> None:
    better = better > at.done  # and not done
    at.best = torch.where(per_row(better, at.x), at.delta, at.best)
    at.best_size = torch.where(better, torch.where(at.reached, at.size, math.inf), at.best_size)
    at.best_rank = torch.where(better, at.rank, at.best_rank)
    at.best_reached = torch.where(better, at.reached, at.best_reached)


def _write_back(at: SearchState, whole: SearchResult) -> None:
    whole.delta[at.rows], whole.size[at.rows] = at.best, at.best_size
    whole.gradients[at.rows], whole.queries[at.rows], whole.flat[at.rows] = at.gradients, at.queries, at.flat


def _compact(at: SearchState, whole: SearchResult) -> SearchState:
    """Drop finished rows once an eighth of the batch is finished; when compiled, at a half and a quarter alone."""
    numbers = (~at.done).sum()[None]
    active, *known = (numbers if at.wanted is None else torch.cat([numbers, at.wanted])).tolist()
    at.known, at.wanted = known or at.known, None
    wanted = active
    if at.classifier.compiled and active:  # each batch size is compiled anew
        wanted = max(1 << (active - 1).bit_length(), 1 << (len(whole.size) - 1).bit_length() >> 2)
    if active and wanted > len(at.done) * 7 // 8:
        return at
    _write_back(at, whole)
    # Active rows first; in a compiled search some finished rows fill up to the size.
    keep = at.done.to(torch.int8).argsort(stable=True)[: min(wanted, len(at.done))].sort().values
    memory = {name: value[keep] for name, value in at.memory.items()}
    return replace(take(at, keep), goal=take(at.goal, keep), memory=memory)
