"""How far an explanation moves when its input moves a little and the decision stays: at random, and at worst.

Both ends are needed. Random changes say what noise does. A search says what is possible (Ghorbani et al. 2019); it
finds more, but never certainly the most, and it is blind where a map is constant: the gradient of a ReLU network's
logit is, piece by piece. Such rows are marked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advex import randomness
from advex.attacks import PGD, Search
from advex.classifier import Classifier
from advex.distances import Distance, RelativeL2
from advex.errors import SpecError
from advex.explainers import Explainer
from advex.geometry import Norm, as_norm, as_radius
from advex.goals import Scramble
from advex.measures.intervals import bootstrap_mean
from advex.types import Score


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What a classifier and an explainer say of inputs, and of m points near each.

    x, map: [n, *shape]. logits: [n, classes]. near, maps: [n, m, *shape]. near_logits: [n, m, classes].
    """

    x: Tensor
    map: Tensor
    logits: Tensor
    near: Tensor
    maps: Tensor
    near_logits: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def kept(self) -> Tensor:
        """[n, m] bool: the decision there is that at the input."""
        return self.near_logits.argmax(dim=2) == self.logits.argmax(dim=1, keepdim=True)


def neighbours(
    explainer: Explainer,
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    norm: Norm | str = "linf",
    radius: float | str = "8/255",
    samples: int = 10,
    seed: int = 0,
    max_batch: int | str | None = None,
) -> Neighbours:
    """Explain inputs [n, *shape] and `samples` points drawn uniformly from the ball around each, cut to the box.

    Rows of tables are moved on to the nearest valid ones. The maps are the dear part; every measure of `Neighbours`
    shares them. A row's points follow from (seed, the row) alone. All maps are of `target` [n], as the user would
    ask. max_batch: as the explainer takes it.
    Raises SpecError for a norm, radius or number of samples that cannot be, InputError for inputs that the
    classifier refuses.
    """
    norm, radius = as_norm(norm), as_radius(radius)
    if samples < 1:
        raise SpecError(f"Stability is measured at 1 point or more near each input, not {samples}.")
    classifier.check(x)
    x = x.detach()
    draws = [norm.sample(x, radius, randomness.draw(seed, k)) for k in range(samples)]
    near = [x + classifier.box.confine(x, draw) for draw in draws]
    if (features := classifier.features) is not None:
        near = [features.nearest(points, x) for points in near]

    def explain(points: Tensor) -> Tensor:
        return explainer(classifier, points, target, seed=seed, max_batch=max_batch).map.detach()

    return Neighbours(
        x=x,
        map=explain(x),
        logits=_logits(classifier, x),
        near=torch.stack(near, dim=1),
        maps=torch.stack([explain(points) for points in near], dim=1),
        near_logits=torch.stack([_logits(classifier, points) for points in near], dim=1),
    )


@torch.no_grad()
def _logits(classifier: Classifier, x: Tensor, max_batch: int = 512) -> Tensor:
    with classifier.frozen():
        return torch.cat([classifier(part) for part in x.split(max_batch)])


@dataclass(frozen=True, kw_only=True)
class RandomStability:
    """How far maps lie from that of the input at random points near it that keep the decision.

    mean, largest: [n] over those points, NaN where there are none. points: [n] int64, how many there are.
    """

    mean: Tensor
    largest: Tensor
    points: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def score(self, of: Literal["mean", "largest"] = "mean", *, seed: int = 0) -> Score:
        """The mean over examples with its bootstrap interval; undefined examples are left out and counted."""
        return _score(f"map change, {of} of random", getattr(self, of), seed)


def random_stability(around: Neighbours, distance: Distance | None = None) -> RandomStability:
    """How far the map moves at random points near the input. distance: `RelativeL2()` unless given."""
    far = distance or RelativeL2()
    apart = torch.stack([far(around.map, maps) for maps in around.maps.unbind(dim=1)], dim=1)
    kept = around.kept
    return RandomStability(
        mean=torch.where(kept, apart, 0.0).sum(dim=1) / kept.sum(dim=1),
        largest=largest_kept(apart, kept),
        points=kept.sum(dim=1),
    )


def largest_kept(values: Tensor, kept: Tensor) -> Tensor:
    """The largest of values [n, m] where kept [n, m]: [n], NaN where nothing is kept."""
    return torch.where(kept.any(dim=1), torch.where(kept, values, -math.inf).amax(dim=1), math.nan)


@dataclass(frozen=True, kw_only=True)
class WorstCaseStability:
    """How far the map lies from that of the input at the worst point that a search found: a lower bound.

    distance: [n], NaN where the search found no point that keeps the decision, or there is nothing to compare.
    delta: [n, *shape], the change of the input that does it. flat: [n] bool, the map's own gradient vanished on the
    way: the search was blind there, and a small distance says little. gradients: [n] int64, those it spent.
    """

    distance: Tensor
    delta: Tensor
    flat: Tensor
    gradients: Tensor

    def __len__(self) -> int:
        return len(self.distance)

    def score(self, *, seed: int = 0) -> Score:
        """The mean over examples with its bootstrap interval; undefined examples are left out and counted."""
        return _score("map change, worst found", self.distance, seed)


def worst_case_stability(
    explainer: Explainer,
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    search: Search | None = None,
    distance: Distance | None = None,
    seed: int = 0,
    max_batch: int | str | None = None,
) -> WorstCaseStability:
    """How far a search can move the map of each input [n, *shape] while the decision stays.

    search: `PGD()` unless given. It must find its way from the input without a slope, as PGD and AtDistance do: there
    the distance has its least value. distance: `RelativeL2()` unless given. max_batch: inputs at a time, for the
    search.
    Raises SpecError for an explainer whose maps cannot be differentiated, InputError for inputs that are refused.
    """
    far = distance or RelativeL2()
    classifier.check(x)
    goal = Scramble(
        explainer=explainer,
        reference=explainer(classifier, x, target, seed=seed).map.detach(),
        target=target,
        decision=_logits(classifier, x).argmax(dim=1),
        distance=far,
        seed=seed,
    )
    found = (search or PGD())(classifier, x, goal, seed=seed, max_batch=max_batch)
    there = explainer(classifier, found.adversarial, target, seed=seed).map.detach()
    return WorstCaseStability(
        distance=torch.where(found.reached, far(goal.reference, there), math.nan),
        delta=found.delta,
        flat=found.flat,
        gradients=found.gradients,
    )


def _score(name: str, values: Tensor, seed: int) -> Score:
    values = values.detach().cpu().double()
    value, low, high = bootstrap_mean(values, seed=seed)
    failures = int(values.isnan().sum())
    n = len(values) - failures
    return Score(name=name, values=values, value=value, low=low, high=high, n=n, better="low", failures=failures)
