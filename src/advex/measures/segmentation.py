"""Masks from maps: how well the strong pixels are those of the labelled thing, at one threshold and at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advex import randomness
from advex.distances.channels import Channels
from advex.measures.case import Case, Measured, Need, Of, Value, measure
from advex.measures.localisation import ALONE, halves_of
from advex.measures.pixels import Smoothing, merged, pixels, smoothed

_BEFORE = 2  # columns of the parts before the counts: a draw, and whether the answer is right


@measure(
    "segmentation",
    cites="choe2020 (PxAP); singh2020 (Top-1 Seg)",
    examples=("levels=20,channels=sum_abs", "levels=4,smooth=mean"),
)
class Segmentation:
    """The IoU of the map's strong pixels with the labelled object: its outline, else its boxes.

    The map runs from 0 to 1 in each picture; a map that is the same everywhere has no strong pixel, and an IoU of 0.
    Strong is a pixel of at least a threshold, of `levels` in equal steps from 0 on, that with the highest mean IoU on
    the other half of the examples, as of `localisation`. top1: whether the IoU is at least `iou` and the model's answer
    right (Top-1 Seg, singh2020 Sec. 5). whole_picture: of all pixels, whatever the map. pxap: average precision of all
    pixels of all pictures together, over all thresholds; each example has what it adds to that figure, so that their
    mean is the figure and their spread its interval's.

    levels: of thresholds. channels: how those of a pixel become one value. smooth: as of `localisation`. iou: see top1.
    """

    levels: Annotated[int, Field(ge=2, le=1000)] = 100
    channels: Channels = "max_abs"
    smooth: Smoothing = "none"
    iou: Annotated[float, Field(gt=0, le=1)] = 0.5

    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Segmentation IoU", better="high"),
        "top1": Value(title="Top-1 segmentation accuracy", better="neither", rate=True),
        "pxap": Value(title="Pixel average precision", better="high"),
        "whole_picture": Value(
            title="Segmentation IoU of the whole picture", better="neither", baseline="whole picture"
        ),
    }
    of: ClassVar[Of] = "placed"
    needs: ClassVar[frozenset[Need]] = frozenset({"evidence", "model"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Measured:
        maps, flawed = pixels(case, self.channels)
        level, mask = self._levels(maps, flawed), case.evidence_mask.flatten(1).double()
        counts = torch.zeros(2, len(level), self.levels, dtype=torch.float64, device=level.device)
        counts[0].scatter_add_(1, level, mask)
        counts[1].scatter_add_(1, level, torch.ones_like(mask))
        draws = randomness.uniform_for(randomness.numbers(case.x, case.seed), case.seed, "halves").double()
        right = (case.confidences.argmax(dim=1) == case.y).double()[:, None]
        parts = torch.cat([draws.to(right.device), right, *counts], dim=1)
        return self.settle(parts.masked_fill(~case.located[:, None], math.nan).cpu())

    def _levels(self, maps: Tensor, flawed: Mapping[str, Tensor]) -> Tensor:
        """[n, pixels] int64 of maps [n, height, width]: how many thresholds, but for the first, each pixel reaches."""
        if self.smooth != "none":  # a map that is the same everywhere stays so to the last bit
            maps = maps.masked_fill(torch.stack([*flawed.values()]).any(dim=0)[:, None, None], 0.0)
            for row, values in enumerate(maps.cpu().numpy()):
                maps[row] = torch.from_numpy(smoothed(values, self.smooth))
        flat = maps.flatten(1)
        low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
        return ((flat - low) / (high - low) * self.levels).nan_to_num().long().clamp(0, self.levels - 1)

    def settle(self, parts: Tensor) -> Measured:
        """The values of all examples.

        parts: [n, 2 + 2 levels]: a draw, whether the answer is right, how many pixels of the thing, and of all, have
        each level; NaN of an example without evidence.
        """
        known = ~parts[:, 0].isnan()
        inside, every, overlaps = _counted(parts)
        area, total = inside[:, -1:], every[:, -1:]
        columns = _columns(parts, overlaps)
        chosen = overlaps.gather(1, columns.clamp_min(0)[:, None])[:, 0].masked_fill(columns < 0, math.nan)
        hit = torch.where(chosen.isnan(), math.nan, (chosen >= self.iou).double())
        precision = torch.full_like(chosen, math.nan)
        if known.any():
            precision[known] = _precision(inside[known], every[known])
        values = {
            "": chosen, "top1": hit * parts[:, 1], "pxap": precision,
            "whole_picture": torch.where(chosen.isnan(), math.nan, (area / total)[:, 0]),
        }  # fmt: skip
        return Measured(value=values, undefined={ALONE: known & chosen.isnan()}, parts=parts)

    def mask_of(self, parts: Tensor, row: int, values: Tensor) -> list[bool] | None:
        """The strong pixels by which `settle` judges a row, line by line; None where there is no threshold.

        parts: of all rows, see `settle`. values: the row's map [1, c, height, width].
        """
        column = int(_columns(parts, _counted(parts)[2])[row])
        if column < 0:
            return None
        level = self._levels(*merged(values, self.channels))[0]
        return ((level >= column) & bool(level.any())).tolist()

    def resampled(self, parts: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """The means of all values, [b] each, with thresholds chosen on the resampled other half.

        counts: [b, n], how often each example was drawn; it stays in its half. Where none of the other half was drawn,
        the threshold is that of all.
        """
        known, halves = ~parts[:, 0].isnan(), halves_of(parts[:, 0], "half")
        inside, every, overlaps = (each[known] for each in _counted(parts))
        counts, right, areas = counts[:, known], parts[known, 1], inside[:, -1] / every[:, -1]
        sums, drawn = torch.zeros(3, len(counts)).double(), torch.zeros(len(counts)).double()
        for choosing, judged in halves:
            if not choosing.any():
                continue
            own, weight = counts * choosing[known], counts * judged[known]
            own = own.where(own.any(dim=1, keepdim=True), choosing[known].double())
            chosen = overlaps.T[(own @ overlaps).round(decimals=9).argmax(dim=1)]
            sums = sums + torch.stack(
                [(weight * each).sum(dim=1) for each in (chosen, (chosen >= self.iou) * right, areas)]
            )
            drawn = drawn + weight.sum(dim=1)
        hits, taken = counts @ inside, counts @ every
        steps = torch.diff(hits, dim=1, prepend=torch.zeros(len(hits), 1, dtype=hits.dtype))
        precision = (hits / taken.clamp_min(1) * steps).sum(dim=1) / hits[:, -1]
        return {"": sums[0] / drawn, "top1": sums[1] / drawn, "pxap": precision, "whole_picture": sums[2] / drawn}

    def paired(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """What each example adds to the difference of two maps' pxap, [n], to the first order.

        first, second: parts of the same examples. Taken where every example has half the pixels of either map, it
        changes its sign with the two maps of an example, and is 0 where these are equal.
        """
        known = ~(first[:, 0] + second[:, 0]).isnan()
        pair = [_counted(parts[known])[:2] for parts in (first, second)]
        inside, every = ((before + after) / 2 for before, after in zip(*pair, strict=True))
        adds = torch.full((len(known),), math.nan, dtype=first.dtype)
        if known.any():
            adds[known] = torch.sub(*(_precision(*counts, inside, every) for counts in pair))
        return {"pxap": adds}


def _counted(parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of the thing and of all that are at least each threshold, from the highest one down, and IoUs from the
    lowest one up: [n, levels] each.
    """
    inside, every = (each.flip(1).cumsum(dim=1) for each in parts[:, _BEFORE:].chunk(2, dim=1))
    overlaps = (inside / (inside[:, -1:] + every - inside)).flip(1)
    constant = (every[:, :-1] == 0).all(dim=1)  # all pixels are at the lowest level
    return inside, every, torch.where(constant[:, None], 0.0, overlaps)


