"""How far an explanation can be moved while the decision stays (Ghorbani et al. 2019; Singh et al. 2020).

A search finds more than random points do, but never certainly the most: what it finds is a lower bound, and where
random points show more, these are the bound. Where the search is blind, as where a map is constant, nothing is known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advex import attacks
from advex.attacks import Search
from advex.attacks.suite import Ball
from advex.classifier import Classifier
from advex.distances import Distance, IncomparableError, as_distance, per_pixel
from advex.errors import SpecError
from advex.geometry import as_norm, as_radius, per_row
from advex.goals import Scramble
from advex.goals.on_maps import SOFT, differentiable
from advex.goals.targets import Classes, numbers_of
from advex.inputs import check_wrapped
from advex.measures.case import (
    CONSTANT,
    Case,
    DistanceOption,
    Measured,
    Need,
    Of,
    SearchOption,
    Value,
    measure,
    nothing,
)
from advex.measures.intervals import mean_score
from advex.measures.nearby import Neighbours, neighbours, neighbours_of
from advex.networks.softening import KinkError
from advex.options import Above0, Count
from advex.types import Explainer, Score

NOT_FINITE = "the map at the input is not finite"
NO_POINT = "no point was met that keeps the decision"
BLIND = "the search was blind: the derivative of the map vanished"

NO_DERIVATIVES = "the explainer gives maps without derivatives"


@dataclass(frozen=True, kw_only=True)
class WorstChange:
    """How far the map lies from that of the input at the worst point that was met: a lower bound.

    distance: [n], the larger of `attack`, at the best point of the search, and `random`, the largest at random points
    of its ball; both [n], NaN where no point kept the decision. NaN too where `undefined` gives a reason [n] bool.
    by_attack: [n] bool, the search met the worst point. delta: [n, *shape], the change that leads there. map: like
    delta, the map there (that of the input where no point was met). reached: [n] bool, the search kept the decision.
    flat: [n] bool, the derivative of the map vanished on all its way. gradients: [n] int64, those that it spent.
    """

    distance: Tensor
    attack: Tensor
    random: Tensor
    by_attack: Tensor
    delta: Tensor
    map: Tensor
    reached: Tensor
    flat: Tensor
    gradients: Tensor
    undefined: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.distance)

    def score(self, *, seed: int = 0) -> Score:
        """The mean over examples with its bootstrap interval; undefined examples are left out and counted."""
        return mean_score("map change, worst found", self.distance, better="low", seed=seed)


def worst_case_stability(
    explainer: Explainer | str,
    classifier: Classifier,
    x: Tensor,
    target: Classes,
    *,
    search: Search | str = "pgd",
    distance: Distance | str = "relative_l2",
    soften: float | None = SOFT,
    restarts: int = 1,
    samples: int = 5,
    points: int | None = 10,
    climb: Explainer | str | None = None,
    map: Tensor | None = None,
    seed: int = 0,
    max_batch: int | str | None = None,
) -> WorstChange:
    """How far the map of each input [n, *shape] can be moved while the decision stays.

    explainer, search, distance, climb: or their spec strings. target: [n], the classes explained, by number or name.
    search: it must leave the input without a slope to follow, as PGD and AtDistance do: there the distance has its
    least value. distance: it measures search and random points alike. soften: the beta of the softened network whose
    map the search climbs, or None; what is measured, and the decision, are the network's own. restarts: of the search,
    with other seeds; the worst counts. samples: random points of the search's ball. points: of the path that is
    climbed, of explainers that walk along one; what is measured has all of its own. climb: whose maps are climbed in
    the place of these. map: that of x, where it is known already. max_batch: inputs at a time.
    Raises SpecError for an explainer whose maps cannot be differentiated, InputError for inputs that are refused and
    for activations that cannot be softened.
    """
    check_wrapped(classifier, "worst_case_stability")
    target = numbers_of(target, classifier, x, "worst_case_stability")
    explain, ball = differentiable(explainer), ball_of(attacks.as_search(search))
    around = neighbours(
        explain, classifier, x, target, norm=ball.norm, radius=ball.radius, samples=samples, map=map, seed=seed,
        max_batch=max_batch,
    )  # fmt: skip
    return worst_around(
        around, explain, classifier, target, search=search, distance=distance, soften=soften, restarts=restarts,
        climb=shortened(explain, points) if climb is None else climb, seed=seed, max_batch=max_batch,
    )  # fmt: skip


def worst_around(
    around: Neighbours,
    explainer: Explainer,
    classifier: Classifier,
    target: Tensor,
    *,
    search: Search | str,
    distance: Distance | str,
    soften: float | None,
    restarts: int,
    climb: Explainer | str,
    seed: int,
    max_batch: int | str | None,
) -> WorstChange:
    """The same where the random points and their maps are known already. Raises as `worst_case_stability` does."""
    if not has_derivatives(explainer):
        raise SpecError(
            f"{type(explainer).__name__} gives maps without derivatives, which cannot be attacked: measure "
            "its random stability, or use an explainer with `differentiable` true."
        )
    if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 1:
        raise SpecError(f"restarts must be a whole number of at least 1, not {restarts!r}.")
    apart = as_distance(distance)
    goal = Scramble(
        explainer=climb, reference=around.map, target=target, decision=around.logits.argmax(dim=1), distance=apart,
        soften=soften, seed=seed,
    )  # fmt: skip
    attack = torch.full_like(around.x.flatten(1)[:, 0], math.nan)
    delta, gradients, worst_map = torch.zeros_like(around.x), torch.zeros_like(target), around.map.detach()
    reached, flat = torch.zeros_like(target, dtype=torch.bool), torch.ones_like(target, dtype=torch.bool)
    for k in range(restarts):
        run = attacks.as_search(search)(classifier, around.x, goal, seed=seed + k, max_batch=max_batch)
        maps = explainer(classifier, run.adversarial, target, seed=seed, max_batch=max_batch).map.detach()
        moved = torch.where(run.reached, apart(around.map, maps).to(attack), math.nan)
        better = (moved > attack) | attack.isnan()
        better &= run.reached
        attack, delta = torch.where(better, moved, attack), torch.where(per_row(better, delta), run.delta, delta)
        worst_map = torch.where(per_row(better, delta), maps, worst_map)
        reached, flat, gradients = reached | run.reached, flat & run.flat, gradients + run.gradients

    shown = torch.stack([apart(around.map, maps) for maps in around.maps.unbind(dim=1)], dim=1).to(attack)
    shown = torch.where(around.kept & ~shown.isnan(), shown, -math.inf)
    random, at_random = shown.max(dim=1)
    random = torch.where(random.isneginf(), math.nan, random)
    row = torch.arange(len(attack), device=attack.device)
    drawn, drawn_map = around.near[row, at_random] - around.x, around.maps[row, at_random]
    by_attack = (attack >= random) | random.isnan()
    blind = flat & ~(attack >= apart.highest)  # where nothing is left to find, there is no slope either
    undefined = _undefined(around.map, apart, blind, attack.isnan() & random.isnan())
    refused = torch.stack(list(undefined.values())).any(dim=0)
    return WorstChange(
        distance=torch.where(refused, math.nan, torch.where(by_attack, attack, random)),
        attack=attack,
        random=random,
        by_attack=by_attack,
        delta=torch.where(per_row(by_attack, delta), delta, drawn),
        map=torch.where(per_row(by_attack, delta), worst_map, drawn_map),
        reached=reached,
        flat=flat,
        gradients=gradients,
        undefined=undefined,
    )


def _undefined(maps: Tensor, distance: Distance, blind: Tensor, no_point: Tensor) -> dict[str, Tensor]:
    """Why a row [n] bool has no value; the first reason counts."""
    values = per_pixel(maps, getattr(distance, "channels", "none")).flatten(1)
    constant = (values == values[:, :1]).all(dim=1) | ~(distance(maps, maps) == 0)
    reasons = {NOT_FINITE: ~values.isfinite().all(dim=1), CONSTANT: constant, BLIND: blind, NO_POINT: no_point}
    known = torch.zeros_like(blind)
    for reason, rows in reasons.items():
        reasons[reason], known = rows & ~known, known | rows
    return reasons


def shortened(explainer: Any, points: int | None) -> Any:
    """The same explainer with a path of at most so many points, if it has one (`steps`)."""
    if points is not None and points < 1:
        raise SpecError(f"points must be at least 1, not {points}.")
    steps = getattr(explainer, "steps", None)
    if points is None or steps is None or steps <= points or not dataclasses.is_dataclass(explainer):
        return explainer
    return dataclasses.replace(explainer, steps=points)  # pyright: ignore[reportArgumentType]


def ball_of(search: Search) -> Ball:
    """Where a search looks: its norm and radius. Raises SpecError for one that says no radius, or one of 0."""
    radius = getattr(search, "radius", getattr(search, "rho", None))
    if radius is None:
        raise SpecError(
            f"A worst case needs a search within a distance, but {type(search).__name__} has no `radius` or "
            "`rho`: use pgd or apgd, for example."
        )
    if not as_radius(radius) > 0:
        raise SpecError(f"The radius of a worst case must be above 0, not {radius}.")
    return Ball(norm=as_norm(getattr(search, "norm", "rmse")), radius=as_radius(radius))


def has_derivatives(explainer: Explainer) -> bool:
    """Whether an explainer's maps can be differentiated, so that a search can follow them."""
    return getattr(explainer, "differentiable", False)


