"""How different two maps of one input are. Each distance is one file."""

from __future__ import annotations

from advex import registry
from advex.distances.channels import Channels as Channels
from advex.distances.channels import per_pixel as per_pixel
from advex.distances.cosine import Cosine as Cosine
from advex.distances.distance import Distance as Distance
from advex.distances.distance import IncomparableError as IncomparableError
from advex.distances.kendall import Kendall as Kendall
from advex.distances.lens import LensKendall as LensKendall
from advex.distances.lens import LensPrecision as LensPrecision
from advex.distances.lens import LensRecall as LensRecall
from advex.distances.lens import LensSpearman as LensSpearman
from advex.distances.relative_l2 import RelativeL2 as RelativeL2
from advex.distances.spearman import Spearman as Spearman
from advex.distances.top_k import TopK as TopK


def as_distance(value: str | Distance) -> Distance:
    """A distance, or the one that a spec string names, e.g. `"top_k:k=10"`. Raises SpecError."""
    return registry.build("distance", value) if isinstance(value, str) else value
