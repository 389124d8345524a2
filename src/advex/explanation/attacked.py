"""How an explanation looks after the change of the picture that moves it most (`advex explain --attack-map`)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.distances import as_distance
from advex.errors import InputError, SpecError
from advex.explanation.subjects import class_name
from advex.measures.case import UNDEFINED
from advex.measures.ifia import PUBLISHED_SEARCH, published_distance
from advex.measures.worst_change import has_derivatives, worst_case_stability
from advex.types import Explainer, Explanation

ROUNDED = "the changed picture, rounded to 8 bits, gets another answer"


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Pictures of which the map is as far as the search could move it, as they are in a PNG of 8 bits.

    x, map: [n, *shape]. stays: [n], the share of the largest pixels that stay; NaN where it is not defined. at_random:
    [n], the least at some random points as near. why: [n], the reason where `stays` is not defined; else empty. says:
    [n] int64, the decision. largest: how many pixels that are.
    """

    x: Tensor
    map: Tensor
    stays: Tensor
    at_random: Tensor
    why: list[str]
    says: Tensor
    largest: int

    def plain(self, row: int, classifier: Classifier) -> dict[str, Any]:
        """Of one picture, for JSON."""
        return {
            "stays": _defined(self.stays[row]),
            "at_random": _defined(self.at_random[row]),
            "why": self.why[row],
            "largest": self.largest,
            "says": class_name(classifier, int(self.says[row])),
        }


def caption(after: Mapping[str, Any]) -> tuple[str, ...]:
    """What is written below an attacked map. after: as `Attacked.plain` has it."""
    if after["stays"] is None:
        return ("its map; not defined:", *textwrap.wrap(after["why"], 24))
    at_random = () if after["at_random"] is None else (f"({after['at_random']:.0%} at random)",)
    return ("its map", f"{after['stays']:.0%} of the {after['largest']} largest", "pixels stay", *at_random)


def _defined(value: Tensor) -> float | None:
    return None if value.isnan() else value.item()


def check(by_name: Mapping[str, Explainer]) -> None:
    """Raise SpecError for an explainer whose maps cannot be attacked."""
    for name, explainer in by_name.items():
        if not has_derivatives(explainer):
            raise SpecError(
                f"--attack-map needs maps with derivatives, which '{name}' does not have: omit one of the two."
            )


def attack(
    classifier: Classifier,
    x: Tensor,
    explanation: Explanation,
    explainer: Explainer,
    *,
    seed: int,
    max_batch: int | str,
) -> Attacked:
    """The pictures x [n, c, height, width] in the published setting of such attacks (`ifia`), with maps like theirs.

    Raises InputError for what is not a picture in [0, 1], and for networks whose activations cannot be softened.
    """
    if x.ndim != 4 or x.amin() < 0 or x.amax() > 1:
        raise InputError("--attack-map needs pictures in [0, 1].")
    distance = as_distance(published_distance(x))
    worst = worst_case_stability(
        explainer, classifier, x, explanation.target, search=PUBLISHED_SEARCH, distance=distance, map=explanation.map,
        seed=seed, max_batch=max_batch,
    )  # fmt: skip
    seen = ((x + worst.delta) * 255).round() / 255
    maps = explainer(classifier, seen, explanation.target, seed=seed, max_batch=max_batch).map.detach()
    says, before = (classifier.predict(at).argmax(dim=1) for at in (seen, x))
    stays = 1 - distance(explanation.map.detach(), maps).double()
    reasons = {**worst.undefined, ROUNDED: says != before, UNDEFINED: stays.isnan()}
    why = [next((reason for reason, rows in reasons.items() if rows[row]), "") for row in range(len(x))]
    stays = torch.where(torch.tensor([not reason for reason in why], device=stays.device), stays, torch.nan)
    return Attacked(
        x=seen, map=maps, stays=stays, at_random=1 - worst.random.double(), why=why, says=says,
        largest=distance.k,  # pyright: ignore
    )  # fmt: skip
