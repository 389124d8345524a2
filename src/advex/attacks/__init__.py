"""Searches: attack = search x goal x norm. Each is one file; `attack.attack` says what its class has to have."""

from __future__ import annotations

from advex import registry
from advex.attacks.algorithm1 import Algorithm1 as Algorithm1
from advex.attacks.apgd import APGD as APGD
from advex.attacks.at_distance import AtDistance as AtDistance
from advex.attacks.attack import Search as Search
from advex.attacks.attack import verify as verify
from advex.attacks.boundary_walk import BoundaryWalk as BoundaryWalk
from advex.attacks.closed_form import ClosedForm as ClosedForm
from advex.attacks.counterfactual import FewFeatures as FewFeatures
from advex.attacks.hop_skip_jump import HopSkipJump as HopSkipJump
from advex.attacks.l2min import L2Min as L2Min
from advex.attacks.minimal import Minimal as Minimal
from advex.attacks.perceptual import Perceptual as Perceptual
from advex.attacks.pgd import PGD as PGD
from advex.attacks.sigma_zero import SigmaZero as SigmaZero
from advex.attacks.spatial import Spatial as Spatial
from advex.attacks.spsa import SPSA as SPSA
from advex.attacks.square import Square as Square
from advex.attacks.suite import Suite as Suite


def build(spec: str) -> Search:
    """The search a spec string names, e.g. `"minimal:gradients=40"`. Raises SpecError."""
    return registry.build("attack", spec)


def as_search(value: str | Search) -> Search:
    """A search, or the one that a spec string names. Raises SpecError."""
    return build(value) if isinstance(value, str) else value