def _columns(parts: Tensor, overlaps: Tensor) -> Tensor:
    """[n] int64: the threshold chosen for each example on the other half, -1 where there is nothing to choose on."""
    columns = torch.full((len(parts),), -1)
    for choosing, judged in halves_of(parts[:, 0], "half"):
        if choosing.any():
            columns[judged] = overlaps[choosing].sum(dim=0).round(decimals=9).argmax()
    return columns


def _precision(
    inside: Tensor, every: Tensor, all_inside: Tensor | None = None, all_every: Tensor | None = None
) -> Tensor:
    """[n] whose mean is the average precision of all pixels together, and whose spread is that of the figure.

    inside, every: [n, levels], pixels of the thing, and all, of at least a threshold, from the highest one down. Each
    example has the figure and n times its influence on it: the derivative by the example's weight (Hampel 1974).
    all_inside, all_every: likewise, of the examples whose figure it is, and at which the derivative is; else the same.
    """
    hits = (inside if all_inside is None else all_inside).sum(dim=0)
    taken, things = (every if all_every is None else all_every).sum(dim=0), hits[-1]
    precision = hits / taken.clamp_min(1)
    steps, own = (torch.diff(each, dim=-1, prepend=torch.zeros_like(each[..., :1])) for each in (hits, inside))
    figure = (precision * steps).sum() / things
    through = (own * precision + steps * (inside - precision * every) / taken.clamp_min(1)).sum(dim=1)
    return figure + len(inside) * (through - figure * inside[:, -1]) / things
