"""The smallest change that reaches a goal, in few gradients: the default search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, iterate, smallest
from advex.attacks.smallest_row import smallest_rows
from advex.classifier import Classifier
from advex.geometry import RMSE, per_row
from advex.goals import Goal, with_temperature, without_class
from advex.options import Above0, AtLeast0, Count, ShareBelow1

# A leg: the ball shrinks (grows) by this share after a success (failure), from first to last step.
_GAMMA = (0.05, 0.001)
_LAST_STEP = 0.01
# The bisection at the end: from this share of the change (or the last factor that failed) to it, to 0.05 % of it.
_NEAREST, _HALVINGS, _LONGER = 0.9, 8, (1.02, 1.06, 1.15, 1.4)
_HURRY = 0.85
_SHORTEST_LEG = 25


@attack(
    "minimal",
    cites="pintor2021 (fast minimum norm); rony2019 (decoupled direction and norm)",
    promises="smallest",
    examples=("gradients=40",),
)
class Minimal(Search):
    """The smallest change, in RMSE, that reaches the goal.

    Two legs, each a fast-minimum-norm search: a step along the averaged, normalised gradient, relative to
    the present radius, then back into a ball that shrinks after each success and grows after each
    failure. Three things make few gradients enough:

    - the loss is annealed from nearly cross-entropy (all wrong classes count) to the margin (only the
      nearest does), with a temperature in units of the row's own spread of logits, so that networks of
      low and of high confidence are treated alike;
    - the second leg starts anew and avoids the class that the first arrived at: most local minima are
      a matter of the class;
    - at the end the change is drawn in along its ray by bisection, in forward passes alone. Of a table it is then made
      a valid row, beside one that a search by columns finds: see `smallest_rows`.

    gradients: at most that many gradient evaluations per example; rows that have converged stop
    earlier. second: share of them for the second leg; there is none where that makes fewer than 25
    (then all gradients serve the first leg better). momentum: of the gradient's average. step: first step, relative
    to the radius; it falls to a hundredth as a cosine. At 4 nearly all of the next change is the averaged
    gradient and little the present change: that turns fast and leaves poor minima. temperature: first
    temperature, relative to the spread. patience: a row stops once that many steps have not made its
    change `tolerance` smaller.
    """

    gradients: Count = 100
    second: ShareBelow1 = 0.4
    momentum: ShareBelow1 = 0.4
    step: Above0 = 4.0
    temperature: AtLeast0 = 0.4
    patience: Count = 10
    tolerance: AtLeast0 = 1e-3

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        with torch.no_grad():
            logits = classifier.logits(x)
        spread = _spread(logits)
        start = logits.argmax(dim=1)
        second = round(self.second * self.gradients)
        if second < _SHORTEST_LEG or logits.shape[1] < 3 or without_class(goal, start) is None:
            second = 0

        def leg(goal: Goal, steps: int) -> SearchResult:
            return iterate(_Leg(self, steps, spread), classifier, x, goal, norm=RMSE, steps=steps, mask=mask)

        result = leg(goal, self.gradients - second)
        if second:
            with torch.no_grad():
                changed = classifier.logits(x + result.delta)
            # The class arrived at; for rows that arrived nowhere, the least likely one: no loss.
            arrived = changed.scatter(1, start[:, None], -math.inf).argmax(dim=1)
            avoided = torch.where(torch.isfinite(result.size), arrived, logits.argmin(dim=1))
            result = _shorter(result, leg(without_class(goal, avoided) or goal, second))
        result = _to_the_boundary(classifier, x, goal, result)
        return result if classifier.features is None else smallest_rows(classifier, x, goal, mask, result)


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


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def _shorter(first: SearchResult, second: SearchResult) -> SearchResult:
    nearer = second.size < first.size
    return SearchResult(
        delta=torch.where(per_row(nearer, first.delta), second.delta, first.delta),
        size=torch.where(nearer, second.size, first.size),
        gradients=first.gradients + second.gradients,
        queries=first.queries + second.queries,
        flat=first.flat | second.flat,
    )


def _to_the_boundary(classifier: Classifier, x: Tensor, goal: Goal, result: SearchResult) -> SearchResult:
    """Draw each change in (or, after a search in low precision, out) along its ray to where the goal just holds."""

    def along(scale: Tensor) -> Tensor:
        return classifier.box.confine(x, result.delta * per_row(scale, x))

    far = torch.ones_like(result.size)
    near, lost, queries = far * _NEAREST, far > 0, result.queries + _HALVINGS
    with torch.no_grad(), classifier.accelerated():

        def holds(scale: Tensor) -> Tensor:
            return goal(classifier, x + along(scale)).reached

        for factor in _LONGER:
            queries = queries + lost  # rows that hold are evaluated again only beside others, which does not count
            lost = torch.isfinite(result.size) & ~holds(far)
            if not lost.any():
                break
            near, far = torch.where(lost, far, near), torch.where(lost, factor, far)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            inside = holds(middle)
            near, far = torch.where(inside, near, middle), torch.where(inside, middle, far)
    delta = along(far)
    size = torch.where(torch.isfinite(result.size), classifier.norm(RMSE).size(delta), math.inf)
    return replace(result, delta=delta, size=size, queries=queries)


@dataclass(frozen=True)
class _Leg:
    search: Minimal
    steps: int
    spread: Tensor

    def start(self, state: SearchState) -> None:
        farthest = state.classifier.box.farthest(state.x)
        state.memory = {
            "radius": torch.full_like(state.best_size, math.inf),
            "limit": state.norm.size(farthest if state.mask is None else farthest * state.mask),
            "velocity": torch.zeros_like(state.x),
            "spread": self.spread,
            "mark": state.best_size.clone(),  # best size when it last improved by more than the tolerance ...
            "since": torch.zeros_like(state.best_size),  # ... and how many steps ago that was
        }
        self._anneal(state, 0)

    def _anneal(self, state: SearchState, k: int) -> None:
        # A row that pushes all classes at once may never get there: it is hurried on to the nearest one.
        hurry = torch.where(state.best_reached, torch.ones_like(state.best_size), _HURRY**k)
        temperature = _cosine(self.search.temperature, 0, k / self.steps)
        state.goal = with_temperature(state.goal, state.memory["spread"] * temperature * hurry)

    def step(self, state: SearchState, k: int) -> Tensor:
        progress, memory, norm = k / self.steps, state.memory, state.norm
        gamma = _cosine(*_GAMMA, progress)
        # Not there yet: as far as the linearised boundary, and a tenth further where that is no way at all.
        slope = norm.size(state.gradient).clamp_min(torch.finfo(state.x.dtype).tiny)
        slope = slope * state.x[0].numel() * state.classifier.width**2
        outward = state.size + torch.maximum(state.loss / slope, 0.1 * state.size)
        radius = torch.where(
            state.reached,
            torch.minimum(memory["radius"], state.best_size) * (1 - gamma),
            torch.where(state.best_reached, memory["radius"] * (1 + gamma), outward),
        ).clamp_max(memory["limit"])
        velocity = self.search.momentum * memory["velocity"] + norm.steepest(state.free_gradient)
        state.memory = {**memory, "radius": radius, "velocity": velocity}
        self._anneal(state, k + 1)
        annealed = _cosine(self.search.step, _LAST_STEP * self.search.step, progress)
        length = radius * torch.where(state.best_reached, torch.full_like(radius, annealed), self.search.step)
        return norm.project(state.delta - per_row(length, state.x) * norm.steepest(velocity), radius)

    def better(self, state: SearchState) -> Tensor:
        return smallest(state)

    def finished(self, state: SearchState, k: int) -> Tensor:
        memory = state.memory
        improved = state.best_size < memory["mark"] * (1 - self.search.tolerance)
        since = torch.where(improved, 0.0, memory["since"] + 1)
        mark = torch.where(improved, state.best_size, memory["mark"])
        state.memory = {**memory, "mark": mark, "since": since}
        converged = state.best_reached & (since >= self.search.patience)
        return converged | (state.best_size == 0)
