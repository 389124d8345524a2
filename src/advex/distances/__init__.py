"""How different two maps of one input are. Each distance is one file."""

from __future__ import annotations

from typing import Any

from advex import registry
from advex.distances.channels import Channels, per_pixel
from advex.distances.cosine import Cosine
from advex.distances.distance import Distance, IncomparableError
from advex.distances.kendall import Kendall
from advex.distances.lens import LensKendall, LensPrecision, LensRecall, LensSpearman
from advex.distances.relative_l2 import RelativeL2
from advex.distances.spearman import Spearman
from advex.distances.top_k import TopK
from advex.errors import SpecError

__all__ = [
    "Channels",
    "Cosine",
    "Distance",
    "IncomparableError",
    "Kendall",
    "LensKendall",
    "LensPrecision",
    "LensRecall",
    "LensSpearman",
    "RelativeL2",
    "Spearman",
    "TopK",
    "as_distance",
    "per_pixel",
]


def as_distance(value: str | Distance) -> Distance:
    """A distance, or the one that a spec string names, e.g. `"top_k:k=10"`. Raises SpecError."""
    distance: Any = registry.build("distance", value) if isinstance(value, str) else value
    if not hasattr(distance, "highest"):
        raise SpecError(f"A distance must be a spec, such as 'top_k:k=10', or a distance between maps, not {value!r}.")
    return distance
