"""Whether a map lies on the thing that the label names: its strongest pixel, its weight, its strongest pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import PlainValidator
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from advex.distances.channels import Channels
from advex.errors import SpecError
from advex.measures.case import Better, Case, Measured, Need, Of, Value, measure
from advex.measures.pixels import pixels

NOT_QUARTER = "its object fills a quarter of its picture or more"
NOT_SMALL = "its object fills a quarter of its picture, or there is no object of another class"
NOT_SAID = "the data do not say whether the picture has an object of another class"
NO_MASS = "no pixel of the map counts for the class"


def as_tolerance(text: str | float) -> tuple[float, float | None]:
    """Pixels, and the side of the picture that they are meant for (None: any). Raises SpecError.

    >>> as_tolerance("15@224"), as_tolerance(3)
    ((15.0, 224.0), (3.0, None))
    """
    number, at, side = str(text).partition("@")
    try:
        value, meant = float(number), float(side) if at else None
    except ValueError:
        value, meant = math.nan, None
    if not (0 <= value < math.inf) or (meant is not None and not 0 < meant < math.inf):
        raise SpecError(
            "A tolerance must be a number of pixels, such as 3, or pixels for a given side, such as 15@224, not "
            f"{text!r}."
        )
    return value, meant


Tolerance = Annotated[str | float, PlainValidator(lambda value: as_tolerance(value) and value)]


@measure(
    "pointing",
    cites="zhang2018 (the pointing game); fong2019 (TorchRay)",
    examples=("tolerance=1,channels=sum", "subset=small"),
)
class Pointing:
    """1 if the map's strongest pixel lies on the evidence or less than the tolerance away from it, else 0.

    Of several that are equally strong, the share that does; what is beside the picture in x is never pointed at.
    per_class: the mean over the classes that have examples; a hit counts the more, the fewer examples its class has.

    tolerance: in pixels; 15@224 are 15 at a (longer) side of 224, and in proportion at others. subset: small, of things
    that fill less than a quarter of their picture and have one of another class beside them; quarter: of things that
    fill less than a quarter, whatever is beside them. channels: how those of a pixel become one value.
    """

    tolerance: Tolerance = "15@224"
    subset: Literal["all", "small", "quarter"] = "all"
    channels: Channels = "max_abs"

    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Pointing game", better="high", rate=True),
        "per_class": Value(title="Pointing game, mean of the classes", better="high"),
    }
    of: ClassVar[Of] = "placed"
    needs: ClassVar[frozenset[Need]] = frozenset({"evidence"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Measured:
        values, undefined = pixels(case, self.channels)
        assert case.evidence is not None
        if case.evidence.picture is not None:
            for value, (x0, y0, x1, y1) in zip(values, case.evidence.picture.tolist(), strict=True):
                inside = torch.zeros_like(value, dtype=torch.bool)
                inside[y0 : y1 + 1, x0 : x1 + 1] = True
                value.masked_fill_(~inside, -math.inf)
        flat = values.flatten(1)
        strongest = flat == flat.amax(dim=1, keepdim=True)
        near = self._near(case.evidence_mask).to(flat.device).flatten(1)
        hits = (strongest & near).sum(dim=1) / strongest.sum(dim=1).double()
        undefined |= self._outside(case)
        lacking = ~case.located | torch.stack([*undefined.values()]).any(dim=0)
        parts = torch.stack([hits, case.y.double()], dim=1).masked_fill(lacking[:, None], math.nan)
        return replace(self.settle(parts), undefined=undefined)

    def settle(self, parts: Tensor) -> Measured:
        """parts: [n, 2], hits and classes; NaN of examples that have no value."""
        hits, labels = parts.T
        known = ~hits.isnan()
        classes, of, counts = labels[known].unique(return_inverse=True, return_counts=True)
        per_class = hits.clone()
        per_class[known] *= known.sum() / (len(classes) * counts[of])
        return Measured(value={"": hits, "per_class": per_class}, parts=parts)

    def resampled(self, parts: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """The means of both values, [b] each, the second over the classes that were drawn.

        counts: [b, n], how often each example was drawn.
        """
        known = ~parts[:, 0].isnan()
        (hits, labels), counts = parts[known].T, counts[:, known]
        of = (labels[:, None] == labels.unique()).to(counts)
        drawn = counts @ of
        means = ((counts * hits) @ of / drawn.clamp_min(1)).sum(dim=1) / (drawn > 0).sum(dim=1)
        return {"": counts @ hits / counts.sum(dim=1), "per_class": means}

    def _outside(self, case: Case) -> dict[str, Tensor]:
        """The examples that are not of the subset."""
        evidence, large = case.evidence, case.covered >= 1 / 4
        if self.subset == "all" or evidence is None:
            return {}
        if self.subset == "quarter":
            return {NOT_QUARTER: large}
        if evidence.distractor is None:
            return {NOT_SAID: torch.ones_like(large)}
        return {NOT_SMALL: large | ~evidence.distractor.to(large)}

    def _near(self, masks: Tensor) -> Tensor:
        """[n, height, width] bool: the evidence, and what lies nearer to it than the tolerance."""
        pixels, side = as_tolerance(self.tolerance)
        limit = pixels if side is None else pixels * max(masks.shape[1:]) / side
        near = masks.cpu().clone()
        for mask in near:
            apart: Any = distance_transform_edt(~mask.numpy())
            mask |= torch.from_numpy(apart < limit)
        return near


@measure("mass", cites="arras2022 (CLEVR-XAI, relevance mass accuracy)", examples=("channels=relu",))
class Mass:
    """The share of the map's weight that lies on the evidence. channels: how those of a pixel become one value.

    Of signed values (`sum`) what counts for the class.
    """

    channels: Channels = "max_abs"

    title: ClassVar[str] = "Relevance mass accuracy"
    better: ClassVar[Better] = "high"
    of: ClassVar[Of] = "placed"
    needs: ClassVar[frozenset[Need]] = frozenset({"evidence"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Measured:
        values, undefined = pixels(case, self.channels)
        weight = values.clamp_min(0).flatten(1)
        inside, total = (weight * case.evidence_mask.flatten(1)).sum(dim=1), weight.sum(dim=1)
        none = {NO_MASS: (total == 0) & ~torch.stack([*undefined.values()]).any(dim=0)}
        return Measured(value=inside / total, undefined=undefined | none)


@measure("rank", cites="arras2022 (CLEVR-XAI, relevance rank accuracy)", examples=("channels=sum",))
class Rank:
    """The share of the n strongest pixels that lie on the evidence, where n is the size of the evidence.

    Of pixels that are equally strong, as many as are expected. channels: how those of a pixel become one value.
    """

    channels: Channels = "max_abs"

    title: ClassVar[str] = "Relevance rank accuracy"
    better: ClassVar[Better] = "high"
    of: ClassVar[Of] = "placed"
    needs: ClassVar[frozenset[Need]] = frozenset({"evidence"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Measured:
        values, undefined = pixels(case, self.channels)
        flat, mask = values.flatten(1), case.evidence_mask.flatten(1)
        count = mask.sum(dim=1, keepdim=True)
        least = flat.sort(dim=1, descending=True).values.gather(1, (count - 1).clamp_min(0))
        sure, tied = flat > least, flat == least
        free = (count - sure.sum(dim=1, keepdim=True)).double() / tied.sum(dim=1, keepdim=True)
        hits = (sure & mask).sum(dim=1, keepdim=True) + free * (tied & mask).sum(dim=1, keepdim=True)
        return Measured(value=(hits / count)[:, 0], undefined=undefined)
