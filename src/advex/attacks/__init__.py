"""Searches: attack = search x goal x norm. Each is one file; all go through `search.iterate` and end in `verify`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from advex import registry
from advex.attacks.algorithm1 import Algorithm1 as Algorithm1
from advex.attacks.at_distance import AtDistance as AtDistance
from advex.attacks.closed_form import ClosedForm as ClosedForm
from advex.attacks.counterfactual import FewFeatures as FewFeatures
from advex.attacks.l2min import L2Min as L2Min
from advex.attacks.minimal import Minimal as Minimal
from advex.attacks.pgd import PGD as PGD
from advex.attacks.search import verify as verify
from advex.classifier import Classifier
from advex.goals import Goal
from advex.types import Perturbation


class Search(Protocol):
    """(classifier, x, goal) -> Perturbation. Row i of the result depends on row i of x and goal alone."""

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        goal: Goal,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Perturbation: ...


def build(spec: str) -> Search:
    """The search a spec string names, e.g. `"minimal:gradients=40"`. Raises SpecError."""
    return registry.build("attack", spec)