@measure(
    "worst_case",
    cites="ghorbani2019",
    examples=(
        "search=(pgd:norm=l2,radius=0.2,steps=10),distance=(top_k:k=10)",
        "search=(pgd:steps=5),soften=null,restarts=2,points=null",
        "search=(pgd:steps=5),distance=cosine,climb=(integrated_gradients:steps=3,rule=right)",
    ),
)
class WorstCase:
    """How far the map moves at the worst point found near the input that keeps the decision: a lower bound.

    Beside it: what the search found, the largest at random points of its ball, and whether the worst is the search's.

    search: spec of an attack; its norm and radius are the neighbourhood. distance: spec of one between maps. soften:
    the beta of the softened network that the search climbs; null: the network itself. restarts: of the search.
    samples: random points. points: of the path that is climbed, of explainers with more; null: all of them. climb:
    spec of an explainer whose maps are climbed in the place of those that are measured; null: these.
    """

    search: SearchOption = "pgd"
    distance: DistanceOption = "relative_l2"
    soften: Above0 | None = SOFT
    restarts: Count = 1
    samples: Count = 5
    points: Count | None = 10
    climb: str | None = None

    def __post_init__(self) -> None:
        ball_of(attacks.as_search(self.search))
        if self.climb is not None:
            differentiable(self.climb)

    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Map change, worst found", better="low"),
        "attack": Value(title="Map change, by the search", better="low"),
        "random": Value(title="Map change, largest of random points", better="low"),
        "by_attack": Value(title="The search found the worst", better="neither"),
    }

    def __call__(self, case: Case) -> Measured:
        if not has_derivatives(case.explainer):
            return nothing(self, case, NO_DERIVATIVES)
        ball, maps = ball_of(attacks.as_search(self.search)), case.explanation.map.detach()
        try:
            as_distance(self.distance)(maps, maps)  # may be none for maps of this shape
            worst = worst_around(
                neighbours_of(case, ball.norm, ball.radius, self.samples),
                case.explainer, case.classifier, case.explanation.target,
                search=self.search, distance=self.distance, soften=self.soften, restarts=self.restarts,
                climb=self.climb or shortened(case.explainer, self.points), seed=case.seed, max_batch=case.max_batch,
            )  # fmt: skip
        except (KinkError, IncomparableError) as error:
            return nothing(self, case, str(error))
        figures = {"attack": worst.attack, "random": worst.random, "by_attack": worst.by_attack.to(worst.distance)}
        moved = case.x + worst.delta, worst.map
        return Measured(value={"": worst.distance, **figures}, undefined=worst.undefined, moved=moved)
