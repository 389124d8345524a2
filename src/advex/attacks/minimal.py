"""The smallest change that reaches a goal, in few gradients: the default search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from advex import randomness
from advex.attacks.attack import Search, attack
from advex.attacks.rays import crossing, drawn_in
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.attacks.smallest_row import smallest_rows
from advex.classifier import Classifier
from advex.geometry import L2, as_norm, per_row
from advex.goals import Aim, Goal, with_temperature, without_class
from advex.options import Above0, AtLeast0, Count, NormOption, ShareBelow1
from advex.types import take
from advex.waits import ASKED

# A leg: the ball shrinks (grows) by this share after a success (failure), from first to last step.
_GAMMA, _LAST_STEP = (0.05, 0.001), 0.01
_HURRY = 0.85
_FASTER = 3  # so many times faster does the clock of a row run that stagnates
# Forward passes that draw in a first success, and which step of them, as a share of it, is the last.
_PASSES, _CLOSE = 4, 0.25
# Gradients of the first leg, of each further one, and of each after so many; the fewest that make a further one.
_FIRST, _FURTHER, _LATER, _EARLY, _SHORTEST = 40, 40, 60, 8, 20
# A leg is given up after this share of its time where its best is so many times the best of the legs before.
_GIVEN_UP, _BEHIND = 0.4, 1.1


@attack(
    "minimal",
    cites="pintor2021 (fast minimum norm); rony2019 (decoupled direction and norm)",
    promises="smallest",
    examples=("gradients=40", "norm=l1", "norm=linf,gradients=200"),
)
class Minimal(Search):
    """The smallest change, in a norm, that reaches the goal.

    Several legs, each a fast-minimum-norm search: a step along the averaged, normalised gradient, relative to the
    present radius, then back into a ball that shrinks after each success and grows after each failure. What makes few
    gradients enough, and more of them better:

    - the loss is annealed from nearly cross-entropy (all wrong classes count) to the margin (only the nearest does),
      with a temperature in units of the row's own spread of logits, so that networks of low and of high confidence are
      treated alike;
    - each row has a clock of its own, which all schedules follow and which runs faster while the row stagnates: a row
      ends when it stagnates at the end of its time, and never before it is annealed;
    - the first success of a leg, which may overshoot several times, is drawn in along its ray at once;
    - most local minima are a matter of the class: the second leg avoids the class that the first arrived at, further
      ones go by way of one class each (that of the first leg next where the second stays far behind, else the
      likeliest one not tried), and when these are spent legs start at random changes. A leg is given up early where it
      stays far behind the best, so that its gradients serve the next one;
    - at the end of each leg its change is drawn in along its ray, in forward passes alone. Of a table it is in the end
      made a valid row, beside one that a search by columns finds: see `smallest_rows`.

    norm: of the change. gradients: at most that many gradient evaluations per example; fewer than 20 are never spent
    on a further leg. momentum: of the gradient's average. step: first step, relative to the radius; it falls to a
    hundredth as a cosine. At 4 nearly all of the next change is the averaged gradient and little the present change:
    that turns fast and leaves poor minima. (In L1 a step goes towards the corner of ball and box that the gradient
    points at, first all the way, then a falling share of it: Frank and Wolfe 1956.) temperature: first temperature,
    relative to the spread. patience: a row stagnates once that many steps have not made its change `tolerance` smaller.
    draws: answers of which the mean is attacked, where they vary.
    """

    norm: NormOption = "rmse"
    gradients: Count = 100
    momentum: ShareBelow1 = 0.4
    step: Above0 = 4.0
    temperature: AtLeast0 = 0.4
    patience: Count = 10
    tolerance: AtLeast0 = 1e-3
    draws: Count = 1

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        with torch.no_grad():
            logits = classifier.logits(x)
        norm, spread = as_norm(self.norm), _spread(logits)
        farthest = classifier.norm(norm).size(classifier.box.farthest(x))
        legs: list[SearchResult] = []  # what the first two have come to, each by itself

        def leg(best: SearchResult, aim: Goal, steps: int, start: Tensor | None = None) -> SearchResult:
            left = self._left(best)
            rule = _Leg(self, left.clamp_max(steps), best.size, spread)
            bound = steps + ASKED  # rows end by themselves; where they had to stand for a while, later
            again = iterate(rule, classifier, x, aim, norm=norm, steps=bound, mask=mask, start=start, skip=left == 0)
            again = drawn_in(classifier, x, goal, again, norm, again.size <= _BEHIND * best.size)
            if len(legs) < 2:
                legs.append(again)
            return _shorter(best, again)

        best = leg(SearchResult.nothing(x), goal, _FIRST if self.gradients >= _FIRST + _SHORTEST else self.gradients)
        detours = _detours(goal, classifier, x, logits, legs)
        for number in itertools.count():
            if not self._left(best).any():
                break
            detour, start = next(detours, None), None
            if detour is None:
                size = torch.where(torch.isfinite(best.size), best.size, farthest / 10)
                start = classifier.norm(norm).sample(x, size, randomness.draw(seed, number))
                start = classifier.box.confine(x, start if mask is None else start * mask)
            best = leg(best, detour or goal, _FURTHER if number < _EARLY else _LATER, start)
        return best if classifier.features is None else smallest_rows(classifier, x, goal, mask, norm, best)

    def _left(self, best: SearchResult) -> Tensor:
        """[n] int64: the gradients that each row may still take; 0 where they make no leg, or none is needed."""
        left = torch.where(best.size > 0, self.gradients - best.gradients, 0)
        return torch.where(left < min(_SHORTEST, self.gradients), 0, left)


def _detours(goal: Goal, classifier: Classifier, x: Tensor, logits: Tensor, legs: list[SearchResult]) -> Iterator[Goal]:
    """The goal by way of any class but the one that the first leg arrived at; then of each single one.

    logits: [n, V], of x. legs: what the first two have come to; the list grows while they are made.

    The single classes come in the order of the logits where the first leg arrived. Its own comes last, though it comes:
    where two classes meet, legs may hover between. It comes first where the second leg stayed far behind, which tells
    that the nearest class is known; the second leg's own has had its turn and comes late.
    """
    n, classes = logits.shape
    start = logits.argmax(dim=1, keepdim=True)

    def ranked(leg: SearchResult) -> Tensor:
        with torch.no_grad():
            after = classifier.logits(x + leg.delta).nan_to_num(-math.inf)
        return after.scatter(1, start, -math.inf).argsort(dim=1, descending=True, stable=True)

    order = ranked(legs[0])
    first = order[:, :1]
    detour = without_class(goal, first[:, 0]) if classes > 2 else None
    if detour is None:
        return
    yield detour
    second, far = ranked(legs[1])[:, :1], legs[1].size > _BEHIND * legs[0].size
    late = torch.where(order == first, torch.where(far, -1, 2)[:, None], 0) + (order == second).long()
    order = order.gather(1, (late + 4 * (order == start)).argsort(dim=1, stable=True))
    every = torch.arange(classes, device=logits.device).expand(n, classes)
    for rank in range(classes - 1):
        others = (every != start) & (every != order[:, rank : rank + 1])
        yield without_class(goal, every[others].reshape(n, classes - 2)) or goal


def _spread(logits: Tensor) -> Tensor:
    """Standard deviation [n] of each row's logits within reach: without those that are far off, as masked classes are.

    Far off is 20 times as far below the highest as is typical (the median), where what follows a thousandfold leap is
    not typical of anything.
    """
    below = logits.amax(dim=1, keepdim=True) - logits
    gaps = below.sort(dim=1).values[:, 1:]
    usual = 1 + (gaps[:, 1:] <= 1000 * gaps[:, :-1]).cumprod(dim=1).sum(dim=1, keepdim=True)
    near = (below <= 20 * gaps.gather(1, (usual - 1) // 2)) | (below == 0)
    count = near.sum(dim=1)
    mean = torch.where(near, logits, 0.0).sum(dim=1, keepdim=True) / count[:, None]
    some = (torch.where(near, logits - mean, 0.0).square().sum(dim=1) / count).sqrt()
    every = (logits - logits.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
    return torch.where(near.all(dim=1), every, some)


def _eased(first: float, last: float, fall: Tensor) -> Tensor:
    """From first to last, as a cosine falls from 1 to 0."""
    return (first - last) * fall + last if last else first * fall


def _shorter(first: SearchResult, second: SearchResult) -> SearchResult:
    """The shorter change of each row, and whether the leg that found it (where none did, any leg) was blind."""
    nearer = second.size < first.size
    return SearchResult(
        delta=torch.where(per_row(nearer, first.delta), second.delta, first.delta),
        size=torch.where(nearer, second.size, first.size),
        gradients=first.gradients + second.gradients,
        queries=first.queries + second.queries,
        flat=torch.where(nearer, second.flat, first.flat | (second.flat & torch.isinf(first.size))),
    )


@dataclass(frozen=True)
class _Leg:
    """The rule of one leg."""

    search: Minimal
    steps: Tensor  # [n] int64, gradients of each row
    known: Tensor  # [n], the best size that other legs have found
    spread: Tensor  # [n], of the logits

    def start(self, state: SearchState) -> None:
        farthest, zero = state.walls.farthest().expand_as(state.x), torch.zeros_like(state.best_size)
        state.memory = {
            "clock": zero,  # the row's progress, from 0 to 1: all that is annealed follows it ...
            "fall": torch.ones_like(zero),  # ... as half a turn of a cosine, from 1 to 0
            "radius": torch.full_like(zero, math.inf),
            "limit": state.norm.size(farthest if state.mask is None else farthest * state.mask),
            "velocity": torch.zeros_like(state.x),
            "steps": self.steps,
            "slow": (zero + 1) / self.steps,
            "fast": (zero + _FASTER) / self.steps,
            "behind": self.known * _BEHIND,
            "spread": self.spread,
            "hurry": zero + 1,
            "loss": zero,  # at the start
            "arrived": zero > 0,  # whether the goal was ever reached
            "mark": state.best_size.clone(),  # best size when it last improved by more than the tolerance ...
            "since": zero,  # ... how many steps ago that was ...
            "late": zero > 0,  # ... and whether these were too many
        }
        self._anneal(state)

    def _anneal(self, state: SearchState) -> None:
        temperature = state.memory["spread"] * (self.search.temperature * state.memory["fall"])
        if not _all_arrived(state):
            temperature = temperature * state.memory["hurry"]
        state.goal = with_temperature(state.goal, temperature)

    def step(self, state: SearchState, k: int) -> Tensor:
        memory, norm, all_arrived = state.memory, state.norm, _all_arrived(state)
        if k == 0:
            memory["loss"] = state.loss
        state.held = before = None
        if not all_arrived:
            if not state.asked:
                state.held, before = _fresh(state), dict(memory)
            elif count := (state.known or [0])[0]:
                _cut_short(state, _fresh(state).to(torch.int8).argsort(descending=True, stable=True)[:count])
        velocity = self.search.momentum * memory["velocity"] + L2.steepest(state.free_gradient)
        radius = self._radius(state, all_arrived)
        late = memory["late"]
        whole = self.search.step if norm.fill is None else 1.0  # of a step: relative to the radius, or of the way
        share = _eased(whole, whole * _LAST_STEP, memory["fall"])
        if not all_arrived:
            late, share = late & state.best_reached, torch.where(state.best_reached, share, whole)
            # A row that pushes all classes at once may never get there: it is hurried on to the nearest one.
            memory["hurry"] = torch.where(state.best_reached, torch.ones_like(share), _HURRY ** (k + 1))
        clock = (memory["clock"] + torch.where(late, memory["fast"], memory["slow"])).clamp_max(1)
        fall = (1 + torch.cos(math.pi * clock)) / 2
        memory |= {"arrived": state.best_reached, "radius": radius, "velocity": velocity, "clock": clock, "fall": fall}
        if norm.fill is None:
            aside = per_row(share * radius, state.x) * norm.steepest(velocity)
            delta = norm.project(state.delta - aside, radius)
        else:
            room = state.walls.room(-velocity)
            corner = norm.fill(-velocity, radius, room if state.mask is None else room * state.mask)
            delta = norm.project(torch.lerp(state.delta, corner, per_row(share, state.x)), radius)
        if state.held is not None and before is not None:
            for name, value in before.items():
                if value is not memory[name]:
                    memory[name] = torch.where(per_row(state.held, value), value, memory[name])
            delta = torch.where(per_row(state.held, delta), state.delta, delta)
        self._anneal(state)
        return delta

    def _radius(self, state: SearchState, all_arrived: bool) -> Tensor:
        """[n]: the size of the next change. The ball shrinks after a success and grows after a failure."""
        memory, gamma = state.memory, _eased(*_GAMMA, state.memory["fall"])
        grown = memory["radius"] * (1 + gamma)
        if not all_arrived:
            # Not there yet: as far as the linearised boundary, and a tenth further where that is no way at all.
            slope = state.norm.dual(state.gradient).clamp_min(torch.finfo(state.x.dtype).tiny)
            outward = state.size + torch.maximum(state.loss / slope, 0.1 * state.size)
            grown = torch.where(state.best_reached, grown, outward)
        shrunk = torch.minimum(memory["radius"], state.best_size) * (1 - gamma)
        return torch.where(state.reached, shrunk, grown).clamp_max(memory["limit"])

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor:
        memory = state.memory
        improved = state.best_size < memory["mark"] * (1 - self.search.tolerance)
        anew = improved if _all_arrived(state) else improved | ~memory["arrived"]
        since = torch.where(anew, 0.0, memory["since"] + 1)
        late, mark = since >= self.search.patience, torch.where(improved, state.best_size, memory["mark"])
        memory |= {"mark": mark, "since": since, "late": late}
        done = (state.gradients >= memory["steps"]) | (late & (memory["clock"] >= 1))
        done = done | ((memory["clock"] >= _GIVEN_UP) & (state.best_size > memory["behind"]))
        if k == 0:
            done = done | (state.best_size == 0)
        if state.asked and not _all_arrived(state):
            goes_on = ~(state.done | done)
            numbers = _fresh(state) & goes_on, ~memory["arrived"] & goes_on
            state.wanted = torch.stack([rows.sum() for rows in numbers])
        return done


def _fresh(state: SearchState) -> Tensor:
    """[n] bool: rows that have reached the goal for the first time, and are not drawn in yet."""
    return state.reached & ~state.memory["arrived"] & ~state.done


def _all_arrived(state: SearchState) -> bool:
    """Whether it is known that all rows that go on have reached the goal at some time, and were drawn in."""
    return state.known is not None and state.known[1] == 0


def _cut_short(state: SearchState, rows: Tensor) -> None:
    """Draw the first successes of these rows in along their rays: a step too long costs many steps of shrinking.

    Asked in full precision, also because each batch size of a compiled network is compiled anew.
    """
    goal, x, change = with_temperature(take(state.goal, rows), 0.0), state.x[rows], state.delta[rows]
    far = torch.ones_like(state.size[rows])

    state.delta, state.size, state.queries = state.delta.clone(), state.size.clone(), state.queries.clone()

    def ask(scale: Tensor, part: Tensor, counts: Tensor) -> Aim:
        state.queries[rows[part]] += counts
        return take(goal, part)(state.classifier, x[part] + change[part] * per_row(scale, x))

    with torch.no_grad(), state.classifier.accelerated():
        above, below = state.memory["loss"][rows], state.loss[rows]
        far = crossing(ask, torch.zeros_like(far), far, above, below, _PASSES, _CLOSE)
    state.delta[rows] = change * per_row(far, x)
    state.size[rows] = state.norm.size(state.delta[rows])
    state.best, state.best_size = state.best.clone(), state.best_size.clone()
    state.best[rows], state.best_size[rows] = state.delta[rows], state.size[rows]
