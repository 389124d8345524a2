"""The perceptual ball: a change that takes a class away and hardly shows in what the network's layers answer."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PlainValidator
from torch import Tensor

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, in_turn, iterate
from advex.classifier import Classifier, input_gradient
from advex.errors import AdvexWarning, InputError, SpecError
from advex.geometry import RMSE
from advex.goals import Aim, Goal
from advex.inputs import per_channel
from advex.layers import hearing, warn_of_unheard
from advex.options import AtLeast0, Count
from advex.types import take

AUTO = "auto"
_WEIGHTS = (1e4, 1e3, 100.0, 10.0, 1.0)  # what `auto` tries
_ARMIJO = 1e-4  # of the fall that the slope promises, the share that a step must have
_CURVATURE = 1e-10  # pairs with s.y <= so much |y|^2 say nothing of the curvature
_SHORTER = (0.1, 0.5)  # a step that is not taken is shortened to a share between these
_LONGER = 10.0  # and after one that was taken along a way without upward curvature the next is so many times longer
_STANDS = 1e-9  # where no element of the normalised input would move farther, a row is finished (as in torch's L-BFGS)
_PUBLISHED_STEPS = 100


def _weight(value: Any) -> float | str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == AUTO or (number and math.isfinite(value) and value >= 0):
        return value
    raise SpecError(f"a weight must be 'auto' or a number of at least 0, not {value!r}.")


Weight = Annotated[float | str, PlainValidator(_weight)]
Below0 = Annotated[float, Field(lt=0)]
Scale = Literal["mean", "sum"]


@attack(
    "perceptual",
    cites="elliott2021 Eq. 5",
    examples=("layers=relu:0,perceptual=100", "scale=sum,perceptual=0.01,pixel=0.01", "perceptual=100,published=true"),
)
class Perceptual(Search):
    """The smallest of J(x') = (loss - T)^2 + lambda' sum_l |C_l(x') - C_l(x)|^2 + lambda |(x' - x) / std|^2.

    The loss is the goal's: of `Misclassify` the margin (Eq. 1), of `Suppress` the class's own output (Eq. 2). What the
    layers C_l answer is held near what it was, so that no small change can grow from layer to layer. Whether the goal
    is reached is asked in the end: with a large lambda' it seldom is.

    By L-BFGS: every row has pairs and a step of its own, all rows share each gradient. A step is taken where J falls by
    1e-4 of what the slope promises (Armijo), else shortened by quadratic interpolation; where the box is in the way,
    along the free directions. The lowest J that was seen counts.

    layers: see `layers.heard`; the network is called once by the goal. target: T, below 0. perceptual: lambda'; "auto"
    is, for each row, the largest of 1e4, 1e3, 100, 10 and 1 at which it reaches the goal (1 if at none), and costs the
    gradients of all that were tried. pixel: lambda. scale: the squares of a layer, and of the picture, count as their
    `mean`, as in the authors' code, or as their `sum`, as in Eq. 5: 1e4 is for means; of sums 0.01 is much the same as
    100 of means. gradients: per row and lambda'. memory: pairs. published: the authors' way, image by image:
    `torch.optim.LBFGS(max_iter=100)` without a line search, no box, means, its last point, whatever J it has.
    """

    layers: str = "relu:all"
    target: Below0 = -2.0
    perceptual: Weight = AUTO
    pixel: AtLeast0 = 1.0
    scale: Scale = "mean"
    gradients: Count = 50
    memory: Count = 5
    published: bool = False

    @property
    def clip(self) -> bool:
        """The authors' search knows no box."""
        return not self.published

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        weights = _WEIGHTS if isinstance(self.perceptual, str) else (float(self.perceptual),)
        chosen = x.new_full((len(x),), weights[-1])

        def run(weight: float, x: Tensor, goal: Goal, mask: Tensor | None, rows: Tensor) -> SearchResult:
            chosen[rows] = weight
            descend = _as_published if self.published else _descended
            return descend(self, weight, classifier, x, goal, mask)

        with _uncompiled(classifier):
            warn_of_unheard(classifier, x, self.layers)
            result = in_turn((partial(run, weight) for weight in weights), x, goal, mask, keep="last")
        return SearchResult(**{**vars(result), "weight": chosen})

    def value(self, weight: float, aim: Aim, answers: list[Tensor], heard: list[Tensor], change: Tensor) -> Aim:
        """J, as the loss of an aim whose truth is the goal's own.

        answers, heard: of the layers, at the changed input and at x; `heard` is empty at x, where both terms are 0.
        change: [n, *shape], (x' - x) / std.
        """
        scale = "mean" if self.published else self.scale

        def size(difference: Tensor) -> Tensor:
            flat = difference.flatten(1)
            return torch.linalg.vecdot(flat, flat) / (flat.shape[1] if scale == "mean" else 1)

        loss = (aim.loss - self.target).square() + self.pixel * size(change)
        for answer, before in zip(answers, heard, strict=True) if heard else ():
            loss = loss + weight * size(answer.to(loss.dtype) - before)
        return Aim(loss=loss, reached=aim.reached)


@contextlib.contextmanager
def _uncompiled(classifier: Classifier) -> Iterator[None]:
    """Inside, nothing is compiled: layers are heard by hooks, which a compiled network does not call."""
    if not classifier.compiled:
        yield
        return
    warnings.warn(
        "The perceptual search reads layer activations, so it runs uncompiled and in full precision.", AdvexWarning, 2
    )
    with classifier.accelerated():
        yield


def _asked(search: Perceptual, classifier: Classifier, goal: Any, x: Tensor) -> tuple[Aim, list[Tensor]]:
    """The goal's aim at x, and what the chosen layers answer on the way."""
    with hearing(classifier, search.layers) as answers:
        aim = goal(classifier, x)
    for name, answer in answers:
        if answer.ndim < 1 or len(answer) != len(x):
            raise InputError(
                f"Layer '{name}' returns shape {tuple(answer.shape)} for {len(x)} inputs; it must return one row "
                "per input."
            )
    return aim, [answer for _, answer in answers]


def _descended(
    search: Perceptual, weight: float, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None
) -> SearchResult:
    rule = _Descend(search, weight, per_channel(classifier.std, x))
    return iterate(rule, classifier, x, goal, norm=RMSE, steps=search.gradients, mask=mask)


@dataclass(frozen=True)
class _Descend:
    """L-BFGS (Nocedal and Wright 2006, Alg. 7.4) in the normalised space, where the pixel term is a sphere.

    Of each row, [n, d]: `point`, the last change that was taken, with `value` and `slope`, J and its gradient there;
    `way`, the direction from it, and `length`, the share of it that is tried next. `moved`, `turned` [n, memory, d] and
    `inverse` [n, memory]: pairs s, y and 1 / s.y (0: no pair), of which `newest` is the last.
    """

    search: Perceptual
    weight: float
    std: Tensor

    def start(self, state: SearchState) -> None:
        flat = torch.zeros_like(state.x).flatten(1)
        pairs, n = flat[:, None].repeat(1, self.search.memory, 1), len(flat)
        state.memory = {
            "point": flat, "slope": flat.clone(), "way": flat.clone(), "value": flat.new_full((n,), math.inf),
            "length": flat.new_ones(n), "moved": pairs, "turned": pairs.clone(), "inverse": pairs[..., 0].clone(),
            "newest": torch.zeros(n, dtype=torch.int64, device=flat.device),
        }  # fmt: skip

    def ask(self, state: SearchState, changed: Tensor) -> Aim:
        """J at changed inputs. The first are x itself, where the layers' answers are kept."""
        aim, answers = _asked(self.search, state.classifier, state.goal, changed)
        names = [f"layer {number}" for number in range(len(answers))]
        heard = [state.memory[name] for name in names] if "layer 0" in state.memory else []
        if not heard:
            state.memory |= {name: answer.detach().to(state.x) for name, answer in zip(names, answers, strict=True)}
        return self.search.value(self.weight, aim, answers, heard, (changed - state.x) / self.std)

    def step(self, state: SearchState, k: int) -> Tensor:
        m = state.memory
        point, slope = (state.delta / self.std).flatten(1), (state.gradient * self.std).flatten(1)
        moved = point - m["point"]
        taken = state.loss <= m["value"] + _ARMIJO * (m["slope"] * moved).sum(dim=1)
        curved = self._remember(m, taken, moved, slope - m["slope"])
        shorter = _interpolated(state.loss, m)
        at = taken[:, None]
        m |= {"point": torch.where(at, point, m["point"]), "slope": torch.where(at, slope, m["slope"])}
        m["value"] = torch.where(taken, state.loss, m["value"])
        way = self._direction(m, (state.free_gradient * self.std).flatten(1))
        way = (state.classifier.box.free(state.x, state.delta, way.view_as(state.x) * self.std) / self.std).flatten(1)
        m["way"] = torch.where(at, way, m["way"])
        longer = _LONGER * m["length"] if k else 1 / m["slope"].abs().sum(dim=1).clamp_min(1.0)
        m["length"] = torch.where(taken, torch.where(curved, 1.0, longer), shorter)
        return (m["point"] + m["length"][:, None] * m["way"]).view_as(state.x) * self.std

    def _remember(self, m: dict[str, Tensor], taken: Tensor, moved: Tensor, turned: Tensor) -> Tensor:
        """Keep the pairs of steps that were taken where J curves upwards along them: [n] bool."""
        product = (moved * turned).sum(dim=1)
        curved = taken & (product > _CURVATURE * turned.square().sum(dim=1))
        rows = curved.nonzero()[:, 0]
        m["newest"][rows] = (m["newest"][rows] + 1) % self.search.memory
        at = rows, m["newest"][rows]
        m["moved"][at], m["turned"][at], m["inverse"][at] = moved[rows], turned[rows], 1 / product[rows]
        return curved

    def _direction(self, m: dict[str, Tensor], slope: Tensor) -> Tensor:
        """Minus the inverse Hessian that the pairs tell, times the free slope [n, d]: the two loops of Alg. 7.4."""
        rows = torch.arange(len(slope), device=slope.device)
        ages = [(rows, (m["newest"] - age) % self.search.memory) for age in range(self.search.memory)]
        pairs = [(m["moved"][at], m["turned"][at], m["inverse"][at][:, None]) for at in ages]
        q, shares = slope, []
        for s, y, inverse in pairs:
            shares.append(inverse * (s * q).sum(dim=1, keepdim=True))
            q = q - shares[-1] * y
        _, y, inverse = pairs[0]
        curvature = inverse * y.square().sum(dim=1, keepdim=True)
        q = q / torch.where(curvature > 0, curvature, 1.0)
        for (s, y, inverse), share in zip(reversed(pairs), reversed(shares), strict=True):
            q = q + (share - inverse * (y * q).sum(dim=1, keepdim=True)) * s
        way = torch.where(slope == 0, 0.0, -q)
        falls = (way * slope).sum(dim=1, keepdim=True) < 0
        return torch.where(falls & way.isfinite().all(dim=1, keepdim=True), way, -slope)

    def better(self, state: SearchState) -> Tensor:
        return state.rank < state.best_rank

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        m = state.memory
        return None if k == 0 else m["length"] * m["way"].abs().amax(dim=1) < _STANDS


def _interpolated(loss: Tensor, m: dict[str, Tensor]) -> Tensor:
    """[n], where the parabola through value, slope and the loss at the step that was tried is lowest, safeguarded."""
    length, fall = m["length"], (m["slope"] * m["way"]).sum(dim=1)
    bend = 2 * (loss - m["value"] - length * fall)
    least = torch.where(bend > 0, -fall * length.square() / bend, _SHORTER[1] * length)
    return torch.minimum(torch.maximum(least, _SHORTER[0] * length), _SHORTER[1] * length)


def _as_published(
    search: Perceptual, weight: float, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None
) -> SearchResult:
    """The authors' way, image by image. A search that runs out of the numbers leaves its image unchanged."""
    result, std = SearchResult.nothing(x), per_channel(classifier.std, x)
    for i in range(len(x)):
        rows = slice(i, i + 1)
        ask = partial(_published_value, search, weight, classifier, take(goal, rows), x[rows], std, [])
        change = torch.zeros_like(x[rows])
        optimiser = torch.optim.LBFGS([change], max_iter=_PUBLISHED_STEPS)

        def closure(ask: Callable[[Tensor], Aim] = ask, change: Tensor = change, rows: slice = rows) -> float:
            gradient, aim = input_gradient(ask, x[rows] + change * std)
            change.grad = (gradient if mask is None else gradient * mask[rows]) * std
            result.gradients[rows] += 1
            result.flat[rows] |= not (change.grad.any() and change.grad.isfinite().all())
            return aim.loss.item()

        optimiser.step(closure)
        if change.isfinite().all():
            result.delta[rows] = change * std
        with torch.no_grad():
            reached = ask(x[rows] + result.delta[rows]).reached
        result.queries[rows] += 1
        result.size[rows] = torch.where(reached, classifier.norm(RMSE).size(result.delta[rows]), math.inf)
    return result


def _published_value(
    search: Perceptual, weight: float, classifier: Classifier, goal: Any, x: Tensor, std: Tensor, heard: list[Tensor],
    changed: Tensor,
) -> Aim:  # fmt: skip
    """J of one image; the first time, at x itself, its layers' answers are kept in `heard`."""
    aim, answers = _asked(search, classifier, goal, changed)
    value = search.value(weight, aim, answers, heard, (changed - x) / std)
    heard += [] if heard else [answer.detach().to(x) for answer in answers]
    return value
