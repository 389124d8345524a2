"""The attack on maps in the setting of the papers (Ghorbani et al. 2019; Singh et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from advex.errors import SpecError
from advex.explainers import IntegratedGradients
from advex.measures.case import Case, DistanceOption, Measured, SearchOption, measure, nothing
from advex.measures.worst_change import WorstCase

PUBLISHED_SEARCH = "pgd:radius=8/255,steps=50,step=1/255"
PUBLISHED_CLIMB = "integrated_gradients:steps=100,rule=right,hold_factor=true"  # of singh2020's code
NOT_INTEGRATED = "published=true attacks integrated gradients, but these are other maps"


def largest_pixels(shape: Sequence[int]) -> int:
    """How many pixels of an input of this shape IN looks at: 100; of fewer than 1,024 the same share."""
    pixels = math.prod(shape[1:] if len(shape) == 3 else shape)
    return 100 if pixels >= 1024 else max(1, 100 * pixels // 1024)


def published_distance(x: Tensor) -> str:
    """The 100 largest pixels of inputs [n, *shape]; of fewer than 1,024 the same share, as no paper has such."""
    return f"top_k:k={largest_pixels(x.shape[1:])}"


@measure("ifia", cites="ghorbani2019; singh2020 Sec. 4.1")
class PublishedWorstCase(WorstCase):
    """How many of the k = 100 largest pixels change at the worst point found: the setting of the papers.

    As `worst_case`, with 50 signed steps of 1/255 within linf 8/255. distance: null is `top_k` with k = 100; the
    papers' pictures have 1,024 pixels or more, and of smaller ones k is the same share. published: climb as the code
    of Singh et al. does, for integrated gradients alone: those of the logit at 100 right points, through the points
    alone; it judges those of the loss by `integrated_gradients:of=loss,rule=trapezoid,steps=101`. search, soften,
    restarts, samples, points, climb: see `worst_case`.
    """

    search: SearchOption = PUBLISHED_SEARCH
    distance: DistanceOption | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    published: bool = False

    def __post_init__(self) -> None:
        WorstCase.__post_init__(self)
        if self.published and self.climb is not None:
            raise SpecError("published=true already sets climb: omit climb.")

    def __call__(self, case: Case) -> Measured:
        options = {name: value for name, value in vars(self).items() if name != "published"}
        options["distance"] = published_distance(case.x) if self.distance is None else self.distance
        if self.published:
            if not isinstance(case.explainer, IntegratedGradients):
                return nothing(self, case, NOT_INTEGRATED)
            options["climb"] = PUBLISHED_CLIMB
        return WorstCase(**options)(case)
