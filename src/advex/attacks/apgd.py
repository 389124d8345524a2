"""Auto-PGD (Croce and Hein 2020): projected gradient descent that finds its step length itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from advex import randomness
from advex.attacks.attack import Search, attack
from advex.attacks.search import Run, SearchResult, SearchState, deepest, finished_when_reached, in_turn, iterate
from advex.classifier import Classifier
from advex.geometry import as_norm, as_radius, per_row
from advex.goals import Aim, Goal, Misclassify, advantage, with_temperature
from advex.goals.goal import own_and_others
from advex.logits import answered
from advex.options import Count, NormOption, RadiusOption, Share


@attack(
    "apgd",
    cites="croce2020 Alg. 1, Eq. 6 and 7",
    examples=("norm=l2,radius=0.5,loss=dlr,restarts=2", "radius=0.1,loss=targeted_dlr,targets=2", "norm=l1,radius=2"),
)
class APGD(Search):
    """The change within a fixed distance that reaches the goal, with automatic step sizes (Auto-PGD).

    Steps begin at twice the radius. At checkpoints that come ever closer a row goes back to its best change and halves
    its step, unless enough of the steps since the last checkpoint have lowered the loss. A row that has reached the
    goal is finished.

    norm: l1 (for which one step changes one element), l2, linf or rmse. radius: in that norm, as a share of the box's
    width. steps: gradients per start. loss: of `Misclassify`; other goals keep theirs. cross_entropy; dlr, the margin
    as a share of the distance from the highest logit to the third, which neither scale nor shift of the logits alters;
    targeted_dlr, the same towards each of the `targets` likeliest wrong classes in turn. restarts: starts at random
    points of the ball, for rows that still stand. momentum: share of the new step. share: of the steps between two
    checkpoints that must have helped. draws: answers of which the mean is attacked, where they vary.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    steps: Count = 100
    loss: Literal["cross_entropy", "dlr", "targeted_dlr"] = "cross_entropy"
    targets: Count = 9
    restarts: Count = 1
    draws: Count = 1
    momentum: Share = 0.75
    share: Share = 0.75

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        return in_turn(self._runs(classifier, x, goal, seed), x, goal, mask)

    def _runs(self, classifier: Classifier, x: Tensor, goal: Goal, seed: int) -> Iterator[Run]:
        """Every start of every loss."""
        targets: list[Tensor | None] = [None]
        if isinstance(goal, Misclassify) and self.loss == "targeted_dlr":
            with torch.no_grad():
                _, wrong = own_and_others(classifier.logits(x), goal.y)
            targets = list(wrong.argsort(dim=1, descending=True)[:, :-1].T[: self.targets])
        for restart in range(self.restarts):
            for number, target in enumerate(targets):
                draw = randomness.draw(seed, restart * len(targets) + number)
                yield partial(self._descend, classifier, target, draw)

    def _descend(
        self, classifier: Classifier, target: Tensor | None, draw: int, x: Tensor, goal: Goal, mask: Tensor | None,
        rows: Tensor,
    ) -> SearchResult:  # fmt: skip
        if self.loss == "cross_entropy":  # its gradient has the direction of the log-odds', which does not saturate
            goal = with_temperature(goal, 1.0)
        elif isinstance(goal, Misclassify):
            goal = _LogitRatio(goal.y, None if target is None else target[rows])
        start = classifier.norm(self.norm).sample(x, as_radius(self.radius), draw)
        start = classifier.box.confine(x, start if mask is None else start * mask)
        norm = as_norm(self.norm)
        return iterate(_Halving(self), classifier, x, goal, norm=norm, steps=self.steps, mask=mask, start=start)


@dataclass(frozen=True)
class _LogitRatio:
    """The decision is not y: (z_y - z_t) / (z_pi1 - z_pi3), the logits ordered by pi.

    target: [n], t; then the divisor ends between the third and the fourth logit, for t itself may be one of the first
    three. None: t is the highest other than y. Of two classes there is no third: the divisor is 1.
    """

    y: Tensor
    target: Tensor | None

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        logits = classifier.logits(x)
        own, others = own_and_others(logits, self.y)
        rival = others.amax(dim=1) if self.target is None else logits.gather(1, self.target[:, None])[:, 0]
        loss = own - rival
        if logits.shape[1] > 2:
            ordered = logits.sort(dim=1, descending=True).values
            lowest = ordered[:, 2] if self.target is None else ordered[:, 2:4].mean(dim=1)
            scale = ordered[:, 0] - lowest
            loss = loss / torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)
        return Aim(loss=loss, reached=(advantage(logits, self.y).detach() < 0) | ~answered(logits))


@dataclass(frozen=True)
class _Halving:
    search: APGD

    @cached_property
    def checkpoints(self) -> dict[int, int]:
        """After how many steps the step length is looked at, and how many steps before it was last looked at."""
        steps, first, second = [0], 0, 22  # in hundredths of the steps
        while second <= 100:
            steps.append(math.ceil(second * self.search.steps / 100))
            first, second = second, second + max(second - first - 3, 6)
        return {at: at - before for before, at in zip(steps, steps[1:], strict=False) if at > before}

    def start(self, state: SearchState) -> None:
        zero, nowhere = torch.zeros_like(state.best_rank), torch.full_like(state.best_rank, math.inf)
        state.memory = {
            "length": torch.full_like(zero, 2 * as_radius(self.search.radius)),
            "before": state.delta,  # the change before the present one, and its loss
            "loss": nowhere,
            "helped": zero,  # steps that lowered the loss since the last checkpoint
            "mark": nowhere,  # the lowest loss at the last checkpoint
            "halved": zero.bool(),  # whether the step was halved there
            "gradient": torch.zeros_like(state.x),  # at the best change
        }

    def step(self, state: SearchState, k: int) -> Tensor:
        memory, here, gradient = dict(state.memory), state.delta, state.free_gradient
        best = (here == state.best).flatten(1).all(dim=1)
        memory["gradient"] = torch.where(per_row(best, here), gradient, memory["gradient"])
        memory["helped"] = memory["helped"] + (state.loss < memory["loss"]) if k else memory["helped"]
        if k == 0:
            memory["mark"] = state.best_rank
        elif k in self.checkpoints:
            stuck = memory["helped"] < self.search.share * self.checkpoints[k]
            stuck = stuck | (~memory["halved"] & (state.best_rank >= memory["mark"]))
            here = torch.where(per_row(stuck, here), state.best, here)
            gradient = torch.where(per_row(stuck, here), memory["gradient"], gradient)
            memory["length"] = torch.where(stuck, memory["length"] / 2, memory["length"])
            memory |= {"mark": state.best_rank, "halved": stuck, "helped": torch.zeros_like(memory["helped"])}
        z = self._inside(state, here - per_row(memory["length"], here) * state.norm.steepest(gradient))
        momentum = self.search.momentum if k else 1.0
        state.memory = memory | {"before": here, "loss": state.loss}
        return self._inside(state, here + momentum * (z - here) + (1 - momentum) * (here - memory["before"]))

    def _inside(self, state: SearchState, delta: Tensor) -> Tensor:
        return state.confine(state.norm.project(delta, as_radius(self.search.radius)))

    def better(self, state: SearchState) -> Tensor:
        return deepest(state)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return finished_when_reached(state)
