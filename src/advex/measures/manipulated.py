"""How near to a map of somebody's choice a map can be brought while the decision stays (Dombrowski et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from advex import attacks, registry
from advex.distances import IncomparableError, as_distance, per_pixel
from advex.geometry import per_row
from advex.goals import TowardMap
from advex.goals.on_maps import SOFT
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
from advex.measures.ifia import PUBLISHED_SEARCH
from advex.measures.worst_change import BLIND, NO_DERIVATIVES, has_derivatives, shortened
from advex.networks.softening import KinkError
from advex.options import Above0, Count


@measure(
    "manipulated",
    cites="dombrowski2019; singh2020 Fig. 10",
    examples=("search=(pgd:steps=3),wanted=edge,distance=relative_l2,soften=null,points=null",),
)
class Manipulated:
    """How far the map stays from a wanted one under an attack that keeps the decision: an upper bound.

    Beside it: how far it was `before`, and how far it `moved` from where it was, by the same distance.

    search: spec of an attack. wanted: spec of an explainer whose map of the input is the wanted one; those that look at
    no model, such as `centre`, say nothing of it. distance: spec of one between maps; `cosine` asks for the same places
    whatever the size. soften, points: see `worst_case`.
    """

    search: SearchOption = PUBLISHED_SEARCH
    wanted: str = "centre"
    distance: DistanceOption = "cosine"
    soften: Above0 | None = SOFT
    points: Count | None = 10

    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = False
    moves: ClassVar[bool] = True
    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Distance from the wanted map, smallest found", better="high"),
        "before": Value(title="Distance from the wanted map", better="neither"),
        "moved": Value(title="Map change on the way to the wanted one", better="low"),
    }

    def __post_init__(self) -> None:
        registry.build("explainer", self.wanted)

    def __call__(self, case: Case) -> Measured:
        if not has_derivatives(case.explainer):
            return nothing(self, case, NO_DERIVATIVES)
        apart, target, maps = as_distance(self.distance), case.explanation.target, case.explanation.map.detach()
        explain = registry.build("explainer", self.wanted)
        wanted = explain(case.classifier, case.x, target, seed=case.seed, max_batch=case.max_batch).map.detach()
        try:
            goal = TowardMap(
                explainer=shortened(case.explainer, self.points), target=target,
                decision=case.confidences.argmax(dim=1), wanted=wanted.to(maps), logits=case.confidences,
                distance=apart, soften=self.soften, seed=case.seed,
            )  # fmt: skip
            before = apart(goal.wanted, maps)  # may be none for maps of this shape
            search = attacks.as_search(self.search)
            run = search(case.classifier, case.x, goal, seed=case.seed, max_batch=case.max_batch)
        except (KinkError, IncomparableError) as error:
            return nothing(self, case, str(error))
        changed = case.explain(run.adversarial)
        nearest = apart(goal.wanted, changed)
        nearer = run.reached & (nearest < before)
        moved = tuple(
            torch.where(per_row(nearer, at), after, at) for at, after in ((case.x, run.adversarial), (maps, changed))
        )
        pixels = per_pixel(maps, getattr(apart, "channels", "none")).flatten(1)
        constant = (pixels == pixels[:, :1]).all(dim=1)
        return Measured(
            value={
                "": torch.where(nearer, nearest, before), "before": before, "moved": apart(maps, moved[1]),
            },
            undefined={CONSTANT: constant, BLIND: run.flat & ~constant},
            moved=(moved[0], moved[1]),
            wanted=wanted,
        )  # fmt: skip
