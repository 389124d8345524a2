"""How far an explanation moves at random points near the input where the decision stays: what noise does to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advex.distances import Distance, IncomparableError, as_distance
from advex.measures.case import Case, DistanceOption, Measured, Need, Of, Value, measure, nothing
from advex.measures.intervals import mean_score
from advex.measures.nearby import Neighbours, neighbours_of
from advex.options import Count, NormOption, RadiusOption
from advex.types import Score


@dataclass(frozen=True, kw_only=True)
class RandomChange:
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
        return mean_score(f"map change, {of} of random", getattr(self, of), better="low", seed=seed)


def random_stability(around: Neighbours, distance: Distance | str = "relative_l2") -> RandomChange:
    """How far the map moves at random points near the input. distance: or its spec string. Raises SpecError."""
    measured = as_distance(distance)
    apart = torch.stack([measured(around.map, maps) for maps in around.maps.unbind(dim=1)], dim=1)
    points = around.kept.sum(dim=1)
    return RandomChange(
        mean=torch.where(around.kept, apart, 0.0).sum(dim=1) / points, largest=around.largest(apart), points=points
    )


@measure(
    "random_stability", cites="alvarez-melis2018; yeh2019", examples=("norm=l2,radius=0.2,samples=3,distance=spearman",)
)
class RandomStability:
    """How far the map moves at random points near the input at which the decision stays.

    norm, radius: of the ball, cut to the box. samples: points drawn from it. distance: spec of one between maps.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    samples: Count = 10
    distance: DistanceOption = "relative_l2"

    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = True
    values: ClassVar[Mapping[str, Value]] = {
        "mean": Value(title="Map change, mean of random", better="low"),
        "largest": Value(title="Map change, largest of random", better="low"),
    }

    def __call__(self, case: Case) -> Measured:
        around = neighbours_of(case, self.norm, self.radius, self.samples)
        try:
            change = random_stability(around, self.distance)
        except IncomparableError as error:
            return nothing(self, case, str(error))
        return Measured(value={"mean": change.mean, "largest": change.largest}, undefined=around.undefined)
