"""Searches: attack = search x goal x norm. Each is one file; `attack.attack` says what its class has to have."""

from __future__ import annotations

from advex import registry
from advex.attacks.algorithm1 import Algorithm1
from advex.attacks.apgd import APGD
from advex.attacks.at_distance import AtDistance
from advex.attacks.attack import Search, verify
from advex.attacks.boundary_walk import BoundaryWalk
from advex.attacks.closed_form import ClosedForm
from advex.attacks.counterfactual import FewFeatures
from advex.attacks.hop_skip_jump import HopSkipJump
from advex.attacks.l2min import L2Min
from advex.attacks.minimal import Minimal
from advex.attacks.perceptual import Perceptual
from advex.attacks.pgd import PGD
from advex.attacks.sigma_zero import SigmaZero
from advex.attacks.spatial import Spatial
from advex.attacks.spsa import SPSA
from advex.attacks.square import Square
from advex.attacks.suite import Suite
from advex.errors import SpecError

__all__ = [
    "APGD",
    "PGD",
    "SPSA",
    "Algorithm1",
    "AtDistance",
    "BoundaryWalk",
    "ClosedForm",
    "FewFeatures",
    "HopSkipJump",
    "L2Min",
    "Minimal",
    "Perceptual",
    "Search",
    "SigmaZero",
    "Spatial",
    "Square",
    "Suite",
    "as_search",
    "build",
    "verify",
]


def build(spec: str) -> Search:
    """The search a spec string names, e.g. `"minimal:gradients=40"`. Raises SpecError."""
    return registry.build("attack", spec)


def as_search(value: str | Search) -> Search:
    """A search, or the one that a spec string names. Raises SpecError."""
    search = build(value) if isinstance(value, str) else value
    if not callable(search):
        raise SpecError(f"A search must be a spec, such as 'pgd:steps=40', or an attack, not {value!r}.")
    return search
